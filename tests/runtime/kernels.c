/* The kernels of the toy model (toy.py): a running hash of the tokens, so that every token, its place and its order
 * show in the logits. Compiled without constants in memory, since CODE holds .text alone. */
#include <stdint.h>

/* log: [0] number of calls, then 8 values for each: entry kind, n_tokens, position, the first 5 ids as given */
void record(const int32_t *entry, const int32_t *params, const int32_t *ids, int32_t *log, int32_t lo, int32_t hi) {
    (void)lo;
    (void)hi;
    if (log[0] == 400) return; /* LOG_CALLS: what comes later is not noted */
    int32_t *row = log + 1 + 8 * log[0]++;
    row[0] = entry[0];
    row[1] = params[0];
    row[2] = params[1];
    for (int32_t i = 0; i < 5; i++)
        row[3 + i] = i < entry[1] ? ids[i] : -1;
}

static uint32_t mix(uint32_t hash, int32_t id) {
    hash = (hash ^ (uint32_t)id) * 2654435761u;
    return hash ^ hash >> 15;
}

void absorb(const int32_t *params, const int32_t *ids, uint32_t *state, int32_t lo, int32_t hi) {
    (void)lo;
    (void)hi;
    for (int32_t t = 0; t < params[0]; t++) {
        state[0] = mix(state[0], ids[t]);
        state[1]++;
    }
}

/* One tile for each logit. */
void head(const uint32_t *state, float *logits, int32_t lo, int32_t hi) {
    for (int32_t v = lo; v < hi; v++)
        logits[v] = (float)(int32_t)(mix(state[0], v) % 2001u);
}

void score(const int32_t *entry, const int32_t *params, const int32_t *ids, uint32_t *state, float *logits, int32_t lo,
           int32_t hi) {
    (void)lo;
    (void)hi;
    for (int32_t t = 0; t < params[0]; t++) {
        state[0] = mix(state[0], ids[t]);
        state[1]++;
        for (int32_t v = 0; v < entry[2]; v++)
            logits[t * entry[2] + v] = (float)(int32_t)(mix(state[0], v) % 2001u);
    }
}
