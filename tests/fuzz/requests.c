/* Hostile requests against the runner, under AddressSanitizer: what comes over a wire may be anything.
 *
 *   requests STREAM random N SEED    N requests in the folder that it was started in: well-formed and broken ones, and
 * those of STREAM, a recorded talk, with something changed. Servers live for some hundred each, and begin with the talk
 * as it was. Prints for each kind: its name, how often it was done and how often refused
 */
#include "requests.h"
#include "fuzz.h"
#include "mock_driver.h"

enum { LIFE = 300, MOST_FRAMES = 100 };

typedef struct kind {
    const char *name, *payload;
    uint32_t type;
    unsigned long done, refused;
} kind;

#define ROW(name, small, type, payload, answer) {#name, payload, type, 0, 0},
static kind KINDS[] = {MN_REQUESTS(ROW)};
enum { N_KINDS = sizeof KINDS / sizeof *KINDS };

/* The talk. A file comes in one piece, in its first PUT. */
static struct {
    mn_frame frame;
    const unsigned char *payload;
} talk[MOST_FRAMES];
static size_t n_talk;

static const unsigned char *model, *model_hash;
static size_t model_bytes;

/* The library's would take what it is asked for, and so all of the machine's memory. */
mossnet_status mossnet_read_bandwidth(size_t bytes, uint32_t n_threads, uint32_t reps, double *bytes_per_s,
                                      mossnet_error *error) {
    (void)n_threads;
    *bytes_per_s = (double)bytes;
    return reps ? mn_ok(error) : mn_fail(error, MOSSNET_ARGUMENT, "no pass");
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
    case 'h': mn_put(out, model_hash, MN_SHA256_BYTES); break;
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

static uint32_t ask(mn_server *server, kind *k, const mn_output *made, mn_output *answer) {
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
    return status;
}

static kind *find(uint32_t type) {
    kind *k = KINDS;
    while (k->type != type)
        k++;
    return k;
}

static void read_talk(const unsigned char *stream, size_t size) {
    for (const unsigned char *at = stream; at < stream + size; n_talk++) {
        if (n_talk == MOST_FRAMES || !mn_frame_parse(at, &talk[n_talk].frame)) abort();
        talk[n_talk].payload = at += MN_FRAME_HEADER;
        at += talk[n_talk].frame.bytes;
        if (model || talk[n_talk].frame.type != MN_PUT) continue;
        mn_input in = {talk[n_talk].payload, talk[n_talk].frame.bytes, true};
        model_hash = mn_take(&in, MN_SHA256_BYTES);
        mn_take(&in, 16);
        model = in.at, model_bytes = in.left;
    }
}

static uint32_t say(mn_server *server, size_t i, mn_output *made, mn_output *answer, uint64_t changes) {
    made->used = 0;
    mn_put(made, talk[i].payload, talk[i].frame.bytes);
    for (; changes && made->used; changes--)
        made->data[next(next(4) && made->used > 64 ? 64 : made->used)] ^= (unsigned char)(1u << next(8));
    return ask(server, find(talk[i].frame.type), made, answer);
}

static void random_requests(unsigned char *stream, size_t size, unsigned long n) {
    mn_server *server = calloc(1, sizeof *server);
    mn_output made = {0}, answer = {0};
    kind unknown = {.name = "none", .payload = "u"};
    made.ok = true;
    read_talk(stream, size);
    for (unsigned long i = n; i; i--) {
        kind *k = &KINDS[next(N_KINDS)];
        if (i % LIFE == 0)
            for (size_t f = 0; f < n_talk; f++)
                if (say(server, f, &made, &answer, 0)) abort();
        if ((k->type == MN_UNLOAD || k->type == MN_FREE_SESSION || k->type == MN_FREE_SAMPLER) && next(16)) continue;
        if (next(1000) == 0) {
            unknown.type = (uint32_t)next(1000) + 53;
            k = &unknown;
        }
        if (next(8)) {
            put_payload(&made, k);
            ask(server, k, &made, &answer);
        } else {
            say(server, next(n_talk), &made, &answer, 1 + next(3));
        }
        if (i % LIFE != 1) continue;
        mn_server_clear(server);
        memset(server, 0, sizeof *server);
    }
    mn_server_clear(server);
    free(server);
    free(made.data);
    free(answer.data);
    free(saved);
    for (int i = 0; i < N_KINDS; i++)
        printf("%s %lu %lu\n", KINDS[i].name, KINDS[i].done, KINDS[i].refused);
}

int main(int argc, char **argv) {
    static const fuzz_mode modes[] = {{"random", random_requests}, {NULL, NULL}};
    return fuzz_run(argc, argv, modes);
}
