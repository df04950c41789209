/* Hostile requests against the runner, under AddressSanitizer: what comes over a wire may be anything.
 *
 *   fuzz_requests MODEL N SEED    N requests in the folder that it was started in, well-formed and broken ones, to
 * servers that live for some hundred each; prints for each kind: its name, how often it was done and how often refused
 */
#include "mock_driver.h"
#include "requests.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIFE = 300, MOST = 1 << 18 };

typedef struct kind {
    const char *name, *payload;
    uint32_t type;
    unsigned long done, refused;
} kind;

#define ROW(name, small, type, payload, answer) {#name, payload, type, 0, 0},
static kind KINDS[] = {MN_REQUESTS(ROW)};
enum { N_KINDS = sizeof KINDS / sizeof *KINDS };

static unsigned char *model; /* the file, and its hash */
static size_t model_bytes;
static uint8_t model_hash[MN_SHA256_BYTES];

/* The library's would take what it is asked for, and so all of the machine's memory. */
mossnet_status mossnet_read_bandwidth(size_t bytes, uint32_t n_threads, uint32_t reps, double *bytes_per_s,
                                      mossnet_error *error) {
    (void)n_threads;
    *bytes_per_s = (double)bytes;
    return reps ? mn_ok(error) : mn_fail(error, MOSSNET_ARGUMENT, "no pass");
}

static uint64_t state = 1;

static uint64_t next(uint64_t below) { /* splitmix64 */
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (z ^ z >> 31) % below;
}

static uint64_t some_number(void) {
    static const uint64_t INTERESTING[] = {
        8,        12,          31,         32,         33,   256, 1u << 20, (1u << 20) + 1, 1u << 28, (1u << 28) + 1,
        1u << 31, 0xffffffffu, 1ull << 32, 1ull << 40, ~0ull};
    return next(4) ? next(6) : INTERESTING[next(sizeof INTERESTING / sizeof *INTERESTING)];
}

static const char *some_text(void) {
    static const char *const TEXTS[] = {"",       "cpu",           "opencl", "abacus", "config",
                                        "driver", "../model.moss", ".",      "mock"};
    static char name[MN_STORE_NAME];
    mn_store_name(model_hash, name);
    return next(2) ? name : TEXTS[next(sizeof TEXTS / sizeof *TEXTS)];
}

static unsigned char *saved; /* what the last SAVE gave */
static size_t saved_bytes;

static void put_some_bytes(mn_output *out) {
    static const mossnet_sampling SAMPLING = {
        .temperature = 1, .top_p = 1, .repetition_penalty = 1.1f, .seed = 1, .repetition_window = 3};
    size_t n = next(40), half = model_bytes / 2;
    switch (next(7)) {
    case 0: mn_put(out, &SAMPLING, sizeof SAMPLING); return;
    case 1: mn_put(out, model, model_bytes); return;
    case 2: mn_put(out, model, half); return;
    case 3: mn_put(out, model + half, model_bytes - half); return;
    case 4: mn_put(out, saved, saved_bytes); return;
    default:
        for (; n; n--)
            mn_put(out, &(unsigned char){(unsigned char)next(256)}, 1);
    }
}

static void put_arg(mn_output *out, char letter) {
    const char *text = some_text();
    switch (letter) {
    case 'q': mn_put_u64(out, next(3) ? next(2) ? model_bytes : next(2) * (model_bytes / 2) : some_number()); break;
    case 't':
        mn_put_u32(out, (uint32_t)strlen(text));
        mn_put(out, text, strlen(text) + 1);
        break;
    case 'h': mn_put(out, model_hash, sizeof model_hash); break;
    case 'b': put_some_bytes(out); break;
    case 'i':
    case 'f':
        for (uint64_t n = next(40); n; n--)
            mn_put_u32(out, (uint32_t)(next(100) ? next(32) : some_number()));
        break;
    case 'u': mn_put_u32(out, (uint32_t)some_number()); break;
    default: mn_put_u32(out, (uint32_t)(next(4) ? 1 : next(5))); /* handles */
    }
}

static void put_payload(mn_output *out, const kind *k) {
    out->used = 0;
    for (const char *letter = k->payload; *letter; letter += strspn(letter, ", ")) {
        put_arg(out, *letter);
        letter += strcspn(letter, ",");
    }
    uint64_t broken = next(12);
    if (broken == 0 && out->used) out->data[next(out->used)] ^= (unsigned char)(1u << next(8));
    if (broken == 1) out->used = next(out->used + 1);
    if (broken == 2) mn_put(out, model, next(9));
}

static void ask(mn_server *server, kind *k, const mn_output *made, mn_output *answer) {
    unsigned char *payload = malloc(made->used ? made->used : 1); /* as long as it is: one byte beyond is found */
    mossnet_error error;
    memset(&error, 'x', sizeof error);
    if (made->used) memcpy(payload, made->data, made->used);
    uint32_t status = mn_answer(server, k->type, payload, made->used, answer, &error);
    if (!memchr(error.text, 0, sizeof error.text) || (status != 0) != (*error.text != 0) || (!status && !answer->ok)) {
        fprintf(stderr, "%s: status %u with the text %.80s\n", k->name, status, error.text);
        abort();
    }
    if (!status) must_be_memory(answer->data, answer->used);
    if (!status && k->type == MN_SAVE) {
        saved = realloc(saved, answer->used);
        saved_bytes = answer->used;
        memcpy(saved, answer->data, saved_bytes);
    }
    ++*(status ? &k->refused : &k->done);
    free(payload);
}

static kind *find(uint32_t type) {
    kind *k = KINDS;
    while (k->type != type)
        k++;
    return k;
}

/* A file, a model, a session with logits and a sampler: what most requests need. */
static void begin(mn_server *server, mn_output *made, mn_output *answer) {
    static const mossnet_sampling SAMPLING = {.top_p = 1, .repetition_penalty = 1};
    char name[MN_STORE_NAME];
    mn_store_name(model_hash, name);
    made->used = 0;
    mn_put(made, model_hash, sizeof model_hash);
    mn_put_u64(made, model_bytes);
    mn_put_u64(made, 0);
    mn_put(made, model, model_bytes);
    ask(server, find(MN_PUT), made, answer);
    made->used = 0;
    mn_put_u64(made, MOSSNET_ALLOW_NATIVE);
    mn_put_u32(made, sizeof name - 1);
    mn_put(made, name, sizeof name);
    for (int i = 0; i < 3; i++) { /* device, cache_dir, driver */
        mn_put_u32(made, 0);
        mn_put(made, "", 1);
    }
    ask(server, find(MN_LOAD), made, answer);
    made->used = 0;
    mn_put_u64(made, 1); /* the model, and a thread for each CPU; of DECODE the session and a token */
    ask(server, find(MN_SESSION), made, answer);
    ask(server, find(MN_DECODE), made, answer);
    made->used = 0;
    mn_put(made, &SAMPLING, sizeof SAMPLING);
    ask(server, find(MN_SAMPLER), made, answer);
}

int main(int argc, char **argv) {
    FILE *f = argc > 3 ? fopen(argv[1], "rb") : NULL;
    if (!f) return 2;
    model = malloc(MOST);
    model_bytes = fread(model, 1, MOST, f);
    fclose(f);
    mn_sha256 sum;
    mn_sha256_start(&sum);
    mn_sha256_add(&sum, model, model_bytes);
    mn_sha256_end(&sum, model_hash);
    mn_server *server = calloc(1, sizeof *server);
    mn_output made = {0}, answer = {0};
    made.ok = true;
    kind unknown = {.name = "none", .payload = "u"};
    state = strtoull(argv[3], NULL, 10);
    for (unsigned long i = strtoul(argv[2], NULL, 10); i; i--) {
        kind *k = &KINDS[next(N_KINDS)];
        if (i % LIFE == 0) begin(server, &made, &answer);
        if ((k->type == MN_UNLOAD || k->type == MN_FREE_SESSION || k->type == MN_FREE_SAMPLER) && next(16)) continue;
        if (next(1000) == 0) {
            unknown.type = (uint32_t)next(1000) + 53;
            k = &unknown;
        }
        put_payload(&made, k);
        ask(server, k, &made, &answer);
        if (i % LIFE != 1) continue;
        mn_server_clear(server);
        memset(server, 0, sizeof *server);
    }
    mn_server_clear(server);
    free(server);
    free(made.data);
    free(answer.data);
    free(model);
    free(saved);
    for (int i = 0; i < N_KINDS; i++)
        printf("%s %lu %lu\n", KINDS[i].name, KINDS[i].done, KINDS[i].refused);
    return 0;
}
