#ifndef VARMINT_H
#define VARMINT_H

#include <stddef.h>
#include <stdint.h>

// Condition tables that a request has room for.
#define VARMINT_TABLES 4

// In place of a row: this condition is not given.
#define VARMINT_NOT_GIVEN 4294967295

// Alignment of a model's first byte.
#define VARMINT_MODEL_ALIGN 64

// Alignment of an arena's first byte.
#define VARMINT_ARENA_ALIGN 16

// What a function says: 0 or an error. 1xx: the model file; 2xx: the request; 3xx: memory; 4xx: the kernels; 5xx: the call.
enum varmint_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // It is done.
    VARMINT_STATUS_OK = 0,
    // The file is cut short.
    VARMINT_STATUS_FILE_TRUNCATED = 101,
    // Not a .vmt model file.
    VARMINT_STATUS_FILE_MAGIC = 102,
    // A .vmt version that this build does not read.
    VARMINT_STATUS_FILE_VERSION = 103,
    // The model does not start at a multiple of 64 bytes.
    VARMINT_STATUS_FILE_MISALIGNED = 104,
    // There are bytes after the end of the model.
    VARMINT_STATUS_FILE_TRAILING = 105,
    // The checksum does not match: the file is damaged.
    VARMINT_STATUS_FILE_CHECKSUM = 106,
    // A section is missing, repeated, out of order or leaves a hole.
    VARMINT_STATUS_FILE_SECTION = 107,
    // A number in the configuration is out of range.
    VARMINT_STATUS_FILE_CONFIG = 108,
    // The scale schedule is not valid.
    VARMINT_STATUS_FILE_SCHEDULE = 109,
    // A tier is not valid.
    VARMINT_STATUS_FILE_TIER = 110,
    // A text is not valid.
    VARMINT_STATUS_FILE_TEXT = 111,
    // A tensor record disagrees with the configuration.
    VARMINT_STATUS_FILE_TENSOR = 112,
    // A quantization scale is not valid.
    VARMINT_STATUS_FILE_SCALE = 113,
    // A weight is not valid.
    VARMINT_STATUS_FILE_WEIGHT = 114,
    // The model has no such tier.
    VARMINT_STATUS_UNKNOWN_TIER = 201,
    // The model has no such condition table, or the table no such row.
    VARMINT_STATUS_UNKNOWN_LABEL = 202,
    // Guidance, temperature or top-p is out of range.
    VARMINT_STATUS_BAD_SAMPLING = 203,
    // Forced tokens are not valid.
    VARMINT_STATUS_BAD_TOKENS = 204,
    // This build cannot run that tier.
    VARMINT_STATUS_UNSUPPORTED = 205,
    // No tier does its work in what is allowed.
    VARMINT_STATUS_TOO_MUCH_WORK = 206,
    // The image cannot go on in that tier.
    VARMINT_STATUS_NOT_LOWER = 207,
    // The arena is smaller than the tier's `arena_bytes`, or no tier fits.
    VARMINT_STATUS_ARENA_TOO_SMALL = 301,
    // The arena does not start at a multiple of 16 bytes.
    VARMINT_STATUS_ARENA_MISALIGNED = 302,
    // The plan needs more than 4 GiB.
    VARMINT_STATUS_PLAN_TOO_LARGE = 303,
    // Two buffers of the plan overlap: a defect of varmint.
    VARMINT_STATUS_PLAN_OVERLAP = 304,
    // Plan and model do not belong together: a defect of varmint.
    VARMINT_STATUS_PLAN_MISMATCH = 305,
    // The kernels failed.
    VARMINT_STATUS_BACKEND = 401,
    // A pointer is null.
    VARMINT_STATUS_NULL_POINTER = 501,
    // A pointer is not aligned for what it points to.
    VARMINT_STATUS_MISALIGNED_POINTER = 502,
    // The memory is smaller than `varmint_generator_size()`.
    VARMINT_STATUS_MEMORY_TOO_SMALL = 503,
    // The memory for previews is smaller than the tier's `preview_width * preview_height * 3`.
    VARMINT_STATUS_PREVIEW_TOO_SMALL = 504,
    // Generator, model, arena and previews share bytes, or one reaches past the end of memory.
    VARMINT_STATUS_MEMORY_OVERLAP = 505,
    // No image has been started, or the last start failed.
    VARMINT_STATUS_NOT_STARTED = 506,
    // An error that this interface has no number for.
    VARMINT_STATUS_OTHER = 599,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum varmint_status varmint_status;
#else
typedef int32_t varmint_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What a step brought.
enum varmint_event_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Nothing to show yet.
    VARMINT_EVENT_KIND_WORKING = 0,
    // A scale is finished; `rgb` is its preview, if one was asked for.
    VARMINT_EVENT_KIND_SCALE = 1,
    // Rows of the image are finished: `rgb`.
    VARMINT_EVENT_KIND_ROWS = 2,
    // The image is complete.
    VARMINT_EVENT_KIND_DONE = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum varmint_event_kind varmint_event_kind;
#else
typedef uint32_t varmint_event_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// An open model and the image that it makes.
typedef struct varmint_generator varmint_generator;

// A tier of a model, and what an image in it costs.
typedef struct varmint_tier {
    // Multiply-accumulates of the largest step.
    uint64_t step_macs;
    // Multiply-accumulates of an image.
    uint64_t image_macs;
    // Bytes that the arena must have: all the RAM of a run but the stack and the generator itself.
    size_t arena_bytes;
    // Pixels per row of the image.
    uint32_t width;
    // Rows of the image.
    uint32_t height;
    // Pixels per row of a preview.
    uint32_t preview_width;
    // Rows of a preview.
    uint32_t preview_height;
    // Scales that an image is drawn in.
    uint32_t scales;
    // The name, ended with a zero.
    char name[20];
} varmint_tier;

// A text inside the model. It is UTF-8 and does not end with a zero.
typedef struct varmint_text {
    // Its bytes; null where the model has none.
    const uint8_t *bytes;
    // How many.
    size_t len;
} varmint_text;

// What to make. `varmint_request_default` fills it in.
typedef struct varmint_request {
    // Seed of every draw: the same seed gives the same picture on every machine.
    uint64_t seed;
    // A row of each condition table (0: class, 1: style), or VARMINT_NOT_GIVEN.
    uint32_t labels[VARMINT_TABLES];
    // Strength of classifier-free guidance.
    float guidance;
    // Logits are divided by this; above 0.
    float temperature;
    // Keep the likeliest tokens up to this mass; 0 or 1: all.
    float top_p;
    // Keep so many of the likeliest tokens; 0: all, 1: greedy.
    uint32_t top_k;
    // Where a small picture of every finished scale goes (RGB, row by row); null: none is made.
    uint8_t *preview;
    // Bytes at `preview`.
    size_t preview_bytes;
} varmint_request;

// The result of a step.
typedef struct varmint_event {
    // Multiply-accumulates done: close to linear in time.
    uint64_t done;
    // Multiply-accumulates of the image.
    uint64_t total;
    // Pixels, RGB, `height` rows of `width`, or null. They stay until the next call with the generator.
    const uint8_t *rgb;
    // What it brought.
    varmint_event_kind kind;
    // The scale that is finished.
    uint32_t scale;
    // The first row of `rgb` in the image.
    uint32_t y;
    // Pixels per row of `rgb`.
    uint32_t width;
    // Rows of `rgb`.
    uint32_t height;
} varmint_event;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Bytes of a generator.
size_t varmint_generator_size(void);

// Alignment of a generator.
size_t varmint_generator_align(void);

// A sentence about a status; never null.
const char *varmint_message(int32_t status);

// Opens a model: checks all of it once, in time linear in its length. The model is read in place, from flash if it lies there.
//
// `memory`: `varmint_generator_size()` bytes at a multiple of `varmint_generator_align()`. `model`: the bytes of a .vmt file,
// at a multiple of 64. Both stay where and as they are while the generator is in use. `*generator` is null after an error.
//
// # Safety
// The memory is the caller's, to be read and (but the model) written, and stays as long as the generator is used.
varmint_status varmint_open(void *memory,
                            size_t memory_bytes,
                            const uint8_t *model,
                            size_t model_bytes,
                            struct varmint_generator **generator);

// Tier `index` of the model, best first, and what an image in it needs. VARMINT_STATUS_UNKNOWN_TIER past the last one.
//
// # Safety
// `generator` is open; `tier` can be written.
varmint_status varmint_tier_at(const struct varmint_generator *generator,
                               size_t index,
                               struct varmint_tier *tier);

// The index of the tier of that name.
//
// # Safety
// `generator` is open; `name` ends with a zero; `index` can be written.
varmint_status varmint_find_tier(const struct varmint_generator *generator,
                                 const char *name,
                                 size_t *index);

// The index of the best tier that fits: in so many bytes of arena, so much work per step and per image (UINT64_MAX: any).
//
// # Safety
// `generator` is open; `index` can be written.
varmint_status varmint_best_tier(const struct varmint_generator *generator,
                                 size_t arena_bytes,
                                 uint64_t step_macs,
                                 uint64_t image_macs,
                                 size_t *index);

// The name of row `row` of condition table `table` (0: class, 1: style); empty where the model does not name its rows.
// VARMINT_STATUS_UNKNOWN_LABEL past the last one.
//
// # Safety
// `generator` is open; `name` can be written.
varmint_status varmint_label_at(const struct varmint_generator *generator,
                                uint32_t table,
                                uint32_t row,
                                struct varmint_text *name);

// The row of condition table `table` (0: class, 1: style) of that name.
//
// # Safety
// `generator` is open; `name` ends with a zero; `row` can be written.
varmint_status varmint_find_label(const struct varmint_generator *generator,
                                  uint32_t table,
                                  const char *name,
                                  uint32_t *row);

// Seed 0, no condition, the model's own guidance and sampling, no previews.
//
// # Safety
// `generator` is open; `request` can be written.
varmint_status varmint_request_default(const struct varmint_generator *generator,
                                       struct varmint_request *request);

// Starts an image in tier `tier`. Legal at any time: the image before it, finished or not, is forgotten.
//
// `arena`: the tier's `arena_bytes` or more, at a multiple of 16; what lies beyond is never touched. Arena and previews are the
// generator's until the image is complete or another is started.
//
// # Safety
// `generator` is open; `request` can be read; arena and previews can be written and nobody else does.
varmint_status varmint_start(struct varmint_generator *generator,
                             size_t tier,
                             uint8_t *arena,
                             size_t arena_bytes,
                             const struct varmint_request *request);

// Does a bounded piece of work, at most the tier's `step_macs`, and says what it brought. After the last step it goes on saying
// VARMINT_EVENT_KIND_DONE.
//
// # Safety
// `generator` is open; `event` can be written; what was given to [`varmint_start`] is still there.
varmint_status varmint_step(struct varmint_generator *generator,
                            struct varmint_event *event);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VARMINT_H */
