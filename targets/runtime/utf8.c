#include "utf8.h"

/* What a first byte says: how many follow, its own bits, and between what the second lies (the others: 80 to BF). */
typedef struct lead {
    unsigned char first, last, n_more, bits, low, high;
} lead;

static const lead LEADS[] = {
    {0xC2, 0xDF, 1, 0x1F, 0x80, 0xBF}, {0xE0, 0xE0, 2, 0x0F, 0xA0, 0xBF}, {0xE1, 0xEC, 2, 0x0F, 0x80, 0xBF},
    {0xED, 0xED, 2, 0x0F, 0x80, 0x9F}, {0xEE, 0xEF, 2, 0x0F, 0x80, 0xBF}, {0xF0, 0xF0, 3, 0x07, 0x90, 0xBF},
    {0xF1, 0xF3, 3, 0x07, 0x80, 0xBF}, {0xF4, 0xF4, 3, 0x07, 0x80, 0x8F},
};

static const lead *find_lead(unsigned char byte) {
    for (size_t i = 0; i < sizeof LEADS / sizeof *LEADS; i++)
        if (byte >= LEADS[i].first && byte <= LEADS[i].last) return &LEADS[i];
    return NULL;
}

size_t mn_utf8_next(const unsigned char *at, size_t n, uint32_t *character) {
    *character = at[0];
    if (at[0] < 0x80) return 1;
    const lead *l = find_lead(at[0]);
    uint32_t value = l ? at[0] & l->bits : 0;
    *character = MN_REPLACEMENT;
    if (!l) return 1;
    for (size_t i = 1; i <= l->n_more; i++) {
        if (i == n) return 0;
        if (at[i] < (i == 1 ? l->low : 0x80) || at[i] > (i == 1 ? l->high : 0xBF)) return i;
        value = value << 6 | (at[i] & 0x3F);
    }
    *character = value;
    return l->n_more + 1u;
}

size_t mn_utf8_last(const unsigned char *at, size_t n, uint32_t *character) {
    size_t length = mn_utf8_next(at, n, character);
    return length ? length : n;
}

size_t mn_utf8_put(unsigned char *at, uint32_t character) {
    static const unsigned char MARK[] = {0, 0, 0xC0, 0xE0, 0xF0};
    size_t length = character < 0x80 ? 1 : character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--, character >>= 6)
        at[i] = (unsigned char)(0x80 | (character & 0x3F));
    at[0] = (unsigned char)(MARK[length] | character);
    return length;
}
