/* libmossnet: runs a compiled MossNet (model.moss) where no Python is.
 *
 *   mossnet_model *model; mossnet_session *session; const float *logits; mossnet_error error;
 *   mossnet_options options = {.flags = MOSSNET_ALLOW_NATIVE};
 *   mossnet_model_load("model.moss", &options, &model, &error);
 *   mossnet_session_new(model, 0, &session, &error);
 *   mossnet_model_encode(model, text, bytes, ids, capacity, &n_ids, &error);
 *   mossnet_session_prefill(session, ids, n_ids, &logits, &error);
 *   while (...) { mossnet_sampler_pick(sampler, logits, n_vocab, &id, &error);
 *                 mossnet_decoder_push(decoder, id, &piece, &piece_bytes, &error);
 *                 mossnet_session_decode(session, id, &logits, &error); }
 *
 * Rules that hold everywhere:
 *  - A call that can fail returns a status; the last argument, which may be NULL, receives the status and a text that
 * says what was found and what was expected. A call that fails before it runs anything changes nothing.
 *  - A model is read-only after it is loaded: any number of threads may use it at once, each through a session of its
 * own. One session, sampler or decoder belongs to one thread at a time: a second thread's call of a session meanwhile
 * is refused. A model that is freed before its sessions and decoders goes with the last of them.
 *  - The library keeps no global state, prints nothing and never ends the process. Every `_free` accepts NULL.
 *  - A model file that is cut short while it is in use ends the process with SIGBUS, as for every mapped file: replace
 * a model by renaming a new file over it.
 */
#ifndef MOSSNET_H
#define MOSSNET_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MOSSNET_API __attribute__((visibility("default")))
#else
#define MOSSNET_API
#endif

/* Raised with every incompatible change of this header. */
#define MOSSNET_ABI_VERSION 2

/* Values are never renumbered. */
typedef enum mossnet_status {
    MOSSNET_OK = 0,
    MOSSNET_ARGUMENT = 1,    /* an argument is wrong: a token id outside the vocabulary, a buffer that is too small */
    MOSSNET_MEMORY = 2,      /* the system gave no memory or no thread */
    MOSSNET_IO = 3,          /* the file could not be opened or mapped */
    MOSSNET_FORMAT = 4,      /* the file is no valid model */
    MOSSNET_UNSUPPORTED = 5, /* the model is valid, but not for this machine or this build of the library */
    MOSSNET_CONSENT = 6,     /* the code would run on the processor and MOSSNET_ALLOW_NATIVE was not given */
    MOSSNET_STATE = 7,       /* a saved state does not fit this model or is damaged */
    MOSSNET_CONTEXT = 8,     /* the tokens do not fit into max_context any more */
    MOSSNET_DEVICE = 9,      /* there is no such device, or it failed */
    MOSSNET_CANCELLED = 10   /* mossnet_session_cancel ended the call */
} mossnet_status;

typedef struct mossnet_error {
    mossnet_status status;
    char text[480]; /* UTF-8, ends with NUL; "" after success */
} mossnet_error;

typedef struct mossnet_model mossnet_model;
typedef struct mossnet_session mossnet_session;
typedef struct mossnet_sampler mossnet_sampler;
typedef struct mossnet_decoder mossnet_decoder;

/* "0.1.0" */
MOSSNET_API const char *mossnet_version(void);
/* MOSSNET_ABI_VERSION of the library that is loaded. */
MOSSNET_API uint32_t mossnet_abi_version(void);
/* "FORMAT" for MOSSNET_FORMAT; "UNKNOWN" for a value that is none. */
MOSSNET_API const char *mossnet_status_name(mossnet_status status);

/* ---- Model ---- */

/* Flag: the caller trusts the file's code as it trusts a program. Without it a model runs on GPUs only: the code of any
 * other runs in this process, also through a GPU's driver where that computes on the processor. */
#define MOSSNET_ALLOW_NATIVE 1u

/* Start from zeros: what is 0 or NULL takes the default. */
typedef struct mossnet_options {
    uint32_t flags;
    uint32_t timeout_ms;   /* GPUs: how long a run may take before the device counts as lost; 0: 30000 */
    const char *device;    /* GPUs: a part of the device's name, in any case; NULL: the first of the best kind */
    const char *cache_dir; /* GPUs: the folder where built programs are kept; NULL: they are not */
    const char *driver; /* of a file with several variants, those for this one only ("cpu", "opencl", ...); NULL: all */
    uint64_t reserved[3];
} mossnet_options;

/* The entries of a model; what they are for is in docs/format.md. */
typedef enum mossnet_entry { MOSSNET_DECODE = 0, MOSSNET_PREFILL = 1, MOSSNET_SCORE = 2 } mossnet_entry;
#define MOSSNET_ENTRY_KINDS 3

typedef struct mossnet_info {
    uint32_t vocab_size;
    uint32_t chunk;                        /* tokens that one prefill run takes */
    uint32_t max_context;                  /* 0: no limit */
    uint32_t n_steps[MOSSNET_ENTRY_KINDS]; /* 0 for an entry that the model does not have */
    uint32_t n_buffers;
    uint32_t reserved;
    uint64_t file_bytes;
    uint64_t weights_bytes; /* mapped once, shared by all sessions */
    uint64_t code_bytes;
    uint64_t state_bytes; /* the three parts of a session's memory */
    uint64_t arena_bytes;
    uint64_t io_bytes;
    uint64_t session_bytes; /* their sum; pages that are never touched cost nothing */
    uint8_t model_hash[32];
} mossnet_info;

/* Maps and checks the file, opens its device and loads its code. Of several variants the first that runs here is taken;
 * mossnet_model_device says which, and why not the ones before it. `options` may be NULL. `*out` is NULL after a
 * failure. */
MOSSNET_API mossnet_status mossnet_model_load(const char *path, const mossnet_options *options, mossnet_model **out,
                                              mossnet_error *error);
MOSSNET_API void mossnet_model_free(mossnet_model *model);
MOSSNET_API void mossnet_model_info(const mossnet_model *model, mossnet_info *info);
/* The value of a META key ("target", "config", ...); NULL when the file does not have it. Lives as long as the model.
 */
MOSSNET_API const char *mossnet_model_meta(const mossnet_model *model, const char *key);
/* The tokenizer.json inside the file, not NUL-terminated; NULL and 0 bytes when there is none. Lives as long as the
 * model. */
MOSSNET_API const char *mossnet_model_tokenizer(const mossnet_model *model, size_t *bytes);
/* Describes the device in use, as mossnet_devices does; GPUs add what loading took: build_s, n_built, n_cached,
 * upload_s; files with several variants add variant, n_variants and passed_over, the ones before it and why. */
MOSSNET_API size_t mossnet_model_device(const mossnet_model *model, char *out, size_t capacity);
/* Bytes read and written per second when the device copies a buffer of `bytes`, the best of `reps`; on a cpu, bytes
 * read per second by all its threads. */
MOSSNET_API mossnet_status mossnet_model_bandwidth(mossnet_model *model, uint64_t bytes, uint32_t reps,
                                                   double *bytes_per_s, mossnet_error *error);

/* ---- Text: what the tokenizer of the file does, if it has TEXT (docs/format.md); without it UNSUPPORTED ---- */

/* The ids of a text of at most 2^30 bytes, with those that the tokenizer puts around one. `*n` receives how many there
 * are, at most `capacity` are written: ARGUMENT when that is fewer and not 0. Bytes that are no UTF-8 count as U+FFFD,
 * one for each part that could begin a character. Any number of threads may encode at once. */
MOSSNET_API mossnet_status mossnet_model_encode(const mossnet_model *model, const char *text, size_t bytes,
                                                int32_t *ids, size_t capacity, size_t *n, mossnet_error *error);

/* Decodes one text id by id, on one thread at a time; the model stays as long as it. */
MOSSNET_API mossnet_status mossnet_decoder_new(mossnet_model *model, mossnet_decoder **out, mossnet_error *error);
MOSSNET_API void mossnet_decoder_free(mossnet_decoder *decoder);
/* The text that `id` completes: whole characters, perhaps none, with a NUL behind them, valid until the next call. An
 * id without a token gives nothing, bytes that are no UTF-8 give U+FFFD. */
MOSSNET_API mossnet_status mossnet_decoder_push(mossnet_decoder *decoder, int32_t id, const char **text, size_t *bytes,
                                                mossnet_error *error);
/* What was held back, U+FFFD for an unfinished character; the decoder begins anew. */
MOSSNET_API mossnet_status mossnet_decoder_flush(mossnet_decoder *decoder, const char **text, size_t *bytes,
                                                 mossnet_error *error);

/* ---- Session: one text being read and continued ---- */

/* The memory that a session of the model will take, but for its threads' stacks; the same however long its text grows.
 * Pages that are never touched cost nothing. */
MOSSNET_API uint64_t mossnet_session_bytes(const mossnet_model *model);
/* `n_threads` 0: as many as CPUs are allowed to this process (mossnet_cpu_count). The session starts at position 0. */
MOSSNET_API mossnet_status mossnet_session_new(mossnet_model *model, uint32_t n_threads, mossnet_session **out,
                                               mossnet_error *error);
MOSSNET_API void mossnet_session_free(mossnet_session *session);
/* Back to position 0. */
MOSSNET_API void mossnet_session_reset(mossnet_session *session);
/* A second session that continues from the same state, with as many threads. */
MOSSNET_API mossnet_status mossnet_session_fork(const mossnet_session *session, mossnet_session **out,
                                                mossnet_error *error);

/* Reads n >= 1 tokens. `*logits` (may be asked for with NULL to skip) points at vocab_size floats for the token after
 * the last one, valid until the session's next call. Whole chunks go through the prefill entry; one left-over token
 * goes through decode, more go padded through prefill. */
MOSSNET_API mossnet_status mossnet_session_prefill(mossnet_session *session, const int32_t *ids, size_t n,
                                                   const float **logits, mossnet_error *error);
/* Reads one token. `*logits` as for prefill. */
MOSSNET_API mossnet_status mossnet_session_decode(mossnet_session *session, int32_t id, const float **logits,
                                                  mossnet_error *error);
/* Reads n >= 1 tokens and writes the logits after each of them to out[n][vocab_size]; the state moves on as in prefill.
 * A model without a score entry is stepped through decode: the same result, slower. */
MOSSNET_API mossnet_status mossnet_session_score(mossnet_session *session, const int32_t *ids, size_t n, float *out,
                                                 mossnet_error *error);
/* Ends the call that another thread is in, or else the session's next one: it returns CANCELLED, between two runs of
 * the model, and has read the tokens that mossnet_session_position says. The only function to call while another is
 * running. */
MOSSNET_API void mossnet_session_cancel(mossnet_session *session);
/* How many tokens the session has read. */
MOSSNET_API uint64_t mossnet_session_position(const mossnet_session *session);
MOSSNET_API uint32_t mossnet_session_threads(const mossnet_session *session);

/* Bytes that mossnet_session_save writes. */
MOSSNET_API size_t mossnet_session_state_bytes(const mossnet_session *session);
/* Writes the state and the position; `*used` receives the bytes written. */
MOSSNET_API mossnet_status mossnet_session_save(const mossnet_session *session, void *buffer, size_t capacity,
                                                size_t *used, mossnet_error *error);
/* Continues from a state that a session of the same model saved. Anything else is refused and changes nothing. */
MOSSNET_API mossnet_status mossnet_session_restore(mossnet_session *session, const void *buffer, size_t bytes,
                                                   mossnet_error *error);

/* ---- Looking inside: tests, `mossnet-tg doctor` and profiling ---- */

/* Runs steps first_step .. first_step + n_steps - 1 of an entry on the buffers as they stand. The position stays. */
MOSSNET_API mossnet_status mossnet_session_run(mossnet_session *session, mossnet_entry entry, uint32_t first_step,
                                               uint32_t n_steps, mossnet_error *error);
/* Copies the first `bytes` of a buffer of the file's BUFFER table; weights can be read, but not written. */
MOSSNET_API mossnet_status mossnet_session_read(const mossnet_session *session, uint32_t buffer, void *out,
                                                size_t bytes, mossnet_error *error);
MOSSNET_API mossnet_status mossnet_session_write(mossnet_session *session, uint32_t buffer, const void *in,
                                                 size_t bytes, mossnet_error *error);
/* Median seconds of each step of an entry over `reps` runs at position 0, each on a full entry of other ids; step_s has
 * n_steps[entry] elements. Resets the session before and after. */
MOSSNET_API mossnet_status mossnet_session_profile(mossnet_session *session, mossnet_entry entry, uint32_t reps,
                                                   double *step_s, mossnet_error *error);

/* ---- Sampler ---- */

/* Filters apply in this order, each to what the one before left: repetition penalty, top_k, top_p, min_p, temperature.
 */
typedef struct mossnet_sampling {
    float temperature;          /* 0: the likeliest token, the lowest id of equals */
    float top_p;                /* the fewest likeliest tokens that together have this probability; 1: off */
    float min_p;                /* tokens at least this likely relative to the likeliest; 0: off */
    float repetition_penalty;   /* logits of recent tokens: positive ones are divided, others multiplied; 1: off */
    uint32_t top_k;             /* the k likeliest tokens; 0: off */
    uint32_t repetition_window; /* how many accepted tokens are recent, at most 2^20; 0: none */
    uint64_t seed;              /* the same seed, logits and calls give the same tokens on every machine */
} mossnet_sampling;

MOSSNET_API mossnet_status mossnet_sampler_new(const mossnet_sampling *sampling, mossnet_sampler **out,
                                               mossnet_error *error);
MOSSNET_API void mossnet_sampler_free(mossnet_sampler *sampler);
/* Adds a token to the history that the repetition penalty looks at. */
MOSSNET_API void mossnet_sampler_accept(mossnet_sampler *sampler, int32_t id);
/* Picks one of n tokens; the logits stay as they are. Logits that hold NaN or +infinity, or nothing but -infinity, are
 * refused. Does not accept the token. */
MOSSNET_API mossnet_status mossnet_sampler_pick(mossnet_sampler *sampler, const float *logits, size_t n, int32_t *id,
                                                mossnet_error *error);

/* ---- Generation: a text in, its continuation out ---- */

/* How a continuation came to its end: the model ended the text, max_tokens were made, on_text said so. */
typedef enum mossnet_ending { MOSSNET_ENDED = 0, MOSSNET_LENGTH = 1, MOSSNET_STOPPED = 2 } mossnet_ending;

/* Start from zeros: what is 0 or NULL takes the default. */
typedef struct mossnet_generation {
    uint64_t max_tokens;      /* 0: until the model ends the text, or its context is full */
    mossnet_sampler *sampler; /* NULL: the likeliest token each time */
    /* Gets each token as it is made, and the text that it completes: whole UTF-8 characters with a NUL behind them,
     * perhaps none, valid during the call. What is left at the end comes with the id -1. Anything but 0 stops. */
    int (*on_text)(void *context, const char *text, size_t bytes, int32_t id);
    void *context;
    uint64_t reserved[4];
} mossnet_generation;

typedef struct mossnet_generated {
    uint64_t n_prompt; /* tokens of the prompt that were read */
    uint64_t n_tokens; /* tokens that were made */
    mossnet_ending ending;
    uint32_t reserved;
} mossnet_generated;

/* Reads `bytes` of text and continues it, in the calling thread. The session has read then what on_text has seen;
 * another call goes on behind it. An empty prompt begins a text. `wanted` and `result` may be NULL; the result holds
 * what was done also after a failure. Of models that have a compiled tokenizer (see mossnet_model_encode). */
MOSSNET_API mossnet_status mossnet_session_generate(mossnet_session *session, const char *prompt, size_t bytes,
                                                    const mossnet_generation *wanted, mossnet_generated *result,
                                                    mossnet_error *error);

/* ---- Machine ---- */

/* Writes what there is to run models on through a driver ("cpu", "opencl", "vulkan", "cuda") to `out`, cut to
 * `capacity` bytes with the NUL: lines `key=value`, each device beginning with its `name`. GPUs have type, vendor,
 * driver, api, memory_bytes, max_buffer_bytes, local_bytes, max_block and features too. `*needed` receives the bytes
 * that the whole text needs. Without a driver or a device: DEVICE, and the text says what was looked for. */
MOSSNET_API mossnet_status mossnet_devices(const char *driver, char *out, size_t capacity, size_t *needed,
                                           mossnet_error *error);

/* "x86_64" or "aarch64" */
MOSSNET_API const char *mossnet_cpu_arch(void);
/* Writes the comma separated names (LLVM's) of what this CPU and its system have to `out`, cut to `capacity` bytes with
 * the NUL; returns the bytes that the whole list needs. 1024 are enough. */
MOSSNET_API size_t mossnet_cpu_features(char *out, size_t capacity);
/* The CPUs that this process may run on. */
MOSSNET_API uint32_t mossnet_cpu_count(void);
/* Bytes per second at which n_threads (0: all) read a buffer of `bytes` from memory, the best of `reps` passes. */
MOSSNET_API mossnet_status mossnet_read_bandwidth(size_t bytes, uint32_t n_threads, uint32_t reps, double *bytes_per_s,
                                                  mossnet_error *error);

#ifdef __cplusplus
}
#endif

#endif
