/* What the runner can be asked for: the functions of mossnet.h, and storing files. */
#ifndef MN_REQUESTS_H
#define MN_REQUESTS_H

#include "frames.h"
#include "store.h"

/* X(name, in small letters, type, what the payload holds, what the answer does), where
 *   m, s, p: the u32 that LOAD, SESSION or FORK, SAMPLER gave; S: a session whose logits stay as they are
 *   u, q: u32, u64; t: a text; h: a SHA-256; b, i: the bytes or int32s that are left; f: float32s
 * and answers are said by the same letters, d for float64. The numbers are those of mossnet_tg/targets/frames.py. */
#define MN_REQUESTS(X)                                                                                                 \
    X(HELLO, hello, 1, "", "lines key=value")                                                                          \
    X(BYE, bye, 2, "", "")                                                                                             \
    X(DEVICES, devices, 3, "t driver", "lines, as mossnet_devices")                                                    \
    X(READ_BANDWIDTH, read_bandwidth, 4, "q bytes, u threads, u reps", "d")                                            \
    X(HAS, has, 5, "h, q bytes", "u 0 or 1")                                                                           \
    X(PUT, put, 6, "h, q bytes, q offset, b piece", "q bytes that are there")                                          \
    X(REMOVE, remove, 7, "h", "")                                                                                      \
    X(LOAD, load, 16, "u flags, u timeout_ms, t file, t device, t cache_dir, t driver", "u, mossnet_info")             \
    X(UNLOAD, unload, 17, "m", "")                                                                                     \
    X(META, meta, 18, "m, t key", "u 0 or 1, b value")                                                                 \
    X(TOKENIZER, tokenizer, 19, "m", "u 0 or 1, b")                                                                    \
    X(DEVICE, device, 20, "m", "lines, as mossnet_model_device")                                                       \
    X(BANDWIDTH, bandwidth, 21, "m, q bytes, u reps", "d")                                                             \
    X(SESSION, session, 32, "m, u threads", "u, u threads")                                                            \
    X(FREE_SESSION, free_session, 33, "s", "")                                                                         \
    X(RESET, reset, 34, "s", "")                                                                                       \
    X(FORK, fork, 35, "s", "u, u threads")                                                                             \
    X(PREFILL, prefill, 36, "s, i ids", "")                                                                            \
    X(DECODE, decode, 37, "s, u id", "")                                                                               \
    X(LOGITS, logits, 38, "S", "f of the last PREFILL or DECODE")                                                      \
    X(SCORE, score, 39, "s, i ids", "f")                                                                               \
    X(POSITION, position, 40, "S", "q")                                                                                \
    X(SAVE, save, 41, "s", "b")                                                                                        \
    X(RESTORE, restore, 42, "s, b", "")                                                                                \
    X(RUN, run, 43, "s, u entry, u first step, u steps", "")                                                           \
    X(READ, read, 44, "s, u buffer, q bytes", "b")                                                                     \
    X(WRITE, write, 45, "s, u buffer, b", "")                                                                          \
    X(PROFILE, profile, 46, "s, u entry, u reps", "d of each step")                                                    \
    X(SAMPLER, sampler, 48, "b mossnet_sampling", "u")                                                                 \
    X(FREE_SAMPLER, free_sampler, 49, "p", "")                                                                         \
    X(ACCEPT, accept, 50, "p, i ids", "")                                                                              \
    X(PICK, pick, 51, "p, S", "u id, from the logits of the last PREFILL or DECODE")                                   \
    X(PICK_FROM, pick_from, 52, "p, f logits", "u id")

#define MN_REQUEST_NUMBER(name, small, type, payload, answer) MN_##name = (type),
enum mn_request { MN_REQUESTS(MN_REQUEST_NUMBER) };
#undef MN_REQUEST_NUMBER

enum { MN_MAX_MODELS = 64, MN_MAX_SESSIONS = 1024, MN_MAX_SAMPLERS = 1024 };

typedef struct mn_served_session {
    mossnet_session *session;
    mossnet_info info;   /* of its model, which may be unloaded by now */
    const float *logits; /* until the session's next call; NULL: there are none */
} mn_served_session;

/* Everything that one connection has made. A handle is a place in these lists and 1. Starts from zeros. */
typedef struct mn_server {
    mossnet_model *models[MN_MAX_MODELS];
    mn_served_session sessions[MN_MAX_SESSIONS];
    mossnet_sampler *samplers[MN_MAX_SAMPLERS];
    mn_store store;
} mn_server;

/* Answers one request, whatever its payload holds: 0 and `out`, or a mossnet_status or MN_STATUS_PROTOCOL and `text`.
 */
uint32_t mn_answer(mn_server *server, uint32_t type, const void *payload, size_t bytes, mn_output *out,
                   mossnet_error *error);
/* Frees what was made, and not the server itself. */
void mn_server_clear(mn_server *server);

#endif
