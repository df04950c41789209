/* model.moss, checked and decoded (docs/format.md). What mn_file_parse accepts is never checked again: every index,
 * range and string reference in these records holds. The records are copies, so a file that changes later cannot change
 * them. */
#ifndef MN_FILE_H
#define MN_FILE_H

#include "text_program.h"

enum { MN_WEIGHTS, MN_STATE, MN_ARENA, MN_IO, MN_REGIONS };
enum { MN_F32, MN_F16, MN_BF16, MN_I32, MN_I8, MN_U8, MN_BOOL, MN_Q8, MN_Q4, MN_DTYPES };
enum { MN_ACCESS_READ = 1, MN_ACCESS_WRITTEN = 2 };
enum { MN_STEP_SMALL = 1 };
enum { MN_MAX_PARAMS = 24, MN_MAX_VARIANTS = 6 };

typedef struct mn_span { /* a part of the file */
    uint64_t offset, bytes;
} mn_span;

typedef struct mn_buffer {
    uint32_t region, name, dtype;
    uint64_t offset, bytes;
} mn_buffer;

typedef struct mn_kernel {
    uint32_t name, first_param, n_params;
    mn_span code; /* inside CODE */
    uint32_t block[3], local_bytes;
} mn_kernel;

typedef struct mn_param {
    uint64_t bytes;
    uint32_t access;
} mn_param;

typedef struct mn_step {
    uint32_t kernel, first_arg, n_args, label, grid[3], flags;
} mn_step;

typedef struct mn_entry {
    uint32_t name, kind, first_step, n_steps, n_tokens, n_logits;
    uint32_t ids, params, logits; /* buffers */
} mn_entry;

typedef struct mn_meta {
    uint32_t key, value;
} mn_meta;

typedef struct mn_file {
    uint8_t model_hash[32];
    uint32_t n_variants; /* in the file */
    uint32_t vocab_size, chunk, max_context, n_params;
    uint64_t region_bytes[MN_REGIONS];
    mn_span code, weights, tokenizer; /* inside the file */
    char *strings;
    uint32_t n_strings_bytes, n_meta, n_buffers, n_kernels, n_params_all, n_steps, n_args, n_entries;
    mn_meta *meta;
    mn_buffer *buffers;
    mn_kernel *kernels;
    mn_param *params;
    mn_step *steps;
    uint32_t *args;
    mn_entry *entries;
    const mn_entry *entry[MOSSNET_ENTRY_KINDS]; /* by kind; only score may be NULL */
    mn_text_program *text;                      /* NULL when the file has no TEXT */
} mn_file;

/* Checks the `bytes` of a file at `data`, all of its variants, and fills `file` with one (0: the first); after a
 * failure there is nothing to free. */
mossnet_status mn_file_parse(const void *data, uint64_t bytes, uint32_t variant, mn_file *file, mossnet_error *error);
/* Whether the sections of a file that mn_file_parse accepted are what was written, all but the weights: a damaged
 * weight makes a wrong number, damaged code could do anything. */
mossnet_status mn_file_check_sums(const void *data, mossnet_error *error);
void mn_file_free(mn_file *file);
/* NULL when the key is not there. */
const char *mn_file_meta(const mn_file *file, const char *key);

#endif
