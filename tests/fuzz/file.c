/* Broken model files against the validator, under AddressSanitizer. Every file is judged in an exact-size allocation;
 * one that is accepted runs on a driver that touches what the plan lets a kernel touch, instead of running kernels.
 *
 *   file MODEL cuts            every length; prints how many were accepted: 2, the whole as it is and rewritten
 *   file MODEL patches         mutants from stdin; prints 0 or 1 each
 *   file MODEL random N SEED   N random mutants; prints how many were accepted and how many of them ran
 *   file MODEL states N SEED   N random mutants of the saved state in stdin; prints how many were accepted
 */
#include "fuzz.h"
#include "mock_driver.h"

#include <sanitizer/asan_interface.h>
#include <stdatomic.h>

enum { SMALL = 1 << 20 }; /* a plan that wants more memory is judged, but not run */

static unsigned long n_ran;

/* model.c's would unmap the file. */
void mossnet_model_free(mossnet_model *model) {
    atomic_fetch_sub(&model->n_users, 1);
}

static void must(mossnet_status status, const mossnet_error *error) {
    if (!status || status == MOSSNET_CONTEXT) return; /* max_context may be small */
    fprintf(stderr, "an accepted plan failed: %s %s\n", mossnet_status_name(status), error->text);
    abort();
}

static void read_buffers(mossnet_session *session) {
    const mn_file *file = &session->model->file;
    mossnet_error error;
    for (uint32_t i = 0; i < file->n_buffers; i++) {
        const mn_buffer *buffer = &file->buffers[i];
        void *bytes = malloc(buffer->bytes);
        must_be_memory(file->strings + buffer->name, strlen(file->strings + buffer->name) + 1);
        must(mossnet_session_read(session, i, bytes, buffer->bytes, &error), &error);
        if (buffer->region != MN_WEIGHTS) must(mossnet_session_write(session, i, bytes, buffer->bytes, &error), &error);
        free(bytes);
    }
}

static void use(mossnet_session *session) {
    const mn_file *file = &session->model->file;
    uint32_t n = file->chunk < 3 ? 3 : file->chunk + 1;
    int32_t *ids = calloc(n, sizeof *ids);
    float *rows = malloc((size_t)n * file->vocab_size * sizeof *rows);
    double *seconds = malloc((file->n_steps + 1) * sizeof *seconds);
    size_t capacity = mossnet_session_state_bytes(session), used;
    void *state = malloc(capacity);
    const float *logits;
    mossnet_session *other;
    mossnet_error error;
    must(mossnet_session_prefill(session, ids, 3, &logits, &error), &error);
    must(mossnet_session_score(session, ids, n, rows, &error), &error);
    must(mossnet_session_decode(session, 0, &logits, &error), &error);
    must(mossnet_session_save(session, state, capacity, &used, &error), &error);
    must(mossnet_session_fork(session, &other, &error), &error);
    must(mossnet_session_restore(other, state, used, &error), &error);
    must(mossnet_session_profile(other, MOSSNET_PREFILL, 1, seconds, &error), &error);
    read_buffers(other);
    mossnet_session_free(other);
    free(state);
    free(seconds);
    free(rows);
    free(ids);
}

static int small(const mn_file *file) {
    uint64_t bytes = 0;
    for (int region = MN_STATE; region < MN_REGIONS; region++) {
        if (file->region_bytes[region] > SMALL) return 0;
        bytes += file->region_bytes[region];
    }
    return bytes <= SMALL && (uint64_t)file->chunk * file->vocab_size <= SMALL / 4;
}

/* `copy` is an allocation of `size` bytes. */
static int judge(unsigned char *copy, size_t size) {
    mossnet_model model = {.data = copy, .bytes = size, .driver = &mn_driver_cpu, .n_users = 1};
    mossnet_error error;
    mossnet_status status = mn_file_parse(copy, size, 0, &model.file, &error);
    if (status != MOSSNET_OK && status != MOSSNET_FORMAT) abort();
    if (!status) {
        mn_device device = {&model.file, copy};
        mossnet_session *session;
        model.device = &device;
        must_be_memory(copy + model.file.tokenizer.offset, model.file.tokenizer.bytes);
        for (uint32_t i = 0; i < model.file.n_meta; i++)
            mn_file_meta(&model.file, model.file.strings + model.file.meta[i].value);
        if (small(&model.file)) {
            must(mossnet_session_new(&model, 1, &session, &error), &error);
            use(session);
            mossnet_session_free(session);
            n_ran++;
        }
        mn_file_free(&model.file);
    }
    return status == MOSSNET_OK;
}

/* ---- Random mutants ---- */

/* A field of the header, of the section table or of a section; sections count alike, however long they are. */
static size_t some_field(const unsigned char *file, size_t size, size_t width) {
    uint32_t n = u32(file + 12), pick = (uint32_t)next(n + 4ull);
    size_t from = 64 + 32ull * (pick % n), bytes = 32;
    if (pick < n) {
        from = (size_t)u64(file + 64 + 32ull * pick + 8);
        bytes = (size_t)u64(file + 64 + 32ull * pick + 16);
    } else if (pick == n) {
        from = 0, bytes = 64;
    }
    if (bytes < width || from > size || bytes > size - from) return 64;
    return from + next(bytes / width) * width;
}

static uint64_t some_value(uint64_t now) {
    static const uint64_t INTERESTING[] = {0,
                                           1,
                                           2,
                                           3,
                                           255,
                                           256,
                                           257,
                                           65535,
                                           65536,
                                           1u << 20,
                                           (1u << 20) + 1,
                                           1u << 24,
                                           1u << 31,
                                           0xffffffffu,
                                           1ull << 32,
                                           1ull << 40,
                                           (1ull << 40) + 1,
                                           1ull << 63,
                                           ~0ull,
                                           ~0ull - 255,
                                           0x7fffffffu,
                                           24,
                                           25,
                                           64};
    switch (next(6)) {
    case 0: return now + 1;
    case 1: return now - 1;
    case 2: return now + 256;
    case 3: return now ^ 1ull << next(64);
    case 4: return next(40);
    default: return INTERESTING[next(sizeof INTERESTING / sizeof *INTERESTING)];
    }
}

static void mutate(unsigned char *file, size_t size) {
    size_t width = next(3) ? 4 : 8, at = some_field(file, size, width), other;
    uint64_t value;
    switch (next(12)) {
    case 0: file[next(size)] ^= (unsigned char)(1u << next(8)); break;
    case 1: /* one record over another of its kind, or over anything */
        other = some_field(file, size, 16);
        if (at + 16 <= size) memmove(file + at, file + other, 16);
        break;
    case 2: /* two sections change places in the table */
        at = 64 + 32 * next(u32(file + 12) % 64 + 1), other = 64 + 32 * next(u32(file + 12) % 64 + 1);
        for (int i = 0; i < 32; i++) {
            unsigned char byte = file[at + (size_t)i];
            file[at + (size_t)i] = file[other + (size_t)i];
            file[other + (size_t)i] = byte;
        }
        break;
    case 3: /* same value as another field */
        other = some_field(file, size, width);
        memmove(file + at, file + other, width);
        break;
    default:
        value = width == 4 ? u32(file + at) : u64(file + at);
        value = some_value(value);
        memcpy(file + at, &value, width);
    }
}

static void random_mutants(unsigned char *seed, size_t size, unsigned long n) {
    unsigned char *file = malloc(size);
    unsigned long accepted = 0;
    for (unsigned long i = 0; i < n; i++) {
        memcpy(file, seed, size);
        for (uint64_t m = 1 + next(3); m > 0 && u32(file + 12) && u32(file + 12) < 64; m--)
            mutate(file, size);
        if (next(16)) {
            accepted += (unsigned long)judge(file, size);
            continue;
        }
        size_t length = 64 + next(size - 63); /* cut, and the header knows */
        unsigned char *cut = malloc(length);
        memcpy(file + 16, &length, 8);
        memcpy(cut, file, length);
        accepted += (unsigned long)judge(cut, length);
        free(cut);
    }
    free(file);
    printf("%lu %lu\n", accepted, n_ran);
}

/* Every length, as it is and with a header that knows. The rest of one allocation is poisoned byte by byte. */
static void cuts(unsigned char *file, size_t size, unsigned long n) {
    (void)n;
    int accepted = 0;
    unsigned char header[64];
    memcpy(header, file, sizeof header);
    for (size_t length = size;; length--) {
        ASAN_POISON_MEMORY_REGION(file + length, size - length);
        for (int known = 0; known < 2 && (!known || length >= 64); known++) {
            mn_file parsed;
            if (length >= 64) memcpy(file + 16, known ? (const void *)&length : (const void *)(header + 16), 8);
            if (mn_file_parse(file, length, 0, &parsed, NULL)) continue;
            accepted++;
            mn_file_free(&parsed);
        }
        if (!length) break;
    }
    ASAN_UNPOISON_MEMORY_REGION(file, size);
    printf("%d\n", accepted);
}

static void patches(unsigned char *seed, size_t size, unsigned long n) {
    (void)n;
    fuzz_patches(seed, size, judge);
}

/* Saved states, changed in a few places, cut or made longer: refused, or read like any other. */
static void random_states(unsigned char *file, size_t size, unsigned long n) {
    mossnet_model model = {.data = file, .bytes = size, .driver = &mn_driver_cpu, .n_users = 1};
    mossnet_error error;
    mossnet_session *session;
    unsigned char saved[1 << 12];
    size_t used = fread(saved, 1, sizeof saved, stdin);
    unsigned long accepted = 0;
    if (mn_file_parse(file, size, 0, &model.file, &error)) abort();
    mn_device device = {&model.file, file};
    model.device = &device;
    must(mossnet_session_new(&model, 1, &session, &error), &error);
    must(mossnet_session_restore(session, saved, used, &error), &error);
    for (unsigned long i = 0; i < n; i++) {
        size_t bytes = next(8) ? used : next(used + 64);
        unsigned char *changed = malloc(bytes ? bytes : 1);
        memset(changed, 0x5a, bytes);
        memcpy(changed, saved, bytes < used ? bytes : used);
        for (uint64_t m = next(4); m && bytes; m--) /* the header has 80 bytes, and most of what is checked */
            changed[next(next(4) && bytes > 80 ? 80 : bytes)] ^= (unsigned char)(1u << next(8));
        mossnet_status status = mossnet_session_restore(session, changed, bytes, &error);
        if (status && status != MOSSNET_STATE) abort();
        accepted += !status;
        must(mossnet_session_decode(session, 1, NULL, &error), &error);
        free(changed);
    }
    mossnet_session_free(session);
    mn_file_free(&model.file);
    printf("%lu\n", accepted);
}

int main(int argc, char **argv) {
    static const fuzz_mode modes[] = {
        {"cuts", cuts}, {"patches", patches}, {"random", random_mutants}, {"states", random_states}, {NULL, NULL}};
    return fuzz_run(argc, argv, modes);
}
