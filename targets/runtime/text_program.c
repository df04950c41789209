#include "text_program.h"

#include "utf8.h"

#include <stdlib.h>
#include <string.h>

enum {
    VERSION = 1,
    HEADER_WORDS = 20,
    FLAG_NFC = 1,
    FLAG_PREFIX_SPACE = 2,
    MAX_RECORDS = 1 << 24,
    MAX_BYTES = 1 << 28
};

/* The counts of the header, in its order. */
enum count {
    TOKENS,
    TOKEN_BYTES,
    MERGES,
    WORDS,
    ADDED,
    ADDED_NORMALIZED,
    ADDED_BYTES,
    BEFORE,
    AFTER,
    SPLITS,
    CELLS,
    BLOCKS,
    DECOMPOSED,
    DECOMPOSITION,
    COMPOSED,
    COUNTS
};

typedef struct split_record {
    uint32_t n_states, n_classes, flags;
} split_record;

typedef struct reader {
    const unsigned char *data;
    uint64_t bytes, at; /* where the next table begins */
    uint32_t n[COUNTS];
    const split_record *splits;
    const uint16_t *index, *cells;
    const unsigned char *blocks;
    const uint32_t *around;
    mn_text_program *program;
    mossnet_error *error;
} reader;

#define REFUSE(r, ...) mn_fail((r)->error, MOSSNET_FORMAT, "TEXT: " __VA_ARGS__)
#define LLU(value)     ((unsigned long long)(value))

static mossnet_status read_header(reader *r) {
    uint32_t header[HEADER_WORDS];
    if (r->bytes < sizeof header)
        return REFUSE(r, "%llu bytes are too few (its header has %zu)", LLU(r->bytes), sizeof header);
    memcpy(header, r->data, sizeof header);
    if (header[0] != VERSION) return REFUSE(r, "version %u, this library reads version %d", header[0], VERSION);
    if (header[1] > (FLAG_NFC | FLAG_PREFIX_SPACE)) return REFUSE(r, "reserved bits are set");
    for (int i = COUNTS + 2; i < HEADER_WORDS; i++)
        if (header[i]) return REFUSE(r, "reserved bits are set");
    for (int i = 0; i < COUNTS; i++) {
        uint32_t most = i == TOKEN_BYTES || i == ADDED_BYTES ? MAX_BYTES : MAX_RECORDS;
        r->n[i] = header[i + 2];
        if (r->n[i] > most) return REFUSE(r, "count %d is %u, at most %u are allowed", i, r->n[i], most);
    }
    r->program->has_nfc = header[1] & FLAG_NFC;
    r->program->prefix_space = header[1] & FLAG_PREFIX_SPACE;
    if (!r->n[TOKENS]) return REFUSE(r, "no tokens");
    if (r->n[SPLITS] > MN_MAX_SPLITS)
        return REFUSE(r, "%u splits, at most %d are allowed", r->n[SPLITS], MN_MAX_SPLITS);
    r->at = sizeof header;
    return MOSSNET_OK;
}

/* The next table; its place is taken on trust until all sizes are known and their sum is the section's. */
static const void *table(reader *r, uint64_t n, uint64_t bytes_each) {
    uint64_t at = r->at;
    r->at += n * bytes_each; /* far from wrapping: each count has its limit */
    return r->at <= r->bytes ? r->data + at : NULL;
}

static mossnet_status read_tables(reader *r) {
    mn_text_program *p = r->program;
    const uint32_t *n = r->n;
    uint32_t n_maps = n[SPLITS] + p->has_nfc;
    p->byte_ids = table(r, 256, sizeof *p->byte_ids);
    p->token_ends = table(r, n[TOKENS], sizeof *p->token_ends);
    p->merges = table(r, n[MERGES], sizeof *p->merges);
    p->words = table(r, n[WORDS], sizeof *p->words);
    p->added.tokens = table(r, (uint64_t)n[ADDED] + n[ADDED_NORMALIZED], sizeof(mn_added));
    r->around = table(r, (uint64_t)n[BEFORE] + n[AFTER], sizeof *r->around);
    r->splits = table(r, n[SPLITS], sizeof *r->splits);
    p->decomposed = table(r, n[DECOMPOSED], sizeof *p->decomposed);
    p->decomposition = table(r, n[DECOMPOSITION], sizeof *p->decomposition);
    p->composed = table(r, n[COMPOSED], sizeof *p->composed);
    r->index = table(r, n_maps, MN_CODE_INDEX * sizeof *r->index);
    r->cells = table(r, n[CELLS], sizeof *r->cells);
    r->blocks = table(r, n[BLOCKS], MN_CODE_BLOCK);
    p->token_bytes = table(r, n[TOKEN_BYTES], 1);
    p->added_bytes = table(r, n[ADDED_BYTES], 1);
    if (r->at != r->bytes) return REFUSE(r, "%llu bytes, its header says %llu", LLU(r->bytes), LLU(r->at));
    p->n_tokens = n[TOKENS];
    p->n_merges = n[MERGES];
    p->n_words = n[WORDS];
    p->n_before = n[BEFORE];
    p->n_after = n[AFTER];
    p->n_splits = n[SPLITS];
    p->n_decomposed = n[DECOMPOSED];
    p->n_composed = n[COMPOSED];
    p->before = r->around;
    p->after = r->around + n[BEFORE];
    return MOSSNET_OK;
}

static bool is_token(const reader *r, uint32_t id) {
    return id < r->n[TOKENS];
}

static mossnet_status read_tokens(reader *r) {
    mn_text_program *p = r->program;
    for (int byte = 0; byte < 256; byte++)
        if (p->byte_ids[byte] != UINT32_MAX && !is_token(r, p->byte_ids[byte]))
            return REFUSE(r, "bytes: token %u of %u", p->byte_ids[byte], p->n_tokens);
    uint32_t end = 0;
    for (uint32_t i = 0; i < p->n_tokens; end = p->token_ends[i++]) {
        if (p->token_ends[i] < end) return REFUSE(r, "token %u ends before it begins", i);
        if (p->token_ends[i] - end > p->longest_token) p->longest_token = p->token_ends[i] - end;
    }
    if (end != r->n[TOKEN_BYTES]) return REFUSE(r, "the tokens have %u bytes of %u", end, r->n[TOKEN_BYTES]);
    for (uint32_t i = 0; i < p->n_before + p->n_after; i++)
        if (!is_token(r, r->around[i])) return REFUSE(r, "around a text: token %u of %u", r->around[i], p->n_tokens);
    for (uint32_t i = 0; i < p->n_words; i++) {
        if (!is_token(r, p->words[i])) return REFUSE(r, "words: token %u of %u", p->words[i], p->n_tokens);
        mn_bytes before = i ? mn_token(p, p->words[i - 1]) : (mn_bytes){NULL, 0};
        if (mn_bytes_order(before, mn_token(p, p->words[i])) >= 0)
            return REFUSE(r, "word %u is empty or does not ascend", i);
    }
    return MOSSNET_OK;
}

static mossnet_status read_merges(reader *r) {
    mn_text_program *p = r->program;
    p->merges_of = calloc((size_t)p->n_tokens + 1, sizeof *p->merges_of);
    if (!p->merges_of) return mn_fail(r->error, MOSSNET_MEMORY, "no memory for %u tokens", p->n_tokens);
    for (uint32_t i = 0; i < p->n_merges; i++) {
        const mn_merge *m = &p->merges[i];
        if (!is_token(r, m->left) || !is_token(r, m->right) || !is_token(r, m->merged))
            return REFUSE(r, "merge %u: tokens %u, %u and %u of %u", i, m->left, m->right, m->merged, p->n_tokens);
        if (i && (m[-1].left > m->left || (m[-1].left == m->left && m[-1].right >= m->right)))
            return REFUSE(r, "merge %u does not ascend", i);
        p->merges_of[m->left + 1] = i + 1;
    }
    for (uint32_t i = 0; i < p->n_tokens; i++)
        if (p->merges_of[i + 1] < p->merges_of[i]) p->merges_of[i + 1] = p->merges_of[i];
    return MOSSNET_OK;
}

static bool is_utf8(mn_bytes text) {
    for (size_t at = 0, length; at < text.n; at += length) {
        uint32_t character;
        length = mn_utf8_next(text.at + at, text.n - at, &character);
        if (!length) return false;
        if (character == MN_REPLACEMENT && (length != 3 || text.at[at] != 0xEF)) return false;
    }
    return true;
}

static mossnet_status read_added_list(reader *r, mn_added_list *list) {
    for (uint32_t i = 0; i < list->n; i++) {
        mn_bytes before = i ? mn_added_content(r->program, list, i - 1) : (mn_bytes){NULL, 0};
        mn_bytes content = mn_added_content(r->program, list, i);
        if (mn_bytes_order(before, content) >= 0) return REFUSE(r, "added token %u is empty or does not ascend", i);
        if (!is_utf8(content)) return REFUSE(r, "added token %u is no UTF-8", i);
        list->first[content.at[0]] = true;
    }
    return MOSSNET_OK;
}

static mossnet_status read_added(reader *r) {
    mn_text_program *p = r->program;
    uint32_t n = r->n[ADDED] + r->n[ADDED_NORMALIZED], end = 0;
    for (uint32_t i = 0; i < n; end = p->added.tokens[i++].end) {
        const mn_added *a = &p->added.tokens[i];
        if (!is_token(r, a->id)) return REFUSE(r, "added token %u: token %u of %u", i, a->id, p->n_tokens);
        if (a->flags > (MN_LSTRIP | MN_RSTRIP)) return REFUSE(r, "added token %u: reserved bits are set", i);
        if (a->end < end) return REFUSE(r, "added token %u ends before it begins", i);
    }
    if (end != r->n[ADDED_BYTES]) return REFUSE(r, "the added tokens have %u bytes of %u", end, r->n[ADDED_BYTES]);
    p->added.n = r->n[ADDED];
    p->added_normalized.n = r->n[ADDED_NORMALIZED];
    p->added_normalized.tokens = p->added.tokens + p->added.n;
    p->added_normalized.start = p->added.n ? p->added.tokens[p->added.n - 1].end : 0;
    mossnet_status status = read_added_list(r, &p->added);
    return status ? status : read_added_list(r, &p->added_normalized);
}

/* The map of all characters with this number; `most` receives its highest value. */
static mossnet_status read_codes(reader *r, uint32_t number, mn_codes *codes, unsigned *most) {
    codes->index = r->index + (size_t)number * MN_CODE_INDEX;
    codes->blocks = r->blocks;
    *most = 0;
    for (uint32_t i = 0; i < MN_CODE_INDEX; i++) {
        if (codes->index[i] >= r->n[BLOCKS])
            return REFUSE(r, "block %u of %u", (unsigned)codes->index[i], r->n[BLOCKS]);
        if (i && codes->index[i] == codes->index[i - 1]) continue;
        const unsigned char *block = codes->blocks + (size_t)codes->index[i] * MN_CODE_BLOCK;
        for (int at = 0; at < MN_CODE_BLOCK; at++)
            *most = block[at] > *most ? block[at] : *most;
    }
    return MOSSNET_OK;
}

static mossnet_status read_splits(reader *r) {
    uint64_t at = 0;
    for (uint32_t i = 0; i < r->n[SPLITS]; i++) {
        const split_record *s = &r->splits[i];
        uint32_t width = s->n_classes + 1;
        unsigned most;
        if (s->n_states < 1 || s->n_states >= MN_SPLIT_STOP || s->n_classes < 1 || s->n_classes > 256 || s->flags > 1)
            return REFUSE(r, "split %u: %u states, %u classes, flags %u", i, s->n_states, s->n_classes, s->flags);
        uint64_t n = (uint64_t)s->n_states * width;
        if (n > r->n[CELLS] - at) return REFUSE(r, "split %u: its cells lie beyond the table", i);
        mn_split *split = &r->program->splits[i];
        *split = (mn_split){.cells = r->cells + at, .n_classes = s->n_classes, .only_matches = s->flags};
        for (uint64_t cell = 0; cell < n; cell++) {
            unsigned next = split->cells[cell] & MN_SPLIT_STOP;
            if (next != MN_SPLIT_STOP && next >= s->n_states)
                return REFUSE(r, "split %u: state %u of %u", i, next, s->n_states);
            if (cell < width && split->cells[cell] & MN_SPLIT_ENDS) return REFUSE(r, "split %u: it matches nothing", i);
        }
        mossnet_status status = read_codes(r, i, &split->classes, &most);
        if (status) return status;
        if (most >= s->n_classes) return REFUSE(r, "split %u: class %u of %u", i, most, s->n_classes);
        at += n;
    }
    return at == r->n[CELLS] ? MOSSNET_OK : REFUSE(r, "%u cells, the splits have %llu", r->n[CELLS], LLU(at));
}

static bool is_character(uint32_t character) {
    return character < MN_CODES && character >> 11 != 0xD800 >> 11;
}

static mossnet_status read_decomposed(reader *r) {
    const mn_text_program *p = r->program;
    uint32_t end = 0;
    for (uint32_t i = 0; i < p->n_decomposed; end = p->decomposed[i++].end) {
        const mn_decomposed *d = &p->decomposed[i];
        if (!is_character(d->character) || (i && d[-1].character >= d->character))
            return REFUSE(r, "decomposition %u of %u: no character, or it does not ascend", i, d->character);
        if (d->end <= end || d->end - end > MN_MAX_DECOMPOSITION)
            return REFUSE(r, "decomposition %u: from %u to %u, expected 1 to %d characters", i, end, d->end,
                          MN_MAX_DECOMPOSITION);
    }
    if (end != r->n[DECOMPOSITION])
        return REFUSE(r, "the decompositions have %u characters of %u", end, r->n[DECOMPOSITION]);
    for (uint32_t i = 0; i < end; i++)
        if (!is_character(p->decomposition[i])) return REFUSE(r, "decompositions: %u", p->decomposition[i]);
    return MOSSNET_OK;
}

static mossnet_status read_nfc(reader *r) {
    mn_text_program *p = r->program;
    if (!p->has_nfc)
        return p->n_decomposed || r->n[DECOMPOSITION] || p->n_composed ? REFUSE(r, "compositions without NFC")
                                                                       : MOSSNET_OK;
    unsigned most;
    mossnet_status status = read_codes(r, r->n[SPLITS], &p->properties, &most);
    if (!status) status = read_decomposed(r);
    for (uint32_t i = 0; !status && i < p->n_composed; i++) {
        const mn_composed *c = &p->composed[i];
        if (!is_character(c->first) || !is_character(c->second) || !is_character(c->whole))
            status = REFUSE(r, "composition %u: %u, %u and %u", i, c->first, c->second, c->whole);
        else if (i && (c[-1].first > c->first || (c[-1].first == c->first && c[-1].second >= c->second)))
            status = REFUSE(r, "composition %u does not ascend", i);
    }
    return status;
}

static mossnet_status parse(reader *r, const void *data) {
    static mossnet_status (*const passes[])(reader *) = {read_header, read_tables, read_tokens, read_merges,
                                                         read_added,  read_splits, read_nfc};
    mossnet_status status = MOSSNET_OK;
    r->program->data = malloc(r->bytes ? r->bytes : 1);
    if (!r->program->data) return mn_fail(r->error, MOSSNET_MEMORY, "no memory for %llu bytes of TEXT", LLU(r->bytes));
    memcpy(r->program->data, data, r->bytes);
    r->data = r->program->data;
    for (size_t i = 0; !status && i < sizeof passes / sizeof *passes; i++)
        status = passes[i](r);
    return status;
}

mossnet_status mn_text_program_parse(const void *data, uint64_t bytes, mn_text_program **out, mossnet_error *error) {
    *out = NULL;
    reader r = {.bytes = bytes, .error = error, .program = calloc(1, sizeof *r.program)};
    if (!r.program) return mn_fail(error, MOSSNET_MEMORY, "no memory for TEXT");
    mossnet_status status = parse(&r, data);
    if (status) {
        mn_text_program_free(r.program);
        return status;
    }
    *out = r.program;
    return mn_ok(error);
}

void mn_text_program_free(mn_text_program *program) {
    if (!program) return;
    free(program->data);
    free(program->merges_of);
    free(program);
}

mn_bytes mn_token(const mn_text_program *program, uint32_t id) {
    uint32_t start = id ? program->token_ends[id - 1] : 0;
    return (mn_bytes){program->token_bytes + start, program->token_ends[id] - start};
}

mn_bytes mn_added_content(const mn_text_program *program, const mn_added_list *list, uint32_t i) {
    uint32_t start = i ? list->tokens[i - 1].end : list->start;
    return (mn_bytes){program->added_bytes + start, list->tokens[i].end - start};
}

int mn_bytes_order(mn_bytes a, mn_bytes b) {
    size_t n = a.n < b.n ? a.n : b.n;
    int order = n ? memcmp(a.at, b.at, n) : 0;
    return order ? order : (a.n > b.n) - (a.n < b.n);
}
