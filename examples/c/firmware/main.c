// The same in firmware: the model in flash, the generator and the arena as static memory, no heap, no C library.
// Runs on QEMU's mps2-an386 (Cortex-M4F) and reports over semihosting.

#include "crc32.h"
#include "semihosting.h"
#include "varmint.h"

// model.S puts the file there.
extern const uint8_t model_start[], model_end[];

// What this firmware has for varmint. Both are checked when it starts: ARENA_BYTES is the tier's arena_bytes.
#define GENERATOR_BYTES 4096
#define ARENA_BYTES 211136
static uint8_t memory[GENERATOR_BYTES] __attribute__((aligned(16)));
static uint8_t arena[ARENA_BYTES] __attribute__((aligned(VARMINT_ARENA_ALIGN)));

static void check(varmint_status status, const char *what) {
    if (status != VARMINT_STATUS_OK) {
        print(what);
        print(": ");
        print(varmint_message(status));
        print("\n");
        leave(1);
    }
}

static void print_number(const char *name, uint32_t n) {
    char digits[12], *d = digits + sizeof digits;
    *--d = 0;
    *--d = '\n';
    do
        *--d = (char)('0' + n % 10);
    while (n /= 10);
    print(name);
    print(d);
}

static void print_checksum(uint32_t crc) {
    char line[] = "checksum c-cortex-m4 0x00000000\n";
    char *d = line + sizeof line - 2;
    for (int i = 0; i < 8; i++, crc >>= 4)
        *--d = "0123456789abcdef"[crc & 15];
    print(line);
}

int main(void) {
    varmint_generator *g;
    check(varmint_open(memory, sizeof memory, model_start, (size_t)(model_end - model_start), &g), "open");

    size_t index;
    varmint_tier tier;
    check(varmint_best_tier(g, sizeof arena, UINT64_MAX, UINT64_MAX, &index), "no tier fits");
    check(varmint_tier_at(g, index, &tier), "tier");
    print("tier ");
    print(tier.name);
    print_number("\ngenerator bytes ", (uint32_t)varmint_generator_size());
    print_number("arena bytes ", (uint32_t)tier.arena_bytes);
    if (tier.arena_bytes != sizeof arena) {
        print("the arena has another size than the tier asks for\n");
        return 1;
    }

    varmint_request request;
    check(varmint_request_default(g, &request), "request");
    check(varmint_find_label(g, 0, "red heart", &request.labels[0]), "label");
    request.seed = 1;
    check(varmint_start(g, index, arena, sizeof arena, &request), "start");

    uint32_t crc = 0, steps = 0;
    varmint_event event;
    do {
        // A bounded piece of work. A real firmware feeds its watchdog here and hands rows to the display.
        check(varmint_step(g, &event), "step");
        steps += event.kind != VARMINT_EVENT_KIND_DONE;
        if (event.kind == VARMINT_EVENT_KIND_ROWS)
            crc = crc32(crc, event.rgb, (size_t)event.width * event.height * 3);
    } while (event.kind != VARMINT_EVENT_KIND_DONE);
    print_number("steps ", steps);
    print_checksum(crc);
    return 0;
}
