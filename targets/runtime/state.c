/* A session's state, moved: reset, fork, save, restore. */
#include "session.h"

#include <string.h>

/* What a saved state starts with. Little-endian, as everything here. */
typedef struct state_header {
    char magic[8];
    uint32_t version;
    uint32_t header_bytes;
    uint8_t model_hash[32];
    uint64_t layout; /* where the model's plan keeps what: two targets may lay out one model's state differently */
    uint64_t position;
    uint64_t state_bytes;
    uint64_t reserved;
} state_header;
_Static_assert(sizeof(state_header) == 80, "the header is written as it stands");

static const char MAGIC[] = "MOSSST\r\n"; /* the field holds it without the NUL */
enum { VERSION = 1 };

static uint64_t mix(uint64_t hash, const void *data, size_t bytes) { /* FNV-1a */
    const unsigned char *at = data;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ at[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static uint64_t state_layout(const mn_file *file) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (uint32_t i = 0; i < file->n_buffers; i++) {
        const mn_buffer *buffer = &file->buffers[i];
        if (buffer->region != MN_STATE) continue;
        const char *name = file->strings + buffer->name;
        hash = mix(hash, name, strlen(name) + 1);
        hash = mix(hash, &buffer->dtype, sizeof buffer->dtype);
        hash = mix(hash, &buffer->offset, sizeof buffer->offset);
        hash = mix(hash, &buffer->bytes, sizeof buffer->bytes);
    }
    return hash;
}

static state_header make_header(const mossnet_session *session) {
    const mn_file *file = &session->model->file;
    state_header header = {
        .version = VERSION,
        .header_bytes = sizeof header,
        .layout = state_layout(file),
        .position = session->position,
        .state_bytes = file->region_bytes[MN_STATE],
    };
    memcpy(header.magic, MAGIC, sizeof header.magic);
    memcpy(header.model_hash, file->model_hash, sizeof header.model_hash);
    return header;
}

void mossnet_session_reset(mossnet_session *session) {
    /* A driver that fails here fails the next run too, which can say so. */
    (void)session->model->driver->clear(session->queue, MN_STATE, NULL);
    session->position = 0;
}

static mossnet_status fork_session(const mossnet_session *session, mossnet_session **out, mossnet_error *error) {
    mossnet_model *model = session->model;
    uint64_t bytes = model->file.region_bytes[MN_STATE];
    const void *state = NULL;
    mossnet_status status = mossnet_session_new(model, mossnet_session_threads(session), out, error);
    if (status) return status;
    status = model->driver->view(session->queue, MN_STATE, 0, bytes, &state, error);
    if (!status) status = model->driver->write((*out)->queue, MN_STATE, 0, bytes, state, error);
    if (status) {
        mossnet_session_free(*out);
        *out = NULL;
        return status;
    }
    (*out)->position = session->position;
    return status;
}

mossnet_status mossnet_session_fork(const mossnet_session *session, mossnet_session **out, mossnet_error *error) {
    mossnet_status status = mn_session_enter(session, error);
    return status ? status : mn_session_leave(session, fork_session(session, out, error));
}

size_t mossnet_session_state_bytes(const mossnet_session *session) {
    return sizeof(state_header) + (size_t)session->model->file.region_bytes[MN_STATE];
}

static mossnet_status save(const mossnet_session *session, void *buffer, size_t capacity, size_t *used,
                           mossnet_error *error) {
    size_t bytes = mossnet_session_state_bytes(session);
    *used = 0;
    if (capacity < bytes)
        return mn_fail(error, MOSSNET_ARGUMENT, "a buffer of %zu bytes, the state needs %zu", capacity, bytes);
    state_header header = make_header(session);
    memcpy(buffer, &header, sizeof header);
    mossnet_status status = session->model->driver->read(session->queue, MN_STATE, 0, header.state_bytes,
                                                         (unsigned char *)buffer + sizeof header, error);
    if (!status) *used = bytes;
    return status;
}

mossnet_status mossnet_session_save(const mossnet_session *session, void *buffer, size_t capacity, size_t *used,
                                    mossnet_error *error) {
    mossnet_status status = mn_session_enter(session, error);
    return status ? status : mn_session_leave(session, save(session, buffer, capacity, used, error));
}

static mossnet_status check_header(const mossnet_session *session, const state_header *header, size_t bytes,
                                   mossnet_error *error) {
    state_header own = make_header(session);
    if (memcmp(header->magic, MAGIC, sizeof header->magic))
        return mn_fail(error, MOSSNET_STATE, "this is no saved state");
    if (header->version != VERSION || header->header_bytes != sizeof *header || header->reserved)
        return mn_fail(error, MOSSNET_STATE, "a saved state of version %u, this library reads version %d",
                       header->version, VERSION);
    if (memcmp(header->model_hash, own.model_hash, sizeof own.model_hash))
        return mn_fail(error, MOSSNET_STATE, "the state was saved by another model");
    if (header->state_bytes != own.state_bytes || header->layout != own.layout)
        return mn_fail(
            error, MOSSNET_STATE,
            "the state was saved by this model compiled in another way: its %llu bytes are laid out differently",
            (unsigned long long)header->state_bytes);
    if (bytes != sizeof *header + own.state_bytes)
        return mn_fail(error, MOSSNET_STATE, "the saved state has %zu bytes, expected %zu: it is cut short or damaged",
                       bytes, (size_t)(sizeof *header + own.state_bytes));
    if (header->position > mn_session_limit(&session->model->file))
        return mn_fail(error, MOSSNET_STATE, "the saved state is at position %llu, beyond the model's context",
                       (unsigned long long)header->position);
    return MOSSNET_OK;
}

static mossnet_status restore(mossnet_session *session, const void *buffer, size_t bytes, mossnet_error *error) {
    state_header header;
    if (bytes < sizeof header)
        return mn_fail(error, MOSSNET_STATE, "the saved state has %zu bytes, a header alone has %zu", bytes,
                       sizeof header);
    memcpy(&header, buffer, sizeof header);
    mossnet_status status = check_header(session, &header, bytes, error);
    if (!status)
        status = session->model->driver->write(session->queue, MN_STATE, 0, header.state_bytes,
                                               (const unsigned char *)buffer + sizeof header, error);
    if (!status) session->position = header.position;
    return status;
}

mossnet_status mossnet_session_restore(mossnet_session *session, const void *buffer, size_t bytes,
                                       mossnet_error *error) {
    mossnet_status status = mn_session_enter(session, error);
    return status ? status : mn_session_leave(session, restore(session, buffer, bytes, error));
}
