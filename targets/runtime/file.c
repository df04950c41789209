#include "file.h"

#include "crc.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && sizeof(size_t) == 8,
               "a .moss file is read as it stands: 64-bit little-endian machines only");

enum {
    VERSION = 2,
    HEADER_BYTES = 64,
    SECTION_BYTES = 32,
    SECTION_ALIGN = 64,
    PAGE_ALIGN = 65536, /* CODE and WEIGHTS: the largest page of the machines that map them */
    BUFFER_ALIGN = 256,
    MAX_SECTIONS = 64,
    MAX_RECORDS = 1 << 20,
    MAX_TILES = 1 << 24,
    MAX_BLOCK = 1024, /* threads in a group */
    MAX_LOCAL_BYTES = 1 << 20,
    MAX_STRING_BYTES = 1 << 30,
};
static const uint64_t MAX_REGION_BYTES = UINT64_C(1) << 40;

enum section_type {
    STR = 1,
    META,
    MODEL,
    BUFFER,
    KERNEL,
    PARAM,
    STEP,
    ARG,
    ENTRY,
    CODE,
    TOKENIZER,
    WEIGHTS,
    TEXT,
    SECTION_TYPES
};

/* record_bytes 0: the section is no table. shared: all variants have it in common, the others each have their own. */
static const struct section_rule {
    const char *name;
    uint32_t record_bytes;
    bool required, shared;
} RULES[SECTION_TYPES] = {
    [STR] = {"STR", 0, true, false},
    [META] = {"META", 8, false, false},
    [MODEL] = {"MODEL", 64, true, false},
    [BUFFER] = {"BUFFER", 32, true, false},
    [KERNEL] = {"KERNEL", 48, true, false},
    [PARAM] = {"PARAM", 16, true, false},
    [STEP] = {"STEP", 48, true, false},
    [ARG] = {"ARG", 4, true, false},
    [ENTRY] = {"ENTRY", 48, true, false},
    [CODE] = {"CODE", 0, true, false},
    [TOKENIZER] = {"TOKENIZER", 0, false, true},
    [WEIGHTS] = {"WEIGHTS", 0, true, true},
    [TEXT] = {"TEXT", 0, false, true},
};

typedef struct reader {
    const unsigned char *data;
    uint64_t bytes;
    uint32_t variant; /* the one that is read */
    mn_span section[SECTION_TYPES];
    bool present[SECTION_TYPES];
    mn_file *file;
    mossnet_error *error;
} reader;

#define REFUSE(r, ...) mn_fail((r)->error, MOSSNET_FORMAT, __VA_ARGS__)
/* uint64_t is `unsigned long` on Linux and `unsigned long long` elsewhere; texts print through this. */
#define LLU(value) ((unsigned long long)(value))

/* Fields are read by memcpy: a section is 64-byte aligned in a mapped file, but a file in memory need not be. */
static uint32_t u32(const unsigned char *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t u64(const unsigned char *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* Whether offset + bytes lies within size, without computing a sum that can wrap. */
static bool in(uint64_t offset, uint64_t bytes, uint64_t size) {
    return offset <= size && bytes <= size - offset;
}

/* Reserved fields are zero: a file that uses one was written to a later definition. */
static bool zero(const unsigned char *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (at[i]) return false;
    return true;
}

static mossnet_status read_header(reader *r, uint32_t *n_sections) {
    const unsigned char *h = r->data;
    if (r->bytes < HEADER_BYTES)
        return REFUSE(r, "%llu bytes are too few for a model (a header has %d)", LLU(r->bytes), HEADER_BYTES);
    if (memcmp(h, "MOSSTG\r\n", 8)) return REFUSE(r, "no model.moss: it does not start with \"MOSSTG\\r\\n\"");
    if (u32(h + 8) != VERSION)
        return REFUSE(r, "format version %u, this library reads version %d", u32(h + 8), VERSION);
    *n_sections = u32(h + 12);
    if (*n_sections < 1 || *n_sections > MAX_SECTIONS)
        return REFUSE(r, "%u sections, expected 1 to %d", *n_sections, MAX_SECTIONS);
    if (u64(h + 16) != r->bytes)
        return REFUSE(r, "the file has %llu bytes, its header says %llu: it is cut short or damaged", LLU(r->bytes),
                      LLU(u64(h + 16)));
    if (u64(h + 24) != HEADER_BYTES)
        return REFUSE(r, "section table at offset %llu, expected %d", LLU(u64(h + 24)), HEADER_BYTES);
    if (!in(HEADER_BYTES, (uint64_t)*n_sections * SECTION_BYTES, r->bytes))
        return REFUSE(r, "the section table of %u entries lies beyond the end of the file", *n_sections);
    memcpy(r->file->model_hash, h + 32, sizeof r->file->model_hash);
    return MOSSNET_OK;
}

static mossnet_status read_known_section(reader *r, uint32_t type, mn_span span) {
    const struct section_rule *rule = &RULES[type];
    if (r->present[type]) return REFUSE(r, "section %s is there twice", rule->name);
    if ((type == CODE || type == WEIGHTS) && span.offset % PAGE_ALIGN)
        return REFUSE(r, "section %s at offset %llu, expected a multiple of %d", rule->name, LLU(span.offset),
                      PAGE_ALIGN);
    if (rule->record_bytes && span.bytes % rule->record_bytes)
        return REFUSE(r, "section %s has %llu bytes, expected a multiple of %u", rule->name, LLU(span.bytes),
                      rule->record_bytes);
    if (rule->record_bytes && span.bytes / rule->record_bytes > MAX_RECORDS)
        return REFUSE(r, "section %s has %llu records, at most %d are allowed", rule->name,
                      LLU(span.bytes / rule->record_bytes), MAX_RECORDS);
    r->section[type] = span;
    r->present[type] = true;
    return MOSSNET_OK;
}

static mossnet_status read_sections(reader *r, uint32_t n_sections) {
    uint64_t end = HEADER_BYTES + (uint64_t)n_sections * SECTION_BYTES; /* of what came before */
    for (uint32_t i = 0; i < n_sections; i++) {
        const unsigned char *s = r->data + HEADER_BYTES + (size_t)i * SECTION_BYTES;
        uint32_t type = u32(s), flags = u32(s + 4), variant = u32(s + 28);
        mn_span span = {u64(s + 8), u64(s + 16)};
        bool known = type >= STR && type < SECTION_TYPES, shared = known && RULES[type].shared;
        if (flags & ~1u) return REFUSE(r, "section %u: reserved bits are set", i);
        if (variant >= MN_MAX_VARIANTS || (shared && variant))
            return REFUSE(r, "section %u is of variant %u, expected %s", i, variant, shared ? "0" : "0 to 5");
        if (span.offset % SECTION_ALIGN)
            return REFUSE(r, "section %u at offset %llu, expected a multiple of %d", i, LLU(span.offset),
                          SECTION_ALIGN);
        if (!in(span.offset, span.bytes, r->bytes)) return REFUSE(r, "section %u lies beyond the end of the file", i);
        if (span.offset < end) return REFUSE(r, "section %u overlaps what stands before it", i);
        if (r->present[WEIGHTS]) return REFUSE(r, "section %u stands after WEIGHTS, which must be the last", i);
        end = span.offset + span.bytes;
        if (variant >= r->file->n_variants) r->file->n_variants = variant + 1;
        if (!known && flags & 1)
            return REFUSE(r, "section %u is of type %u, which this library does not know but must", i, type);
        if (!known || (!shared && variant != r->variant)) continue;
        mossnet_status status = read_known_section(r, type, span);
        if (status) return status;
    }
    for (uint32_t type = STR; type < SECTION_TYPES; type++)
        if (RULES[type].required && !r->present[type])
            return REFUSE(r, "section %s is missing in variant %u", RULES[type].name, r->variant);
    r->file->code = r->section[CODE];
    r->file->weights = r->section[WEIGHTS];
    r->file->tokenizer = r->section[TOKENIZER];
    return MOSSNET_OK;
}

/* Memory for a table's decoded records; one is allocated for an empty table, so that NULL means no memory. */
static void *records(const reader *r, uint32_t type, size_t bytes_each, uint32_t *n) {
    *n = (uint32_t)(r->section[type].bytes / RULES[type].record_bytes);
    return calloc(*n ? *n : 1, bytes_each);
}

static const unsigned char *record(const reader *r, uint32_t type, uint32_t i) {
    return r->data + r->section[type].offset + (size_t)i * RULES[type].record_bytes;
}

static mossnet_status no_memory(reader *r, uint32_t type) {
    return mn_fail(r->error, MOSSNET_MEMORY, "no memory for section %s", RULES[type].name);
}

static mossnet_status read_strings(reader *r) {
    mn_span s = r->section[STR];
    const unsigned char *text = r->data + s.offset;
    if (s.bytes < 1 || s.bytes > MAX_STRING_BYTES)
        return REFUSE(r, "section STR has %llu bytes, expected 1 to %d", LLU(s.bytes), MAX_STRING_BYTES);
    if (text[0] || text[s.bytes - 1]) return REFUSE(r, "section STR does not start and end with NUL");
    r->file->strings = malloc(s.bytes);
    if (!r->file->strings) return no_memory(r, STR);
    memcpy(r->file->strings, text, s.bytes);
    r->file->strings[s.bytes - 1] = 0; /* whatever the file did since it was checked */
    r->file->n_strings_bytes = (uint32_t)s.bytes;
    return MOSSNET_OK;
}

static bool string_exists(const reader *r, uint32_t reference) {
    return reference < r->file->n_strings_bytes;
}

static mossnet_status read_meta(reader *r) {
    mn_file *f = r->file;
    if (!(f->meta = records(r, META, sizeof *f->meta, &f->n_meta))) return no_memory(r, META);
    for (uint32_t i = 0; i < f->n_meta; i++) {
        const unsigned char *at = record(r, META, i);
        f->meta[i] = (mn_meta){u32(at), u32(at + 4)};
        if (!string_exists(r, f->meta[i].key) || !string_exists(r, f->meta[i].value))
            return REFUSE(r, "META %u refers beyond the strings", i);
    }
    return MOSSNET_OK;
}

static mossnet_status read_model(reader *r) {
    mn_file *f = r->file;
    const unsigned char *at = record(r, MODEL, 0);
    if (r->section[MODEL].bytes != RULES[MODEL].record_bytes)
        return REFUSE(r, "section MODEL has %llu bytes, expected %u", LLU(r->section[MODEL].bytes),
                      RULES[MODEL].record_bytes);
    f->vocab_size = u32(at);
    f->chunk = u32(at + 4);
    f->max_context = u32(at + 8);
    f->n_params = u32(at + 12);
    f->region_bytes[MN_WEIGHTS] = r->section[WEIGHTS].bytes;
    f->region_bytes[MN_STATE] = u64(at + 16);
    f->region_bytes[MN_ARENA] = u64(at + 24);
    f->region_bytes[MN_IO] = u64(at + 32);
    if (!zero(at + 40, 24)) return REFUSE(r, "MODEL: reserved bytes are set");
    if (f->vocab_size < 1 || f->vocab_size > INT32_MAX) return REFUSE(r, "MODEL: vocab_size %u", f->vocab_size);
    if (f->chunk < 1 || f->chunk > MAX_RECORDS)
        return REFUSE(r, "MODEL: chunk %u, expected 1 to %d", f->chunk, MAX_RECORDS);
    if (f->n_params < 2 || f->n_params > MAX_RECORDS)
        return REFUSE(r, "MODEL: n_params %u, expected 2 to %d", f->n_params, MAX_RECORDS);
    for (int region = MN_WEIGHTS; region < MN_REGIONS; region++)
        if (f->region_bytes[region] > MAX_REGION_BYTES)
            return REFUSE(r, "MODEL: region %d has %llu bytes, at most %llu are allowed", region,
                          LLU(f->region_bytes[region]), LLU(MAX_REGION_BYTES));
    return MOSSNET_OK;
}

static mossnet_status read_buffers(reader *r) {
    mn_file *f = r->file;
    if (!(f->buffers = records(r, BUFFER, sizeof *f->buffers, &f->n_buffers))) return no_memory(r, BUFFER);
    for (uint32_t i = 0; i < f->n_buffers; i++) {
        const unsigned char *at = record(r, BUFFER, i);
        mn_buffer b = {u32(at), u32(at + 4), u32(at + 8), u64(at + 16), u64(at + 24)};
        if (!zero(at + 12, 4)) return REFUSE(r, "BUFFER %u: reserved bytes are set", i);
        if (b.region >= MN_REGIONS) return REFUSE(r, "BUFFER %u: region %u, expected 0 to 3", i, b.region);
        if (b.dtype >= MN_DTYPES) return REFUSE(r, "BUFFER %u: dtype %u, expected 0 to 8", i, b.dtype);
        if (!string_exists(r, b.name)) return REFUSE(r, "BUFFER %u: its name lies beyond the strings", i);
        if (b.offset % BUFFER_ALIGN)
            return REFUSE(r, "BUFFER %u: offset %llu, expected a multiple of %d", i, LLU(b.offset), BUFFER_ALIGN);
        if (!in(b.offset, b.bytes, f->region_bytes[b.region]))
            return REFUSE(r, "BUFFER %u: %llu bytes at %llu do not fit into region %u of %llu", i, LLU(b.bytes),
                          LLU(b.offset), b.region, LLU(f->region_bytes[b.region]));
        f->buffers[i] = b;
    }
    return MOSSNET_OK;
}

static mossnet_status read_params(reader *r) {
    mn_file *f = r->file;
    if (!(f->params = records(r, PARAM, sizeof *f->params, &f->n_params_all))) return no_memory(r, PARAM);
    for (uint32_t i = 0; i < f->n_params_all; i++) {
        const unsigned char *at = record(r, PARAM, i);
        f->params[i] = (mn_param){u64(at), u32(at + 8)};
        if (f->params[i].access > (MN_ACCESS_READ | MN_ACCESS_WRITTEN))
            return REFUSE(r, "PARAM %u: access %u, expected 0 to 3", i, f->params[i].access);
        if (!zero(at + 12, 4)) return REFUSE(r, "PARAM %u: reserved bytes are set", i);
    }
    return MOSSNET_OK;
}

static mossnet_status read_kernels(reader *r) {
    mn_file *f = r->file;
    if (!(f->kernels = records(r, KERNEL, sizeof *f->kernels, &f->n_kernels))) return no_memory(r, KERNEL);
    for (uint32_t i = 0; i < f->n_kernels; i++) {
        const unsigned char *at = record(r, KERNEL, i);
        mn_kernel k = {u32(at),
                       u32(at + 4),
                       u32(at + 8),
                       {u64(at + 16), u64(at + 24)},
                       {u32(at + 32), u32(at + 36), u32(at + 40)},
                       u32(at + 44)};
        if (!string_exists(r, k.name)) return REFUSE(r, "KERNEL %u: its name lies beyond the strings", i);
        if (u32(at + 12)) return REFUSE(r, "KERNEL %u: reserved bits are set", i);
        if (k.n_params < 1 || k.n_params > MN_MAX_PARAMS)
            return REFUSE(r, "KERNEL %u: %u parameters, expected 1 to %d", i, k.n_params, MN_MAX_PARAMS);
        if (!in(k.first_param, k.n_params, f->n_params_all))
            return REFUSE(r, "KERNEL %u: its parameters lie beyond the table", i);
        if (k.code.bytes < 1 || !in(k.code.offset, k.code.bytes, f->code.bytes))
            return REFUSE(r, "KERNEL %u: %llu bytes of code at %llu do not fit into CODE of %llu", i, LLU(k.code.bytes),
                          LLU(k.code.offset), LLU(f->code.bytes));
        for (int d = 0; d < 3; d++)
            if (k.block[d] < 1 || k.block[d] > MAX_BLOCK)
                return REFUSE(r, "KERNEL %u: block[%d] is %u, expected 1 to %d", i, d, k.block[d], MAX_BLOCK);
        if (k.block[0] * k.block[1] * k.block[2] > MAX_BLOCK)
            return REFUSE(r, "KERNEL %u: a block of %u threads, at most %d are allowed", i,
                          k.block[0] * k.block[1] * k.block[2], MAX_BLOCK);
        if (k.local_bytes > MAX_LOCAL_BYTES)
            return REFUSE(r, "KERNEL %u: %u bytes of local memory, at most %d are allowed", i, k.local_bytes,
                          MAX_LOCAL_BYTES);
        f->kernels[i] = k;
    }
    return MOSSNET_OK;
}

static mossnet_status read_args(reader *r) {
    mn_file *f = r->file;
    if (!(f->args = records(r, ARG, sizeof *f->args, &f->n_args))) return no_memory(r, ARG);
    for (uint32_t i = 0; i < f->n_args; i++) {
        f->args[i] = u32(record(r, ARG, i));
        if (f->args[i] >= f->n_buffers) return REFUSE(r, "ARG %u: buffer %u of %u", i, f->args[i], f->n_buffers);
    }
    return MOSSNET_OK;
}

/* Each argument is as large as its parameter needs, and no weights are written. */
static mossnet_status check_binding(reader *r, uint32_t i, const mn_step *step, const mn_kernel *kernel) {
    const mn_file *f = r->file;
    for (uint32_t a = 0; a < step->n_args; a++) {
        const mn_param *param = &f->params[kernel->first_param + a];
        const mn_buffer *buffer = &f->buffers[f->args[step->first_arg + a]];
        if (buffer->bytes < param->bytes)
            return REFUSE(r, "STEP %u: argument %u has %llu bytes, its kernel needs %llu", i, a, LLU(buffer->bytes),
                          LLU(param->bytes));
        if (param->access & MN_ACCESS_WRITTEN && buffer->region == MN_WEIGHTS)
            return REFUSE(r, "STEP %u: argument %u would write into the weights", i, a);
    }
    return MOSSNET_OK;
}

static mossnet_status read_steps(reader *r) {
    mn_file *f = r->file;
    if (!(f->steps = records(r, STEP, sizeof *f->steps, &f->n_steps))) return no_memory(r, STEP);
    for (uint32_t i = 0; i < f->n_steps; i++) {
        const unsigned char *at = record(r, STEP, i);
        mn_step s = {u32(at),     u32(at + 4), u32(at + 8), u32(at + 12), {u32(at + 16), u32(at + 20), u32(at + 24)},
                     u32(at + 28)};
        if (s.kernel >= f->n_kernels) return REFUSE(r, "STEP %u: kernel %u of %u", i, s.kernel, f->n_kernels);
        const mn_kernel *kernel = &f->kernels[s.kernel];
        if (s.n_args != kernel->n_params)
            return REFUSE(r, "STEP %u: %u arguments, its kernel has %u parameters", i, s.n_args, kernel->n_params);
        if (!in(s.first_arg, s.n_args, f->n_args)) return REFUSE(r, "STEP %u: its arguments lie beyond the table", i);
        if (!string_exists(r, s.label)) return REFUSE(r, "STEP %u: its label lies beyond the strings", i);
        for (int d = 0; d < 3; d++)
            if (s.grid[d] < 1 || s.grid[d] > MAX_TILES)
                return REFUSE(r, "STEP %u: grid[%d] is %u, expected 1 to %d", i, d, s.grid[d], MAX_TILES);
        if (s.flags & ~(uint32_t)MN_STEP_SMALL || !zero(at + 32, 16))
            return REFUSE(r, "STEP %u: reserved bits are set", i);
        mossnet_status status = check_binding(r, i, &s, kernel);
        if (status) return status;
        f->steps[i] = s;
    }
    return MOSSNET_OK;
}

static mossnet_status check_io(reader *r, uint32_t i, const char *what, uint32_t index, uint32_t dtype,
                               uint64_t count) {
    const mn_file *f = r->file;
    if (index >= f->n_buffers) return REFUSE(r, "ENTRY %u: %s is buffer %u of %u", i, what, index, f->n_buffers);
    const mn_buffer *b = &f->buffers[index];
    if (b->region != MN_IO || b->dtype != dtype)
        return REFUSE(r, "ENTRY %u: %s is in region %u with dtype %u, expected region %d and dtype %u", i, what,
                      b->region, b->dtype, MN_IO, dtype);
    if (b->bytes < count * 4)
        return REFUSE(r, "ENTRY %u: %s has %llu bytes, expected at least %llu", i, what, LLU(b->bytes), LLU(count * 4));
    return MOSSNET_OK;
}

static mossnet_status check_entry(reader *r, uint32_t i, const mn_entry *e) {
    const mn_file *f = r->file;
    if (e->kind >= MOSSNET_ENTRY_KINDS) return REFUSE(r, "ENTRY %u: kind %u, expected 0 to 2", i, e->kind);
    if (f->entry[e->kind]) return REFUSE(r, "ENTRY %u: kind %u is there twice", i, e->kind);
    if (!string_exists(r, e->name)) return REFUSE(r, "ENTRY %u: its name lies beyond the strings", i);
    if (!in(e->first_step, e->n_steps, f->n_steps)) return REFUSE(r, "ENTRY %u: its steps lie beyond the table", i);
    uint32_t n_tokens = e->kind == MOSSNET_DECODE ? 1 : f->chunk;
    uint32_t n_logits = e->kind == MOSSNET_SCORE ? f->chunk : 1;
    if (e->n_tokens != n_tokens || e->n_logits != n_logits)
        return REFUSE(r, "ENTRY %u: %u tokens and %u logits, expected %u and %u", i, e->n_tokens, e->n_logits, n_tokens,
                      n_logits);
    mossnet_status status = check_io(r, i, "ids", e->ids, MN_I32, n_tokens);
    if (!status) status = check_io(r, i, "params", e->params, MN_I32, f->n_params);
    if (!status) status = check_io(r, i, "logits", e->logits, MN_F32, (uint64_t)n_logits * f->vocab_size);
    return status;
}

static mossnet_status read_entries(reader *r) {
    mn_file *f = r->file;
    if (!(f->entries = records(r, ENTRY, sizeof *f->entries, &f->n_entries))) return no_memory(r, ENTRY);
    for (uint32_t i = 0; i < f->n_entries; i++) {
        const unsigned char *at = record(r, ENTRY, i);
        f->entries[i] = (mn_entry){u32(at),      u32(at + 4),  u32(at + 8),  u32(at + 12), u32(at + 16),
                                   u32(at + 20), u32(at + 24), u32(at + 28), u32(at + 32)};
        if (!zero(at + 36, 12)) return REFUSE(r, "ENTRY %u: reserved bytes are set", i);
        mossnet_status status = check_entry(r, i, &f->entries[i]);
        if (status) return status;
        f->entry[f->entries[i].kind] = &f->entries[i];
    }
    if (!f->entry[MOSSNET_DECODE] || !f->entry[MOSSNET_PREFILL])
        return REFUSE(r, "the entry %s is missing", f->entry[MOSSNET_DECODE] ? "prefill" : "decode");
    return MOSSNET_OK;
}

static mossnet_status read_text(reader *r) {
    mn_span span = r->section[TEXT];
    if (!span.bytes) return MOSSNET_OK;
    return mn_text_program_parse(r->data + span.offset, span.bytes, &r->file->text, r->error);
}

static mossnet_status parse(reader *r) {
    static mossnet_status (*const passes[])(reader *) = {read_strings, read_meta, read_model, read_buffers, read_params,
                                                         read_kernels, read_args, read_steps, read_entries};
    *r->file = (mn_file){.n_meta = 0};
    uint32_t n_sections = 0;
    mossnet_status status = read_header(r, &n_sections);
    if (!status) status = read_sections(r, n_sections);
    for (size_t i = 0; !status && i < sizeof passes / sizeof *passes; i++)
        status = passes[i](r);
    if (status) mn_file_free(r->file);
    return status;
}

mossnet_status mn_file_parse(const void *data, uint64_t bytes, uint32_t variant, mn_file *file, mossnet_error *error) {
    reader r = {.data = data, .bytes = bytes, .variant = variant, .file = file, .error = error};
    mossnet_status status = parse(&r);
    if (status) return status;
    status = read_text(&r);
    for (uint32_t other = 0; !status && other < file->n_variants; other++) {
        mn_file unused;
        reader o = {.data = data, .bytes = bytes, .variant = other, .file = &unused, .error = error};
        if (other != variant && !(status = parse(&o))) mn_file_free(&unused);
    }
    if (status) {
        mn_file_free(file);
        return status;
    }
    return mn_ok(error);
}

mossnet_status mn_file_check_sums(const void *data, mossnet_error *error) {
    const unsigned char *file = data;
    for (uint32_t i = 0; i < u32(file + 12); i++) {
        const unsigned char *s = file + HEADER_BYTES + (size_t)i * SECTION_BYTES;
        if (u32(s) != WEIGHTS && mn_crc32(file + u64(s + 8), u64(s + 16)) != u32(s + 24))
            return mn_fail(error, MOSSNET_FORMAT, "section %u (%s) is damaged: its checksum does not match", i,
                           u32(s) >= STR && u32(s) < SECTION_TYPES ? RULES[u32(s)].name : "unknown");
    }
    return mn_ok(error);
}

void mn_file_free(mn_file *file) {
    free(file->strings);
    free(file->meta);
    free(file->buffers);
    free(file->kernels);
    free(file->params);
    free(file->steps);
    free(file->args);
    free(file->entries);
    mn_text_program_free(file->text);
    *file = (mn_file){.n_meta = 0};
}

const char *mn_file_meta(const mn_file *file, const char *key) {
    for (uint32_t i = 0; i < file->n_meta; i++)
        if (!strcmp(file->strings + file->meta[i].key, key)) return file->strings + file->meta[i].value;
    return NULL;
}
