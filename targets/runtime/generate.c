/* A text is read and continued, token by token, until it ends. */
#include "session.h"

#include <stdlib.h>

typedef struct generator {
    mossnet_session *session;
    const mossnet_generation *wanted;
    mossnet_generated *result;
    mossnet_sampler *sampler;
    mossnet_decoder *decoder;
    mossnet_error *error;
    const char *ends; /* the ids that end a text, with commas between them */
} generator;

/* The first id of a list, which begins behind it then; -1 where it has none. */
static int32_t next_end(const generator *g, const char **list) {
    char *rest;
    long id = strtol(*list, &rest, 10);
    if (rest == *list || id < 0 || (unsigned long)id >= g->session->model->file.vocab_size) return -1;
    *list = *rest == ',' ? rest + 1 : rest;
    return (int32_t)id;
}

static bool ends_text(const generator *g, int32_t id) {
    const char *list = g->ends;
    int32_t end;
    while ((end = next_end(g, &list)) >= 0)
        if (end == id) return true;
    return false;
}

static mossnet_status read_ids(generator *g, const int32_t *ids, size_t n, const float **logits) {
    for (size_t i = 0; i < n; i++)
        mossnet_sampler_accept(g->sampler, ids[i]);
    uint64_t before = g->session->position;
    mossnet_status status = mn_session_prefill(g->session, ids, n, logits, g->error);
    g->result->n_prompt = g->session->position - before;
    return status;
}

/* An empty prompt begins with the end of the text before, as texts do in training. */
static mossnet_status read_prompt(generator *g, const char *prompt, size_t bytes, const float **logits) {
    const mossnet_model *model = g->session->model;
    size_t n = 0;
    mossnet_status status = mossnet_model_encode(model, prompt, bytes, NULL, 0, &n, g->error);
    if (status) return status;
    if (!n) {
        const char *list = g->ends;
        int32_t first = next_end(g, &list);
        if (first >= 0) return read_ids(g, &first, 1, logits);
        return mn_fail(g->error, MOSSNET_ARGUMENT,
                       "the prompt is empty, and the model names no end of text to begin with");
    }
    int32_t *ids = n <= SIZE_MAX / sizeof *ids ? malloc(n * sizeof *ids) : NULL;
    if (!ids) return mn_fail(g->error, MOSSNET_MEMORY, "no memory for a prompt of %zu tokens", n);
    status = mossnet_model_encode(model, prompt, bytes, ids, n, &n, g->error);
    if (!status) status = read_ids(g, ids, n, logits);
    free(ids);
    return status;
}

/* Whether the caller goes on. */
static bool tell(const generator *g, const char *text, size_t bytes, int32_t id) {
    return !g->wanted->on_text || !g->wanted->on_text(g->wanted->context, text, bytes, id);
}

static mossnet_status one_token(generator *g, const float **logits, bool *over) {
    const char *text = NULL;
    size_t bytes = 0;
    int32_t id;
    mossnet_status status =
        mossnet_sampler_pick(g->sampler, *logits, g->session->model->file.vocab_size, &id, g->error);
    if (status) return status;
    mossnet_sampler_accept(g->sampler, id);
    if ((*over = ends_text(g, id))) {
        g->result->ending = MOSSNET_ENDED;
        return MOSSNET_OK;
    }
    g->result->n_tokens++;
    status = mossnet_decoder_push(g->decoder, id, &text, &bytes, g->error);
    if (status) return status;
    if ((*over = !tell(g, text, bytes, id))) g->result->ending = MOSSNET_STOPPED;
    /* What the caller has seen the session has read, so that another call goes on behind it. */
    return mn_session_decode(g->session, id, logits, g->error);
}

static mossnet_status generate(generator *g, const char *prompt, size_t bytes) {
    const float *logits = NULL;
    const char *rest = NULL;
    mossnet_status status = read_prompt(g, prompt, bytes, &logits);
    for (bool over = false; !status && !over;) {
        if (g->wanted->max_tokens && g->result->n_tokens == g->wanted->max_tokens) break;
        status = one_token(g, &logits, &over);
    }
    if (!status) status = mossnet_decoder_flush(g->decoder, &rest, &bytes, g->error);
    if (!status && bytes) (void)tell(g, rest, bytes, -1);
    return status;
}

mossnet_status mossnet_session_generate(mossnet_session *session, const char *prompt, size_t bytes,
                                        const mossnet_generation *wanted, mossnet_generated *result,
                                        mossnet_error *error) {
    static const mossnet_generation nothing;
    static const mossnet_sampling greedy = {.top_p = 1, .repetition_penalty = 1};
    mossnet_generated unwanted;
    const char *ends = mossnet_model_meta(session->model, "eos");
    generator g = {session,         wanted ? wanted : &nothing, result ? result : &unwanted, NULL, NULL, error,
                   ends ? ends : ""};
    *g.result = (mossnet_generated){.ending = MOSSNET_LENGTH};
    mossnet_sampler *own = NULL;
    mossnet_status status = mn_session_enter(session, error);
    if (status) return status;
    g.sampler = g.wanted->sampler;
    if (!g.sampler && !(status = mossnet_sampler_new(&greedy, &own, error))) g.sampler = own;
    if (!status) status = mossnet_decoder_new(session->model, &g.decoder, error);
    if (!status) status = generate(&g, prompt, bytes);
    mossnet_decoder_free(g.decoder);
    mossnet_sampler_free(own);
    return mn_session_leave(session, status);
}
