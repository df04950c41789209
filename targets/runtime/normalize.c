#include "normalize.h"

#include "utf8.h"

#include <stdlib.h>
#include <string.h>

/* A character of a segment, in one number that sorts as the canonical order wants it: by rank, and of equals by place.
 * A place has 35 bits: the limit of mossnet_model_encode leaves room for it. */
enum { CHARACTER_BITS = 21, PLACE_BITS = 35 };
static const uint64_t CHARACTER = (UINT64_C(1) << CHARACTER_BITS) - 1;

static uint32_t character_of(uint64_t item) {
    return (uint32_t)(item & CHARACTER);
}

static unsigned rank_of(uint64_t item) {
    return (unsigned)(item >> (CHARACTER_BITS + PLACE_BITS));
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* ---- Tables ---- */

static size_t decompose(const mn_text_program *p, uint32_t character, uint32_t out[MN_MAX_DECOMPOSITION]) {
    uint32_t low = 0, high = p->n_decomposed;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (p->decomposed[middle].character < character)
            low = middle + 1;
        else
            high = middle;
    }
    out[0] = character;
    if (low == p->n_decomposed || p->decomposed[low].character != character) return 1;
    uint32_t start = low ? p->decomposed[low - 1].end : 0, n = p->decomposed[low].end - start;
    memcpy(out, p->decomposition + start, n * sizeof *out);
    return n;
}

/* Hangul syllables are put together by counting: a lead and a vowel, or these and a tail. 0: no syllable. */
static uint32_t compose_hangul(uint32_t first, uint32_t second) {
    enum { SYLLABLES = 0xAC00, LEADS = 0x1100, VOWELS = 0x1161, TAILS = 0x11A7 };
    enum { N_LEADS = 19, N_VOWELS = 21, N_TAILS = 28, N_SYLLABLES = N_LEADS * N_VOWELS * N_TAILS };
    if (first - LEADS < N_LEADS && second - VOWELS < N_VOWELS)
        return SYLLABLES + ((first - LEADS) * N_VOWELS + second - VOWELS) * N_TAILS;
    bool has_room = first - SYLLABLES < N_SYLLABLES && (first - SYLLABLES) % N_TAILS == 0;
    return has_room && second - TAILS - 1 < N_TAILS - 1 ? first + second - TAILS : 0;
}

/* 0: the two stay two. */
static uint32_t compose(const mn_text_program *p, uint32_t first, uint32_t second) {
    uint32_t low = 0, high = p->n_composed;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const mn_composed *c = &p->composed[middle];
        if (c->first < first || (c->first == first && c->second < second))
            low = middle + 1;
        else
            high = middle;
    }
    bool found = low < p->n_composed && p->composed[low].first == first && p->composed[low].second == second;
    return found ? p->composed[low].whole : compose_hangul(first, second);
}

/* ---- Segments: a character and those behind it that could change with it ---- */

/* The segment decomposed, in [out, returned end). */
static uint64_t *decompose_segment(const mn_text_program *p, mn_bytes text, uint64_t *out) {
    uint64_t place = 0;
    for (size_t at = 0; at < text.n;) {
        uint32_t character, parts[MN_MAX_DECOMPOSITION];
        at += mn_utf8_last(text.at + at, text.n - at, &character);
        size_t n = decompose(p, character, parts);
        for (size_t i = 0; i < n; i++) {
            uint64_t rank = mn_code(&p->properties, parts[i]) & MN_RANK;
            *out++ = rank << (CHARACTER_BITS + PLACE_BITS) | place++ << CHARACTER_BITS | parts[i];
        }
    }
    return out;
}

/* Marks between two starters come in the order of their ranks. */
static void order_marks(uint64_t *items, size_t n) {
    for (size_t at = 0, end; at < n; at = end) {
        bool in_order = true;
        end = at + 1;
        if (!rank_of(items[at])) continue;
        for (; end < n && rank_of(items[end]); end++)
            in_order &= rank_of(items[end - 1]) <= rank_of(items[end]);
        if (!in_order) qsort(items + at, end - at, sizeof *items, ascending);
    }
}

/* Puts characters together where Unicode has one for both; returns how many are left. */
static size_t compose_segment(const mn_text_program *p, uint64_t *items, size_t n) {
    size_t kept = 0, starter = n; /* n: none yet */
    for (size_t i = 0; i < n; i++) {
        unsigned rank = rank_of(items[i]);
        /* A character reaches the starter when nothing of its own rank or above, and no other starter, is between. */
        bool reaches = starter < n && (kept == starter + 1 || rank_of(items[kept - 1]) < rank);
        uint32_t whole = reaches ? compose(p, character_of(items[starter]), character_of(items[i])) : 0;
        if (whole) {
            items[starter] = whole;
            continue;
        }
        if (!rank) starter = kept;
        items[kept++] = items[i];
    }
    return kept;
}

/* Appends the segment to the text so far; `*used` is its length. */
static bool add_segment(const mn_text_program *p, mn_normalizer *n, mn_bytes segment, size_t *used) {
    uint64_t *items = mn_scratch_reserve(&n->segment, segment.n * MN_MAX_DECOMPOSITION * sizeof *items);
    if (!items) return false;
    size_t n_items = (size_t)(decompose_segment(p, segment, items) - items);
    order_marks(items, n_items);
    n_items = compose_segment(p, items, n_items);
    unsigned char *out = mn_scratch_reserve(&n->text, *used + n_items * MN_UTF8_MOST);
    for (size_t i = 0; out && i < n_items; i++)
        *used += mn_utf8_put(out + *used, character_of(items[i]));
    return out;
}

static bool add_plain(mn_normalizer *n, mn_bytes text, size_t *used) {
    if (!text.n) return true;
    unsigned char *out = mn_scratch_reserve(&n->text, *used + text.n);
    if (!out) return false;
    memcpy(out + *used, text.at, text.n);
    *used += text.n;
    return true;
}

/* The first segment at or after `from` that has to be looked at: its start, and its end in `*end`. Both are the text's
 * end when there is none. */
static size_t find_segment(const mn_text_program *p, mn_bytes text, size_t from, size_t *end) {
    size_t start = from, at = from;
    bool changes = false;
    while (at < text.n) {
        uint32_t character;
        size_t length = mn_utf8_last(text.at + at, text.n - at, &character);
        unsigned property = mn_code(&p->properties, character);
        if (!(property & MN_JOINS)) {
            if (changes) break;
            start = at;
        }
        changes |= (property & (MN_JOINS | MN_CHANGES)) != 0;
        at += length;
    }
    *end = at;
    return changes ? start : text.n;
}

bool mn_normalize(const mn_text_program *program, mn_normalizer *n, mn_bytes text, mn_bytes *out) {
    size_t end, start = find_segment(program, text, 0, &end), done = 0, used = 0;
    *out = text;
    if (start == text.n) return true;
    while (start < text.n) {
        if (!add_plain(n, (mn_bytes){text.at + done, start - done}, &used)) return false;
        if (!add_segment(program, n, (mn_bytes){text.at + start, end - start}, &used)) return false;
        done = end;
        start = find_segment(program, text, done, &end);
    }
    if (!add_plain(n, (mn_bytes){text.at + done, text.n - done}, &used)) return false;
    *out = (mn_bytes){n->text.data, used};
    return true;
}

void mn_normalizer_free(mn_normalizer *n) {
    mn_scratch_free(&n->text);
    mn_scratch_free(&n->segment);
}
