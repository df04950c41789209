/* Looking inside a session: single steps, buffers, and where the time goes. */
#include "clock.h"
#include "session.h"

#include <stdlib.h>

static mossnet_status find_entry(const mossnet_session *session, mossnet_entry kind, const mn_entry **out,
                                 mossnet_error *error) {
    *out = kind <= MOSSNET_SCORE ? session->model->file.entry[kind] : NULL;
    return *out ? MOSSNET_OK : mn_fail(error, MOSSNET_ARGUMENT, "the model has no entry of kind %u", (unsigned)kind);
}

static mossnet_status run(mossnet_session *session, mossnet_entry kind, uint32_t first_step, uint32_t n_steps,
                          mossnet_error *error) {
    const mn_entry *entry = NULL;
    mossnet_status status = find_entry(session, kind, &entry, error);
    if (status) return status;
    if (first_step > entry->n_steps || n_steps > entry->n_steps - first_step)
        return mn_fail(error, MOSSNET_ARGUMENT, "steps %u to %llu of an entry of %u", first_step,
                       (unsigned long long)first_step + n_steps, entry->n_steps);
    return mn_session_steps(session, entry, first_step, n_steps, error);
}

mossnet_status mossnet_session_run(mossnet_session *session, mossnet_entry kind, uint32_t first_step, uint32_t n_steps,
                                   mossnet_error *error) {
    mossnet_status status = mn_session_enter(session, error);
    return status ? status : mn_session_leave(session, run(session, kind, first_step, n_steps, error));
}

static mossnet_status find_buffer(const mossnet_session *session, uint32_t index, size_t bytes, const mn_buffer **out,
                                  mossnet_error *error) {
    const mn_file *file = &session->model->file;
    if (index >= file->n_buffers) return mn_fail(error, MOSSNET_ARGUMENT, "buffer %u of %u", index, file->n_buffers);
    *out = &file->buffers[index];
    if (bytes > (*out)->bytes)
        return mn_fail(error, MOSSNET_ARGUMENT, "%zu bytes of buffer %u, which has %llu", bytes, index,
                       (unsigned long long)(*out)->bytes);
    return MOSSNET_OK;
}

static mossnet_status read_buffer(const mossnet_session *session, uint32_t buffer, void *out, size_t bytes,
                                  mossnet_error *error) {
    const mn_buffer *b = NULL;
    mossnet_status status = find_buffer(session, buffer, bytes, &b, error);
    return status ? status : session->model->driver->read(session->queue, b->region, b->offset, bytes, out, error);
}

mossnet_status mossnet_session_read(const mossnet_session *session, uint32_t buffer, void *out, size_t bytes,
                                    mossnet_error *error) {
    mossnet_status status = mn_session_enter(session, error);
    return status ? status : mn_session_leave(session, read_buffer(session, buffer, out, bytes, error));
}

static mossnet_status write_buffer(mossnet_session *session, uint32_t buffer, const void *in, size_t bytes,
                                   mossnet_error *error) {
    const mn_buffer *b = NULL;
    mossnet_status status = find_buffer(session, buffer, bytes, &b, error);
    if (status) return status;
    if (b->region == MN_WEIGHTS) return mn_fail(error, MOSSNET_ARGUMENT, "buffer %u holds weights: read only", buffer);
    return session->model->driver->write(session->queue, b->region, b->offset, bytes, in, error);
}

mossnet_status mossnet_session_write(mossnet_session *session, uint32_t buffer, const void *in, size_t bytes,
                                     mossnet_error *error) {
    mossnet_status status = mn_session_enter(session, error);
    return status ? status : mn_session_leave(session, write_buffer(session, buffer, in, bytes, error));
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One run of each step, timed by the device where it can. */
static mossnet_status time_once(mossnet_session *session, const mn_entry *entry, double *step_s, mossnet_error *error) {
    const mn_driver *driver = session->model->driver;
    if (driver->time) return driver->time(session->queue, entry->first_step, entry->n_steps, step_s, error);
    mossnet_status status = MOSSNET_OK;
    for (uint32_t step = 0; !status && step < entry->n_steps; step++) {
        uint64_t start = mn_clock_ns();
        status = mn_session_steps(session, entry, step, 1, error);
        step_s[step] = (double)(mn_clock_ns() - start) * 1e-9;
    }
    return status;
}

/* Ids from all over the vocabulary, others in every run: tokens that are all the same would go to the same experts,
 * whose weights stay in a cache as those of a text do not. */
static void spread_ids(mossnet_session *session, uint32_t first, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t spread = (first + i) * 2654435769u; /* 2^32 over the golden ratio: neighbours lie far apart */
        session->ids[i] = (int32_t)(((uint64_t)spread * session->model->file.vocab_size) >> 32);
    }
}

/* times: [n_steps][reps]; once: [n_steps], to work in. */
static mossnet_status time_steps(mossnet_session *session, const mn_entry *entry, uint32_t reps, double *times,
                                 double *once, mossnet_error *error) {
    /* One run more than is counted: the first touches memory and code for the first time. */
    for (uint32_t rep = 0; rep <= reps; rep++) {
        spread_ids(session, rep * entry->n_tokens, entry->n_tokens);
        mossnet_status status = mn_session_feed(session, entry, session->ids, entry->n_tokens, error);
        if (!status) status = time_once(session, entry, once, error);
        if (status) return status;
        for (uint32_t step = 0; rep && step < entry->n_steps; step++)
            times[(size_t)step * reps + rep - 1] = once[step];
    }
    return MOSSNET_OK;
}

static mossnet_status profile(mossnet_session *session, mossnet_entry kind, uint32_t reps, double *step_s,
                              mossnet_error *error) {
    const mn_entry *entry = NULL;
    mossnet_status status = find_entry(session, kind, &entry, error);
    if (status) return status;
    if (reps < 1 || reps > 100000) return mn_fail(error, MOSSNET_ARGUMENT, "%u runs, expected 1 to 100000", reps);
    double *times = calloc((size_t)entry->n_steps + 1, reps * sizeof *times);
    if (!times) return mn_fail(error, MOSSNET_MEMORY, "no memory for %u times of %u steps", reps, entry->n_steps);
    mossnet_session_reset(session);
    status = time_steps(session, entry, reps, times, step_s, error);
    mossnet_session_reset(session);
    for (uint32_t step = 0; !status && step < entry->n_steps; step++) {
        double *of_step = times + (size_t)step * reps;
        qsort(of_step, reps, sizeof *of_step, ascending);
        step_s[step] = of_step[reps / 2];
    }
    free(times);
    return status;
}

mossnet_status mossnet_session_profile(mossnet_session *session, mossnet_entry kind, uint32_t reps, double *step_s,
                                       mossnet_error *error) {
    mossnet_status status = mn_session_enter(session, error);
    return status ? status : mn_session_leave(session, profile(session, kind, reps, step_s, error));
}
