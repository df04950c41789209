/* One model, many sessions: N short texts by one thread and by eight, and whether memory is back where it was.
 *
 *   many MODEL N
 */
#include <malloc.h>
#include <mossnet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_THREADS = 8, N_TOKENS = 8, TEXT_BYTES = 512 };

static const char *const PROMPTS[] = {
    "def fibonacci(n):", "import os\n", "class A", "x = [", "# \xe4\xbd\xa0\xe5\xa5\xbd", ""};

typedef struct text {
    size_t bytes;
    char content[TEXT_BYTES];
} text;

static mossnet_model *model;
static unsigned long n_texts;
static text *expected;
static atomic_ulong next, n_wrong;

static int add(void *context, const char *piece, size_t bytes, int32_t id) {
    text *out = context;
    (void)id;
    if (bytes > sizeof out->content - out->bytes) return 1;
    memcpy(out->content + out->bytes, piece, bytes);
    out->bytes += bytes;
    return 0;
}

static int one(mossnet_session *session, unsigned long i, text *out) {
    const char *prompt = PROMPTS[i % (sizeof PROMPTS / sizeof *PROMPTS)];
    const mossnet_sampling sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = i};
    mossnet_generation wanted = {.max_tokens = N_TOKENS, .on_text = add, .context = out};
    mossnet_error error;
    *out = (text){.bytes = 0};
    mossnet_session_reset(session);
    mossnet_status status = mossnet_sampler_new(&sampling, &wanted.sampler, &error);
    if (!status) status = mossnet_session_generate(session, prompt, strlen(prompt), &wanted, NULL, &error);
    mossnet_sampler_free(wanted.sampler);
    if (status) fprintf(stderr, "%lu: %s\n", i, error.text);
    return status != MOSSNET_OK;
}

static void *work(void *unused) {
    mossnet_session *session;
    text found;
    if (mossnet_session_new(model, 1, &session, NULL)) abort();
    for (unsigned long i; (i = atomic_fetch_add(&next, 1)) < n_texts;)
        if (one(session, i, &found) || found.bytes != expected[i].bytes ||
            memcmp(found.content, expected[i].content, found.bytes))
            atomic_fetch_add(&n_wrong, 1);
    mossnet_session_free(session);
    return unused;
}

static size_t in_use(void) {
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static int run(void) {
    pthread_t threads[N_THREADS];
    mossnet_session *session;
    int failed = mossnet_session_new(model, 1, &session, NULL) != MOSSNET_OK;
    for (unsigned long i = 0; !failed && i < n_texts; i++)
        failed = one(session, i, &expected[i]);
    mossnet_session_free(session);
    if (failed) return 1;
    atomic_store(&next, 0);
    for (int i = 0; i < N_THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, NULL)) abort();
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    return 0;
}

int main(int argc, char **argv) {
    const mossnet_options options = {.flags = MOSSNET_ALLOW_NATIVE};
    mossnet_error error;
    if (argc != 3) return 2;
    n_texts = strtoul(argv[2], NULL, 10);
    expected = calloc(n_texts, sizeof *expected);
    size_t before = 0, after = 0;
    for (int round = 0; round < 2; round++) { /* what the C library sets up once is not counted */
        before = in_use();
        if (mossnet_model_load(argv[1], &options, &model, &error)) return fprintf(stderr, "%s\n", error.text), 1;
        if (run()) return 1;
        mossnet_model_free(model);
        after = in_use();
    }
    free(expected);
    printf("%lu wrong, %zd bytes more\n", (unsigned long)atomic_load(&n_wrong), (ssize_t)(after - before));
    return 0;
}
