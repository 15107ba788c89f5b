// A picture from C on a computer: opens a model file, says what the tier needs before anything runs, and makes the
// picture in exactly that memory, row by row into a PPM file.
//
//   generate MODEL TIER CLASS SEED OUT.ppm

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crc32.h"
#include "varmint.h"

static void *must(void *p, const char *what) {
    if (!p) {
        perror(what);
        exit(2);
    }
    return p;
}

static void check(varmint_status status, const char *what) {
    if (status != VARMINT_STATUS_OK) {
        fprintf(stderr, "%s: E%d: %s\n", what, (int)status, varmint_message(status));
        exit(2);
    }
}

// C11 wants a size that is a multiple of the alignment.
static void *aligned(size_t align, size_t bytes) {
    return must(aligned_alloc(align, (bytes + align - 1) / align * align), "memory");
}

static uint8_t *read_file(const char *path, size_t *bytes) {
    FILE *file = must(fopen(path, "rb"), path);
    fseek(file, 0, SEEK_END);
    long length = ftell(file);
    rewind(file);
    if (length <= 0) {
        fprintf(stderr, "%s: empty\n", path);
        exit(2);
    }
    uint8_t *data = aligned(VARMINT_MODEL_ALIGN, (size_t)length);
    if (fread(data, 1, (size_t)length, file) != (size_t)length) {
        perror(path);
        exit(2);
    }
    fclose(file);
    *bytes = (size_t)length;
    return data;
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: %s MODEL TIER CLASS SEED OUT.ppm\n", argv[0]);
        return 2;
    }
    size_t model_bytes;
    uint8_t *model = read_file(argv[1], &model_bytes);

    size_t generator_bytes = varmint_generator_size();
    void *memory = aligned(varmint_generator_align(), generator_bytes);
    varmint_generator *g;
    check(varmint_open(memory, generator_bytes, model, model_bytes, &g), argv[1]);

    varmint_tier tier;
    for (size_t i = 0; varmint_tier_at(g, i, &tier) == VARMINT_STATUS_OK; i++)
        printf("tier %-8s %" PRIu32 "x%" PRIu32 ", arena %zu bytes, %" PRIu64 " MMAC\n", tier.name, tier.width,
               tier.height, tier.arena_bytes, tier.image_macs / 1000000);

    size_t index;
    check(varmint_find_tier(g, argv[2], &index), argv[2]);
    check(varmint_tier_at(g, index, &tier), argv[2]);
    varmint_request request;
    check(varmint_request_default(g, &request), "request");
    check(varmint_find_label(g, 0, argv[3], &request.labels[0]), argv[3]);
    request.seed = strtoull(argv[4], NULL, 10);

    uint8_t *arena = aligned(VARMINT_ARENA_ALIGN, tier.arena_bytes);
    check(varmint_start(g, index, arena, tier.arena_bytes, &request), "start");

    FILE *out = must(fopen(argv[5], "wb"), argv[5]);
    fprintf(out, "P6\n%" PRIu32 " %" PRIu32 "\n255\n", tier.width, tier.height);
    uint32_t crc = 0;
    varmint_event event;
    do {
        check(varmint_step(g, &event), "step");
        if (event.kind == VARMINT_EVENT_KIND_ROWS) {
            size_t bytes = (size_t)event.width * event.height * 3;
            crc = crc32(crc, event.rgb, bytes);
            fwrite(event.rgb, 1, bytes, out);
        }
    } while (event.kind != VARMINT_EVENT_KIND_DONE);
    if (fclose(out) != 0) {
        perror(argv[5]);
        return 2;
    }
    printf("generator %zu bytes, arena %zu bytes\n", generator_bytes, tier.arena_bytes);
    printf("checksum c-host 0x%08" PRIx32 "\n", crc);
    return 0;
}
