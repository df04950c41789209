#include "session.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

mossnet_status mossnet_session_new(mossnet_model *model, uint32_t n_threads, mossnet_session **out,
                                   mossnet_error *error) {
    *out = NULL;
    mossnet_session *session = calloc(1, sizeof *session);
    if (!session) return mn_fail(error, MOSSNET_MEMORY, "no memory for a session");
    session->model = model;
    atomic_fetch_add(&model->n_users, 1);
    session->ids = calloc(model->file.chunk, sizeof *session->ids);
    session->params = calloc(model->file.n_params, sizeof *session->params);
    mossnet_status status = session->ids && session->params
                                ? model->driver->start(model->device, n_threads, &session->queue, error)
                                : mn_fail(error, MOSSNET_MEMORY, "no memory for a session");
    if (status) {
        mossnet_session_free(session);
        return status;
    }
    *out = session;
    return mn_ok(error);
}

uint64_t mossnet_session_bytes(const mossnet_model *model) {
    const mn_file *file = &model->file;
    uint64_t own = sizeof(mossnet_session) + file->chunk * sizeof(int32_t) + file->n_params * sizeof(int32_t);
    return own + file->region_bytes[MN_STATE] + file->region_bytes[MN_ARENA] + file->region_bytes[MN_IO];
}

void mossnet_session_free(mossnet_session *session) {
    if (!session) return;
    if (session->queue) session->model->driver->stop(session->queue);
    mossnet_model_free(session->model);
    free(session->ids);
    free(session->params);
    free(session);
}

mossnet_status mn_session_enter(const mossnet_session *session, mossnet_error *error) {
    mossnet_session *mine = (mossnet_session *)(uintptr_t)session; /* whoever only reads needs it alone as well */
    if (!atomic_exchange(&mine->busy, true)) return MOSSNET_OK;
    return mn_fail(error, MOSSNET_ARGUMENT, "the session is in a call already: each thread needs its own");
}

mossnet_status mn_session_leave(const mossnet_session *session, mossnet_status status) {
    atomic_store(&((mossnet_session *)(uintptr_t)session)->busy, false);
    return status;
}

void mossnet_session_cancel(mossnet_session *session) {
    atomic_store(&session->cancelled, true);
}

mossnet_status mn_session_check(mossnet_session *session, mossnet_error *error) {
    if (!atomic_exchange(&session->cancelled, false)) return MOSSNET_OK;
    return mn_fail(error, MOSSNET_CANCELLED, "cancelled at position %llu", (unsigned long long)session->position);
}

uint64_t mossnet_session_position(const mossnet_session *session) {
    return session->position;
}

uint32_t mossnet_session_threads(const mossnet_session *session) {
    return session->model->driver->threads(session->queue);
}

static mossnet_status write_buffer(mossnet_session *session, uint32_t index, const void *in, size_t bytes,
                                   mossnet_error *error) {
    const mn_buffer *buffer = &session->model->file.buffers[index];
    return session->model->driver->write(session->queue, buffer->region, buffer->offset, bytes, in, error);
}

mossnet_status mn_session_feed(mossnet_session *session, const mn_entry *entry, const int32_t *ids, uint32_t n,
                               mossnet_error *error) {
    memmove(session->ids, ids, n * sizeof *ids);
    memset(session->ids + n, 0, (entry->n_tokens - n) * sizeof *ids);
    session->params[0] = (int32_t)n;
    session->params[1] = (int32_t)session->position;
    mossnet_status status = write_buffer(session, entry->ids, session->ids, entry->n_tokens * sizeof *ids, error);
    if (status) return status;
    return write_buffer(session, entry->params, session->params,
                        session->model->file.n_params * sizeof *session->params, error);
}

mossnet_status mn_session_steps(mossnet_session *session, const mn_entry *entry, uint32_t first_step, uint32_t n_steps,
                                mossnet_error *error) {
    const mn_driver *driver = session->model->driver;
    mossnet_status status = driver->run(session->queue, entry->first_step + first_step, n_steps, error);
    return status ? status : driver->wait(session->queue, error);
}

uint64_t mn_session_limit(const mn_file *file) {
    return file->max_context && file->max_context < INT32_MAX ? file->max_context : INT32_MAX;
}

/* Everything that can be wrong with a text is found here, before its first token moves the state. */
static mossnet_status check_text(const mossnet_session *session, const int32_t *ids, size_t n, mossnet_error *error) {
    const mn_file *file = &session->model->file;
    if (!ids || !n) return mn_fail(error, MOSSNET_ARGUMENT, "no tokens, expected at least one");
    uint64_t most = mn_session_limit(file);
    if (session->position > most || n > most - session->position)
        return mn_fail(error, MOSSNET_CONTEXT, "%zu tokens after %llu are more than the model's context of %llu", n,
                       (unsigned long long)session->position, (unsigned long long)most);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= file->vocab_size)
            return mn_fail(error, MOSSNET_ARGUMENT, "token %zu is %d, expected 0 to %u", i, (int)ids[i],
                           file->vocab_size - 1);
    return MOSSNET_OK;
}

static mossnet_status read_tokens(mossnet_session *session, const mn_entry *entry, const int32_t *ids, uint32_t n,
                                  mossnet_error *error) {
    mossnet_status status = mn_session_check(session, error);
    if (!status) status = mn_session_feed(session, entry, ids, n, error);
    if (!status) status = mn_session_steps(session, entry, 0, entry->n_steps, error);
    if (!status) session->position += n;
    return status;
}

/* The entry that reads on when `left` tokens are left, and how many of them it takes: a single one is cheaper through
 * decode, and `many` (prefill or score) may not be there. */
static const mn_entry *next_entry(const mn_file *file, const mn_entry *many, size_t left, uint32_t *takes) {
    if (!many || (left == 1 && file->chunk > 1)) {
        *takes = 1;
        return file->entry[MOSSNET_DECODE];
    }
    *takes = left < file->chunk ? (uint32_t)left : file->chunk;
    return many;
}

static mossnet_status view_logits(const mossnet_session *session, const mn_entry *entry, const float **logits,
                                  mossnet_error *error) {
    const mn_buffer *buffer = &session->model->file.buffers[entry->logits];
    const void *view = NULL;
    mossnet_status status =
        session->model->driver->view(session->queue, buffer->region, buffer->offset,
                                     session->model->file.vocab_size * sizeof **logits, &view, error);
    *logits = view;
    return status;
}

mossnet_status mn_session_prefill(mossnet_session *session, const int32_t *ids, size_t n, const float **logits,
                                  mossnet_error *error) {
    const mn_file *file = &session->model->file;
    const mn_entry *entry = NULL;
    mossnet_status status = check_text(session, ids, n, error);
    for (size_t at = 0; !status && at < n;) {
        uint32_t takes;
        entry = next_entry(file, file->entry[MOSSNET_PREFILL], n - at, &takes);
        status = read_tokens(session, entry, ids + at, takes, error);
        at += takes;
    }
    if (status || !logits) return status;
    return view_logits(session, entry, logits, error);
}

mossnet_status mossnet_session_prefill(mossnet_session *session, const int32_t *ids, size_t n, const float **logits,
                                       mossnet_error *error) {
    mossnet_status status = mn_session_enter(session, error);
    return status ? status : mn_session_leave(session, mn_session_prefill(session, ids, n, logits, error));
}

mossnet_status mn_session_decode(mossnet_session *session, int32_t id, const float **logits, mossnet_error *error) {
    const mn_entry *entry = session->model->file.entry[MOSSNET_DECODE];
    mossnet_status status = check_text(session, &id, 1, error);
    if (!status) status = read_tokens(session, entry, &id, 1, error);
    if (status || !logits) return status;
    return view_logits(session, entry, logits, error);
}

mossnet_status mossnet_session_decode(mossnet_session *session, int32_t id, const float **logits,
                                      mossnet_error *error) {
    mossnet_status status = mn_session_enter(session, error);
    return status ? status : mn_session_leave(session, mn_session_decode(session, id, logits, error));
}

static mossnet_status score(mossnet_session *session, const int32_t *ids, size_t n, float *out, mossnet_error *error) {
    const mossnet_model *model = session->model;
    const mn_file *file = &model->file;
    mossnet_status status = check_text(session, ids, n, error);
    for (size_t at = 0; !status && at < n;) {
        uint32_t takes;
        const mn_entry *entry = next_entry(file, file->entry[MOSSNET_SCORE], n - at, &takes);
        const mn_buffer *buffer = &file->buffers[entry->logits];
        status = read_tokens(session, entry, ids + at, takes, error);
        if (!status)
            status = model->driver->read(session->queue, buffer->region, buffer->offset,
                                         (uint64_t)takes * file->vocab_size * sizeof *out, out + at * file->vocab_size,
                                         error);
        at += takes;
    }
    return status;
}

mossnet_status mossnet_session_score(mossnet_session *session, const int32_t *ids, size_t n, float *out,
                                     mossnet_error *error) {
    mossnet_status status = mn_session_enter(session, error);
    return status ? status : mn_session_leave(session, score(session, ids, n, out, error));
}
