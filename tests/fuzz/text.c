/* Broken TEXT sections against the validator, under AddressSanitizer. Every section is judged in an exact-size
 * allocation; one that is accepted encodes some texts and decodes ids.
 *
 *   text SECTION cuts            every length; prints how many were accepted: 1, the whole
 *   text SECTION patches         mutants from stdin; prints 0 or 1 each
 *   text SECTION random N SEED   N random mutants; prints how many were accepted
 */
#include "fuzz.h"
#include "model.h"

enum { HEADER = 80, TABLES = 16 };

/* model.c's would unmap the file. */
void mossnet_model_free(mossnet_model *model) {
    model->n_users--;
}

static void must(mossnet_status status, const mossnet_error *error) {
    if (!status) return;
    fprintf(stderr, "an accepted section failed: %s %s\n", mossnet_status_name(status), error->text);
    abort();
}

static void encode(const mossnet_model *model, const char *text, size_t bytes) {
    char *exact = malloc(bytes ? bytes : 1);
    size_t n, again;
    mossnet_error error;
    memcpy(exact, text, bytes);
    must(mossnet_model_encode(model, exact, bytes, NULL, 0, &n, &error), &error);
    int32_t *ids = malloc((n ? n : 1) * sizeof *ids);
    must(mossnet_model_encode(model, exact, bytes, ids, n, &again, &error), &error);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= model->file.text->n_tokens) abort();
    if (n != again) abort();
    free(ids);
    free(exact);
}

static void decode(mossnet_model *model) {
    mossnet_decoder *decoder;
    mossnet_error error;
    const char *text;
    size_t bytes;
    must(mossnet_decoder_new(model, &decoder, &error), &error);
    uint32_t n = model->file.text->n_tokens, step = n / 500 + 1;
    for (uint32_t id = 0; id < n + 2 * step; id += step) {
        must(mossnet_decoder_push(decoder, (int32_t)id, &text, &bytes, &error), &error);
        if (text[bytes]) abort();
    }
    must(mossnet_decoder_push(decoder, -1, &text, &bytes, &error), &error);
    must(mossnet_decoder_flush(decoder, &text, &bytes, &error), &error);
    if (text[bytes]) abort();
    mossnet_decoder_free(decoder);
}

static void use(mossnet_model *model) {
    static const char *const texts[] = {
        "", "def f(x):\n    return x  # don't\r\n\t123 <|endoftext|> <|endof <l> <r>  <b> \xe2\x84\xab",
        "e\xcc\x81\xcc\xa3 \xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8 \xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7 \xcc\x81",
        "\xff\xc3 \xe2\x82 \xf0\x9f",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        encode(model, texts[i], strlen(texts[i]));
    decode(model);
}

/* `copy` is an allocation of `size` bytes. */
static int judge(unsigned char *copy, size_t size) {
    mossnet_model model = {.n_users = 1};
    mossnet_error error;
    mossnet_status status = mn_text_program_parse(copy, size, &model.file.text, &error);
    if (status != MOSSNET_OK && status != MOSSNET_FORMAT) abort();
    if (status && (model.file.text || strncmp(error.text, "TEXT: ", 6))) abort();
    if (!status) use(&model);
    mn_text_program_free(model.file.text);
    return status == MOSSNET_OK;
}

/* Where the header and the tables begin, by the counts of the section as it was: tables count alike, however long. */
static void places(const unsigned char *seed, size_t starts[TABLES + 2]) {
    uint32_t n[15];
    for (int i = 0; i < 15; i++)
        n[i] = u32(seed + 8 + 4 * i);
    const size_t sizes[TABLES] = {HEADER,
                                  256 * 4,
                                  n[0] * 4ul,
                                  n[2] * 16ul,
                                  n[3] * 4ul,
                                  (n[4] + n[5]) * 12ul,
                                  (n[7] + n[8]) * 4ul,
                                  n[9] * 12ul,
                                  n[12] * 8ul,
                                  n[13] * 4ul,
                                  n[14] * 12ul,
                                  (n[9] + (u32(seed + 4) & 1)) * 8704 * 2ul,
                                  n[10] * 2ul,
                                  n[11] * 128ul,
                                  n[1],
                                  n[6]};
    starts[0] = 0;
    for (int i = 0; i < TABLES; i++)
        starts[i + 1] = starts[i] + sizes[i];
}

static size_t some_place(const size_t starts[], size_t width) {
    for (;;) {
        size_t table = next(TABLES), bytes = starts[table + 1] - starts[table];
        if (bytes >= width) return starts[table] + next(bytes / width) * width;
    }
}

static uint32_t some_value(uint32_t now) {
    static const uint32_t INTERESTING[] = {0,        1,        2,       3,       255,        256,         32766,
                                           32767,    32768,    65535,   0xD7FF,  0xD800,     0xDFFF,      0xE000,
                                           0x10FFFF, 0x110000, 1 << 24, 1 << 28, 0x7fffffff, 0x80000000u, 0xffffffffu};
    switch (next(6)) {
    case 0: return now + 1;
    case 1: return now - 1;
    case 2: return now ^ 1u << next(32);
    case 3: return (uint32_t)next(40);
    case 4: return (uint32_t)next(now);
    default: return INTERESTING[next(sizeof INTERESTING / sizeof *INTERESTING)];
    }
}

static void mutate(unsigned char *section, const size_t starts[]) {
    size_t at, other;
    uint32_t value;
    switch (next(8)) {
    case 0:
        at = some_place(starts, 1);
        section[at] ^= (unsigned char)(1u << next(8));
        break;
    case 1: /* one row over another, or over anything */
        at = some_place(starts, 12), other = some_place(starts, 12);
        memmove(section + at, section + other, 12);
        break;
    case 2: /* u16 */
        at = some_place(starts, 2);
        value = some_value(section[at] | (uint32_t)section[at + 1] << 8);
        memcpy(section + at, &value, 2);
        break;
    default:
        at = some_place(starts, 4);
        value = some_value(u32(section + at));
        memcpy(section + at, &value, 4);
    }
}

static void random_mutants(unsigned char *seed, size_t size, unsigned long n) {
    unsigned char *section = malloc(size);
    unsigned long accepted = 0;
    size_t starts[TABLES + 2];
    places(seed, starts);
    if (starts[TABLES] != size) abort();
    for (unsigned long i = 0; i < n; i++) {
        memcpy(section, seed, size);
        for (uint64_t m = 1 + next(3); m > 0; m--)
            mutate(section, starts);
        accepted += (unsigned long)judge(section, size);
    }
    free(section);
    printf("%lu\n", accepted);
}

static void cuts(unsigned char *seed, size_t size, unsigned long n) {
    (void)n;
    int accepted = 0;
    for (size_t length = 0; length <= size; length += length < 2000 || length + 200 > size ? 1 : 97) {
        unsigned char *cut = malloc(length ? length : 1);
        memcpy(cut, seed, length);
        accepted += judge(cut, length);
        free(cut);
    }
    printf("%d\n", accepted);
}

static void patches(unsigned char *seed, size_t size, unsigned long n) {
    (void)n;
    fuzz_patches(seed, size, judge);
}

int main(int argc, char **argv) {
    static const fuzz_mode modes[] = {{"cuts", cuts}, {"patches", patches}, {"random", random_mutants}, {NULL, NULL}};
    return fuzz_run(argc, argv, modes);
}
