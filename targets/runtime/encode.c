/* Text to ids: added tokens are cut out of it, what is left is normalized and cut into words, and words are merged. */
#include "merge.h"
#include "model.h"
#include "normalize.h"
#include "utf8.h"

#include <string.h>

/* Of bytes in a text: each can become three (U+FFFD), and three of those again three in NFC, below 2^35 in all. */
enum { MAX_TEXT_BYTES = 1 << 30 };

typedef struct encoder {
    const mn_text_program *program;
    mn_scratch clean, spaced, merging;
    mn_normalizer normalizer;
    mn_ids ids;
} encoder;

static bool encode_piece(encoder *e, bool is_normalized, mn_bytes text);

static mn_bytes from(mn_bytes text, size_t start, size_t end) {
    return (mn_bytes){text.at + start, end - start};
}

/* ---- Added tokens ---- */

/* Unicode's White_Space, which has not changed since version 6.3 */
static bool is_white(uint32_t c) {
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static size_t skip_white(mn_bytes text, size_t at) {
    for (size_t length; at < text.n; at += length) {
        uint32_t character;
        length = mn_utf8_last(text.at + at, text.n - at, &character);
        if (!is_white(character)) break;
    }
    return at;
}

static size_t skip_white_back(mn_bytes text, size_t at, size_t least) {
    for (size_t start; at > least; at = start) {
        uint32_t character;
        for (start = at - 1; start > least && (text.at[start] & 0xC0) == 0x80;)
            start--;
        mn_utf8_last(text.at + start, at - start, &character);
        if (!is_white(character)) break;
    }
    return at;
}

/* The longest token that begins at `at`; NULL when none does. Those that begin with the same bytes stand side by side:
 * each byte more leaves a part of them, in which one that ends there comes first. */
static const mn_added *find_added(const mn_text_program *p, const mn_added_list *list, mn_bytes text, size_t at,
                                  size_t *bytes) {
    const mn_added *found = NULL;
    uint32_t low = 0, high = list->n;
    if (!list->first[text.at[at]]) return NULL;
    for (size_t depth = 0; low < high && at + depth < text.n; depth++) {
        /* [low, high) share `depth` bytes and all have one more: those with the text's next byte are sought. */
        uint32_t bounds[2], end = high;
        for (unsigned side = 0; side < 2; side++) {
            uint32_t below = low, above = end;
            while (below < above) {
                uint32_t middle = below + (above - below) / 2;
                if (mn_added_content(p, list, middle).at[depth] < text.at[at + depth] + side)
                    below = middle + 1;
                else
                    above = middle;
            }
            bounds[side] = below;
        }
        low = bounds[0], high = bounds[1];
        if (low < high && mn_added_content(p, list, low).n == depth + 1) {
            found = &list->tokens[low++];
            *bytes = depth + 1;
        }
    }
    return found;
}

/* Cuts a text at the added tokens in it, from left to right, the longest of those that begin at one place. */
static bool cut_added(encoder *e, bool is_normalized, mn_bytes text) {
    const mn_text_program *p = e->program;
    const mn_added_list *list = is_normalized ? &p->added_normalized : &p->added;
    size_t done = 0, bytes = 0, white_end = 0;
    for (size_t at = 0; at < text.n;) {
        const mn_added *found = find_added(p, list, text, at, &bytes);
        if (!found) {
            at++;
            continue;
        }
        size_t start = found->flags & MN_LSTRIP ? skip_white_back(text, at, done) : at;
        at += bytes;
        size_t end = at;
        if (found->flags & MN_RSTRIP) {
            /* White space that a token before has taken is not looked through again. */
            if (at >= white_end) white_end = skip_white(text, at);
            end = white_end;
        }
        if (done < start && !encode_piece(e, is_normalized, from(text, done, start))) return false;
        mn_ids_add(&e->ids, found->id);
        done = end;
    }
    return done == text.n || encode_piece(e, is_normalized, from(text, done, text.n));
}

/* ---- Words ---- */

/* The bytes of the match that begins where the text does; 0: there is none. */
static size_t match(const mn_split *split, mn_bytes text) {
    size_t end = 0, row = split->n_classes + 1, length;
    unsigned cell = 0;
    for (size_t at = 0; cell != MN_SPLIT_STOP; at += length) {
        uint32_t character;
        length = at < text.n ? mn_utf8_last(text.at + at, text.n - at, &character) : 0;
        unsigned class = length ? mn_code(&split->classes, character) : split->n_classes;
        cell = split->cells[cell * row + class];
        if (cell & MN_SPLIT_ENDS) end = at;
        if (!length) break;
        cell &= MN_SPLIT_STOP;
    }
    return end;
}

/* Cuts a text into the matches of a split and what is between them, each of which the next split cuts; behind the last
 * one they are words. */
static bool cut_words(encoder *e, uint32_t level, mn_bytes text) {
    if (level == e->program->n_splits) return mn_merge_word(e->program, &e->merging, text, &e->ids);
    const mn_split *split = &e->program->splits[level];
    size_t done = 0;
    for (size_t at = 0, bytes; at < text.n;) {
        uint32_t character;
        if (!(bytes = match(split, from(text, at, text.n)))) {
            at += mn_utf8_last(text.at + at, text.n - at, &character);
            continue;
        }
        if (done < at && !split->only_matches && !cut_words(e, level + 1, from(text, done, at))) return false;
        if (!cut_words(e, level + 1, from(text, at, at + bytes))) return false;
        done = at += bytes;
    }
    return done == text.n || split->only_matches || cut_words(e, level + 1, from(text, done, text.n));
}

static bool put_space(encoder *e, mn_bytes *text) {
    if (!e->program->prefix_space || text->at[0] == ' ') return true;
    unsigned char *spaced = mn_scratch_reserve(&e->spaced, text->n + 1);
    if (!spaced) return false;
    spaced[0] = ' ';
    memcpy(spaced + 1, text->at, text->n);
    *text = (mn_bytes){spaced, text->n + 1};
    return true;
}

/* ---- The whole ---- */

/* What is left between the added tokens of the text as it is, and then of the normalized text. */
static bool encode_piece(encoder *e, bool is_normalized, mn_bytes text) {
    if (is_normalized) return put_space(e, &text) && cut_words(e, 0, text);
    if (e->program->has_nfc && !mn_normalize(e->program, &e->normalizer, text, &text)) return false;
    return cut_added(e, true, text);
}

/* A text in which U+FFFD stands for what is no UTF-8; `text` itself where there is nothing of that. */
static bool clean(encoder *e, mn_bytes *text) {
    size_t used = 0, plain = 0; /* the bytes from `plain` on are not copied yet */
    unsigned char *out = NULL;
    for (size_t at = 0, length; at < text->n; at += length) {
        uint32_t character;
        length = mn_utf8_last(text->at + at, text->n - at, &character);
        if (character != MN_REPLACEMENT || (length == 3 && text->at[at] == 0xEF)) continue;
        out = mn_scratch_reserve(&e->clean, used + at - plain + MN_UTF8_MOST);
        if (!out) return false;
        memcpy(out + used, text->at + plain, at - plain);
        used += at - plain;
        used += mn_utf8_put(out + used, MN_REPLACEMENT);
        plain = at + length;
    }
    if (!out) return true;
    out = mn_scratch_reserve(&e->clean, used + text->n - plain);
    if (!out) return false;
    memcpy(out + used, text->at + plain, text->n - plain);
    *text = (mn_bytes){out, used + text->n - plain};
    return true;
}

static bool encode(encoder *e, mn_bytes text) {
    const mn_text_program *p = e->program;
    if (!clean(e, &text)) return false;
    for (uint32_t i = 0; i < p->n_before; i++)
        mn_ids_add(&e->ids, p->before[i]);
    if (!cut_added(e, false, text)) return false;
    for (uint32_t i = 0; i < p->n_after; i++)
        mn_ids_add(&e->ids, p->after[i]);
    return true;
}

mossnet_status mossnet_model_encode(const mossnet_model *model, const char *text, size_t bytes, int32_t *ids,
                                    size_t capacity, size_t *n, mossnet_error *error) {
    *n = 0;
    if (!model->file.text)
        return mn_fail(error, MOSSNET_UNSUPPORTED, "the model file has no TEXT: it takes token ids, and no text");
    if (bytes > MAX_TEXT_BYTES)
        return mn_fail(error, MOSSNET_ARGUMENT, "%zu bytes of text, at most %d are allowed", bytes, MAX_TEXT_BYTES);
    encoder e = {.program = model->file.text, .ids = {ids, capacity, 0}};
    bool done = encode(&e, (mn_bytes){(const unsigned char *)text, bytes});
    mn_scratch_free(&e.clean);
    mn_scratch_free(&e.spaced);
    mn_scratch_free(&e.merging);
    mn_normalizer_free(&e.normalizer);
    if (!done) return mn_fail(error, MOSSNET_MEMORY, "no memory to encode %zu bytes of text", bytes);
    *n = e.ids.n;
    if (capacity && e.ids.n > capacity)
        return mn_fail(error, MOSSNET_ARGUMENT, "room for %zu ids, the text has %zu", capacity, e.ids.n);
    return mn_ok(error);
}
