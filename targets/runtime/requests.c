#include "requests.h"

#include "cpu_name.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ARGS = 6 };

typedef union arg {
    uint32_t u;
    uint64_t q;
    const char *text;
    const uint8_t *hash;
    struct {
        const void *at;
        size_t n;
    } rest;
    mossnet_model **model;
    mn_served_session *session;
    mossnet_sampler **sampler;
} arg;

typedef struct call { /* one request, its arguments checked */
    mn_server *server;
    arg a[MAX_ARGS];
    mn_output *out;
    mossnet_error *error;
} call;

static mossnet_status no_room(call *c) {
    return mn_fail(c->error, MOSSNET_MEMORY, "no memory for the answer, or it is longer than %u bytes",
                   (unsigned)MN_FRAME_MAX_BYTES);
}

static mossnet_status too_many(call *c, const char *what, int most) {
    return mn_fail(c->error, MOSSNET_MEMORY, "%d %s are there, which is all that one runner takes", most, what);
}

/* ---- The machine ---- */

static mossnet_status answer_hello(call *c) {
#if defined(__ANDROID__)
    static const char os[] = "Android";
#else
    static const char os[] = "Linux";
#endif
    char text[2048], cpu[128], features[1024];
    mossnet_cpu_features(features, sizeof features);
    mn_cpu_name(cpu, sizeof cpu);
    int length = snprintf(text, sizeof text, "version=%s\nabi=%u\nos=%s\narch=%s\ncpu=%s\ncpus=%u\nfeatures=%s\n",
                          mossnet_version(), (unsigned)mossnet_abi_version(), os, mossnet_cpu_arch(), cpu,
                          (unsigned)mossnet_cpu_count(), features);
    mn_put(c->out, text, (size_t)length);
    return MOSSNET_OK;
}

static mossnet_status answer_bye(call *c) {
    (void)c;
    return MOSSNET_OK;
}

static mossnet_status answer_devices(call *c) {
    size_t needed = 0;
    mossnet_status status = mossnet_devices(c->a[0].text, NULL, 0, &needed, c->error);
    if (status) return status;
    size_t capacity = needed + 4096; /* a device may be plugged in just now */
    char *text = malloc(capacity);
    if (!text) return no_room(c);
    status = mossnet_devices(c->a[0].text, text, capacity, &needed, c->error);
    if (!status) mn_put(c->out, text, strlen(text));
    free(text);
    return status;
}

static mossnet_status answer_read_bandwidth(call *c) {
    double speed = 0;
    if (c->a[0].q > UINT64_C(1) << 30 || c->a[2].u > 1000)
        return mn_fail(c->error, MOSSNET_ARGUMENT, "%llu bytes and %u passes, expected at most 1 GiB and 1000",
                       (unsigned long long)c->a[0].q, c->a[2].u);
    mossnet_status status = mossnet_read_bandwidth((size_t)c->a[0].q, c->a[1].u, c->a[2].u, &speed, c->error);
    mn_put_f64(c->out, speed);
    return status;
}

/* ---- Files ---- */

static mossnet_status answer_has(call *c) {
    mn_put_u32(c->out, mn_store_has(c->a[0].hash, c->a[1].q));
    return MOSSNET_OK;
}

static mossnet_status answer_put(call *c) {
    const arg *a = c->a;
    mossnet_status status =
        mn_store_put(&c->server->store, a[0].hash, a[1].q, a[2].q, a[3].rest.at, a[3].rest.n, c->error);
    mn_put_u64(c->out, a[2].q + a[3].rest.n);
    return status;
}

static mossnet_status answer_remove(call *c) {
    mn_store_remove(c->a[0].hash);
    return MOSSNET_OK;
}

/* ---- Models ---- */

static mossnet_status answer_load(call *c) {
    mossnet_model **slot = c->server->models, **end = slot + MN_MAX_MODELS;
    while (slot < end && *slot)
        slot++;
    if (slot == end) return too_many(c, "models", MN_MAX_MODELS);
    mossnet_options options = {.flags = c->a[0].u, .timeout_ms = c->a[1].u};
    if (*c->a[3].text) options.device = c->a[3].text;
    if (*c->a[4].text) options.cache_dir = c->a[4].text;
    if (*c->a[5].text) options.driver = c->a[5].text;
    mossnet_status status = mossnet_model_load(c->a[2].text, &options, slot, c->error);
    if (status) return status;
    mossnet_info info;
    mossnet_model_info(*slot, &info);
    mn_put_u32(c->out, (uint32_t)(slot - c->server->models) + 1);
    _Static_assert(sizeof info == 120, "it travels as it stands");
    mn_put(c->out, &info, sizeof info);
    return MOSSNET_OK;
}

static mossnet_status answer_unload(call *c) {
    mossnet_model_free(*c->a[0].model);
    *c->a[0].model = NULL;
    return MOSSNET_OK;
}

static mossnet_status put_optional(call *c, const char *data, size_t bytes) {
    mn_put_u32(c->out, data != NULL);
    if (data) mn_put(c->out, data, bytes);
    return MOSSNET_OK;
}

static mossnet_status answer_meta(call *c) {
    const char *value = mossnet_model_meta(*c->a[0].model, c->a[1].text);
    return put_optional(c, value, value ? strlen(value) : 0);
}

static mossnet_status answer_tokenizer(call *c) {
    size_t bytes = 0;
    const char *json = mossnet_model_tokenizer(*c->a[0].model, &bytes);
    return put_optional(c, json, bytes);
}

static mossnet_status answer_device(call *c) {
    size_t needed = mossnet_model_device(*c->a[0].model, NULL, 0);
    char *text = malloc(needed);
    if (!text) return no_room(c);
    mossnet_model_device(*c->a[0].model, text, needed);
    mn_put(c->out, text, strlen(text));
    free(text);
    return MOSSNET_OK;
}

static mossnet_status answer_bandwidth(call *c) {
    double speed = 0;
    mossnet_status status = mossnet_model_bandwidth(*c->a[0].model, c->a[1].q, c->a[2].u, &speed, c->error);
    mn_put_f64(c->out, speed);
    return status;
}

/* ---- Sessions ---- */

static mn_served_session *free_session(call *c) {
    for (int i = 0; i < MN_MAX_SESSIONS; i++)
        if (!c->server->sessions[i].session) return &c->server->sessions[i];
    return NULL;
}

static mossnet_status put_session(call *c, const mn_served_session *served) {
    mn_put_u32(c->out, (uint32_t)(served - c->server->sessions) + 1);
    mn_put_u32(c->out, mossnet_session_threads(served->session));
    return MOSSNET_OK;
}

static mossnet_status answer_session(call *c) {
    mn_served_session *made = free_session(c);
    if (!made) return too_many(c, "sessions", MN_MAX_SESSIONS);
    mossnet_status status = mossnet_session_new(*c->a[0].model, c->a[1].u, &made->session, c->error);
    if (status) return status;
    mossnet_model_info(*c->a[0].model, &made->info);
    return put_session(c, made);
}

static mossnet_status answer_fork(call *c) {
    mn_served_session *made = free_session(c);
    if (!made) return too_many(c, "sessions", MN_MAX_SESSIONS);
    mossnet_status status = mossnet_session_fork(c->a[0].session->session, &made->session, c->error);
    if (status) return status;
    made->info = c->a[0].session->info;
    return put_session(c, made);
}

static mossnet_status answer_free_session(call *c) {
    mossnet_session_free(c->a[0].session->session);
    *c->a[0].session = (mn_served_session){.session = NULL};
    return MOSSNET_OK;
}

static mossnet_status answer_reset(call *c) {
    mossnet_session_reset(c->a[0].session->session);
    return MOSSNET_OK;
}

static mossnet_status answer_prefill(call *c) {
    mn_served_session *s = c->a[0].session;
    return mossnet_session_prefill(s->session, c->a[1].rest.at, c->a[1].rest.n, &s->logits, c->error);
}

static mossnet_status answer_decode(call *c) {
    mn_served_session *s = c->a[0].session;
    return mossnet_session_decode(s->session, (int32_t)c->a[1].u, &s->logits, c->error);
}

static mossnet_status no_logits(call *c) {
    return mn_fail(c->error, MOSSNET_ARGUMENT, "the session has no logits: it did something else since");
}

static mossnet_status answer_logits(call *c) {
    const mn_served_session *s = c->a[0].session;
    if (!s->logits) return no_logits(c);
    mn_put(c->out, s->logits, s->info.vocab_size * sizeof *s->logits);
    return MOSSNET_OK;
}

static mossnet_status answer_score(call *c) {
    const mn_served_session *s = c->a[0].session;
    size_t n = c->a[1].rest.n;
    float *rows = mn_put_room(c->out, n * s->info.vocab_size * sizeof *rows);
    if (!rows) return no_room(c);
    return mossnet_session_score(s->session, c->a[1].rest.at, n, rows, c->error);
}

static mossnet_status answer_position(call *c) {
    mn_put_u64(c->out, mossnet_session_position(c->a[0].session->session));
    return MOSSNET_OK;
}

static mossnet_status answer_save(call *c) {
    const mossnet_session *session = c->a[0].session->session;
    size_t bytes = mossnet_session_state_bytes(session), used = 0;
    void *state = mn_put_room(c->out, bytes);
    if (!state) return no_room(c);
    return mossnet_session_save(session, state, bytes, &used, c->error);
}

static mossnet_status answer_restore(call *c) {
    return mossnet_session_restore(c->a[0].session->session, c->a[1].rest.at, c->a[1].rest.n, c->error);
}

static mossnet_status answer_run(call *c) {
    const arg *a = c->a;
    return mossnet_session_run(a[0].session->session, a[1].u, a[2].u, a[3].u, c->error);
}

static mossnet_status answer_read(call *c) {
    void *room = c->a[2].q > MN_FRAME_MAX_BYTES ? NULL : mn_put_room(c->out, (size_t)c->a[2].q);
    if (!room) return no_room(c);
    return mossnet_session_read(c->a[0].session->session, c->a[1].u, room, (size_t)c->a[2].q, c->error);
}

static mossnet_status answer_write(call *c) {
    const arg *a = c->a;
    return mossnet_session_write(a[0].session->session, a[1].u, a[2].rest.at, a[2].rest.n, c->error);
}

static mossnet_status answer_profile(call *c) {
    const mn_served_session *s = c->a[0].session;
    uint32_t entry = c->a[1].u, n = entry < MOSSNET_ENTRY_KINDS ? s->info.n_steps[entry] : 0;
    double *seconds = mn_put_room(c->out, n * sizeof *seconds);
    if (!seconds) return no_room(c);
    return mossnet_session_profile(s->session, entry, c->a[2].u, seconds, c->error);
}

/* ---- Samplers ---- */

static mossnet_status answer_sampler(call *c) {
    mossnet_sampler **slot = c->server->samplers, **end = slot + MN_MAX_SAMPLERS;
    while (slot < end && *slot)
        slot++;
    if (slot == end) return too_many(c, "samplers", MN_MAX_SAMPLERS);
    mossnet_sampling sampling;
    _Static_assert(sizeof sampling == 32, "it travels as it stands");
    if (c->a[0].rest.n != sizeof sampling)
        return mn_fail(c->error, MOSSNET_ARGUMENT, "%zu bytes, expected a mossnet_sampling of %zu", c->a[0].rest.n,
                       sizeof sampling);
    memcpy(&sampling, c->a[0].rest.at, sizeof sampling);
    mossnet_status status = mossnet_sampler_new(&sampling, slot, c->error);
    mn_put_u32(c->out, (uint32_t)(slot - c->server->samplers) + 1);
    return status;
}

static mossnet_status answer_free_sampler(call *c) {
    mossnet_sampler_free(*c->a[0].sampler);
    *c->a[0].sampler = NULL;
    return MOSSNET_OK;
}

static mossnet_status answer_accept(call *c) {
    const int32_t *ids = c->a[1].rest.at;
    for (size_t i = 0; i < c->a[1].rest.n; i++)
        mossnet_sampler_accept(*c->a[0].sampler, ids[i]);
    return MOSSNET_OK;
}

static mossnet_status pick(call *c, const float *logits, size_t n) {
    int32_t id = 0;
    mossnet_status status = mossnet_sampler_pick(*c->a[0].sampler, logits, n, &id, c->error);
    mn_put_u32(c->out, (uint32_t)id);
    return status;
}

static mossnet_status answer_pick(call *c) {
    const mn_served_session *s = c->a[1].session;
    return s->logits ? pick(c, s->logits, s->info.vocab_size) : no_logits(c);
}

static mossnet_status answer_pick_from(call *c) {
    return pick(c, c->a[1].rest.at, c->a[1].rest.n);
}

/* ---- What a payload holds, checked before anything is done with it ---- */

typedef struct request {
    uint32_t type;
    const char *name, *payload;
    mossnet_status (*answer)(call *c);
} request;

#define ROW(name, small, type, payload, answer) {type, #name, payload, answer_##small},
static const request REQUESTS[] = {MN_REQUESTS(ROW)};
#undef ROW

static const request *find_request(uint32_t type) {
    for (size_t i = 0; i < sizeof REQUESTS / sizeof *REQUESTS; i++)
        if (REQUESTS[i].type == type) return &REQUESTS[i];
    return NULL;
}

static bool take_rest(mn_input *in, size_t item, arg *out) {
    out->rest.n = in->left / item;
    if (in->left % item) return false;
    out->rest.at = mn_take(in, in->left);
    return true;
}

/* A handle that is none leaves NULL, and `missing` says of what. */
static bool take_arg(mn_server *server, char kind, mn_input *in, arg *out, const char **missing) {
    uint32_t handle = 0;
    switch (kind) {
    case 'u': out->u = mn_take_u32(in); return in->ok;
    case 'q': out->q = mn_take_u64(in); return in->ok;
    case 't': out->text = mn_take_text(in); return in->ok;
    case 'h': out->hash = mn_take(in, MN_SHA256_BYTES); return in->ok;
    case 'b': return take_rest(in, 1, out);
    case 'i':
    case 'f': return take_rest(in, 4, out);
    default: handle = mn_take_u32(in) - 1; /* 0, which no handle is, becomes a large number */
    }
    if (kind == 'm') {
        out->model = handle < MN_MAX_MODELS && server->models[handle] ? &server->models[handle] : NULL;
        if (!out->model) *missing = "model";
    } else if (kind == 'p') {
        out->sampler = handle < MN_MAX_SAMPLERS && server->samplers[handle] ? &server->samplers[handle] : NULL;
        if (!out->sampler) *missing = "sampler";
    } else {
        bool there = handle < MN_MAX_SESSIONS && server->sessions[handle].session;
        out->session = there ? &server->sessions[handle] : NULL;
        if (!there) *missing = "session";
    }
    return in->ok;
}

uint32_t mn_answer(mn_server *server, uint32_t type, const void *payload, size_t bytes, mn_output *out,
                   mossnet_error *error) {
    const request *found = find_request(type);
    mn_input in = {payload, bytes, true};
    call c = {.server = server, .out = out, .error = error};
    const char *missing = NULL;
    out->used = 0;
    out->ok = true;
    mn_ok(error);
    if (!found) {
        mn_fail(error, MOSSNET_ARGUMENT, "a request of type %u, which this runner does not know", type);
        return MN_STATUS_PROTOCOL;
    }
    bool fits = true;
    int n = 0;
    for (const char *kind = found->payload; fits && *kind; n++) {
        fits = take_arg(server, *kind, &in, &c.a[n], &missing);
        kind += strcspn(kind, ",");
        kind += strspn(kind, ", ");
    }
    if (!fits || in.left) {
        mn_fail(error, MOSSNET_ARGUMENT, "%s with %zu bytes, which do not hold: %s", found->name, bytes,
                found->payload);
        return MN_STATUS_PROTOCOL;
    }
    if (missing) return mn_fail(error, MOSSNET_ARGUMENT, "%s of a %s that is not there", found->name, missing);
    if (*found->payload == 's') c.a[0].session->logits = NULL;
    mossnet_status status = found->answer(&c);
    return status || out->ok ? status : no_room(&c);
}

void mn_server_clear(mn_server *server) {
    for (int i = 0; i < MN_MAX_SESSIONS; i++)
        mossnet_session_free(server->sessions[i].session);
    for (int i = 0; i < MN_MAX_SAMPLERS; i++)
        mossnet_sampler_free(server->samplers[i]);
    for (int i = 0; i < MN_MAX_MODELS; i++)
        mossnet_model_free(server->models[i]);
    mn_store_drop(&server->store);
}
