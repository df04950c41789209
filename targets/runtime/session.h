#ifndef MN_SESSION_H
#define MN_SESSION_H

#include "model.h"

#include <stdbool.h>

struct mossnet_session {
    mossnet_model *model;
    mn_queue *queue;
    uint64_t position;      /* tokens that the state has seen */
    int32_t *ids;           /* [chunk], to pad what is left of a text */
    int32_t *params;        /* [n_params] */
    _Atomic bool busy;      /* a call is in it */
    _Atomic bool cancelled; /* that call, or else the next one, ends */
};

/* Claims a session for a call: another thread's meanwhile is an error, and no crash. */
mossnet_status mn_session_enter(const mossnet_session *session, mossnet_error *error);
/* Ends what mn_session_enter began; returns `status`. */
mossnet_status mn_session_leave(const mossnet_session *session, mossnet_status status);
/* CANCELLED, once, when another thread asked for it. */
mossnet_status mn_session_check(mossnet_session *session, mossnet_error *error);

/* mossnet_session_prefill and mossnet_session_decode, for who has claimed the session. */
mossnet_status mn_session_prefill(mossnet_session *session, const int32_t *ids, size_t n, const float **logits,
                                  mossnet_error *error);
mossnet_status mn_session_decode(mossnet_session *session, int32_t id, const float **logits, mossnet_error *error);
/* The position that no session of the model passes; kernels see positions as int32. */
uint64_t mn_session_limit(const mn_file *file);
/* Writes what an entry reads: its ids, those behind `n` as 0, and its params. */
mossnet_status mn_session_feed(mossnet_session *session, const mn_entry *entry, const int32_t *ids, uint32_t n,
                               mossnet_error *error);
/* Runs steps of an entry and waits for them. */
mossnet_status mn_session_steps(mossnet_session *session, const mn_entry *entry, uint32_t first_step, uint32_t n_steps,
                                mossnet_error *error);

#endif
