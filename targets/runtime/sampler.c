/* Picks the next token. Everything here gives the same bits on every machine: own random numbers, own exp, and the
 * build forbids the contraction of a * b + c into one rounding. */
#include "error.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WINDOW = 1 << 20 };

typedef struct candidate {
    float logit;
    int32_t id;
} candidate;

struct mossnet_sampler {
    mossnet_sampling rule;
    uint64_t random[4];
    int32_t *history; /* ring of repetition_window ids */
    uint64_t n_accepted;
    size_t capacity; /* of the three below, in tokens */
    candidate *candidates;
    double *weights; /* of the candidates, relative to the likeliest */
    bool *penalised; /* by id; all false between calls */
};

/* ---- Random numbers: xoshiro256**, seeded through splitmix64 (Blackman and Vigna, public domain) ---- */

static uint64_t splitmix(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint64_t rotate_left(uint64_t x, int bits) {
    return x << bits | x >> (64 - bits);
}

static uint64_t next_random(uint64_t s[4]) {
    uint64_t result = rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

/* 0 <= x < 1, 53 random bits */
static double next_uniform(uint64_t s[4]) {
    return (double)(next_random(s) >> 11) * 0x1p-53;
}

/* ---- exp for x <= 0, to 1e-13 relative: 2^k * e^r with |r| <= ln(2)/2. No branch and no call: adding 1.5 * 2^52
 * rounds to an integer, which then stands in the lowest bits ---- */

static double exp_negative(double exact) {
    const double round = 0x1.8p52, least = -700; /* below lie subnormal numbers, and nothing that could be drawn */
    double x = exact < least ? least : exact;
    double shifted = x * 0x1.71547652b82fep0 + round, k = shifted - round; /* log2(e) */
    double r = (x - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33;      /* ln(2), in two parts */
    double series = 1.0 / 39916800;
    series = series * r + 1.0 / 3628800;
    series = series * r + 1.0 / 362880;
    series = series * r + 1.0 / 40320;
    series = series * r + 1.0 / 5040;
    series = series * r + 1.0 / 720;
    series = series * r + 1.0 / 120;
    series = series * r + 1.0 / 24;
    series = series * r + 1.0 / 6;
    series = series * r + 0.5;
    series = series * r + 1;
    series = series * r + 1;
    uint64_t bits;
    double power;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 1023) << 52;
    memcpy(&power, &bits, sizeof power);
    return series * power * (exact < least ? 0.0 : 1.0);
}

/* ---- Heaps: the k best without sorting 50,000 candidates for each token ---- */

/* Best first: the higher logit, and of equals the lower id. */
static bool better(candidate a, candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Restores the heap below `i`; on top stands the best candidate or, with worst_first, the worst. */
static void sift(candidate *heap, size_t n, size_t i, bool worst_first) {
    candidate moved = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && better(heap[child + 1], heap[child]) != worst_first) child++;
        if (better(heap[child], moved) == worst_first) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

static void make_heap(candidate *heap, size_t n, bool worst_first) {
    for (size_t i = n / 2; i-- > 0;)
        sift(heap, n, i, worst_first);
}

/* ---- Filters: each takes n candidates and leaves the first of them that stay ---- */

static size_t keep_top_k(candidate *c, size_t n, size_t k) {
    if (k == 0 || k >= n) return n;
    make_heap(c, k, true);
    for (size_t i = k; i < n; i++) {
        if (!better(c[i], c[0])) continue;
        c[0] = c[i];
        sift(c, k, 0, true);
    }
    return k;
}

static float highest(const candidate *c, size_t n) {
    float best = c[0].logit;
    for (size_t i = 1; i < n; i++)
        best = c[i].logit > best ? c[i].logit : best;
    return best;
}

/* How likely each candidate is, relative to the best logit. */
static void weigh(const candidate *c, double *weights, size_t n, double best, double temperature) {
    for (size_t i = 0; i < n; i++)
        weights[i] = exp_negative((c[i].logit - best) / temperature);
}

/* Which of the bins a candidate falls into by its distance to the best: 1/32 wide, up to e^-32 of the best. */
enum { BINS = 1024 };
static size_t bin_of(candidate c, double best) {
    double distance = (best - c.logit) * 32;
    return distance < BINS - 1 ? (size_t)distance : BINS - 1;
}

/* Sorts into bins only: bins above the one in which the sum reaches p stay whole, and only that one's candidates have
 * to be taken in order, from a heap behind the kept ones. */
static size_t keep_top_p(candidate *c, double *weights, size_t n, double p) {
    if (p >= 1) return n;
    double total = 0, sum = 0, best = highest(c, n), bins[BINS] = {0};
    weigh(c, weights, n, best, 1);
    for (size_t i = 0; i < n; i++)
        bins[bin_of(c[i], best)] += weights[i];
    for (size_t bin = 0; bin < BINS; bin++)
        total += bins[bin];
    size_t last = 0, kept = 0, left = 0;
    while (last < BINS - 1 && sum + bins[last] < p * total)
        sum += bins[last++];
    for (size_t i = 0; i < n; i++) {
        size_t bin = bin_of(c[i], best);
        if (bin > last) continue;
        candidate here = c[i];
        if (bin < last) {
            c[kept + left] = c[kept]; /* the heap's first makes room */
            c[kept++] = here;
        } else {
            c[kept + left++] = here;
        }
    }
    candidate *heap = c + kept;
    make_heap(heap, left, false);
    /* The best moves from the heap's top to its end, so that those kept gather there, the best last. */
    size_t taken = 0;
    while (taken < left && sum < p * total) {
        candidate top = heap[0];
        taken++;
        heap[0] = heap[left - taken];
        heap[left - taken] = top;
        sift(heap, left - taken, 0, false);
        sum += exp_negative(top.logit - best);
    }
    memmove(heap, heap + left - taken, taken * sizeof *heap);
    return kept + taken;
}

static size_t keep_min_p(candidate *c, double *weights, size_t n, double min_p) {
    if (min_p <= 0) return n;
    size_t kept = 0;
    weigh(c, weights, n, highest(c, n), 1);
    for (size_t i = 0; i < n; i++)
        if (weights[i] >= min_p) c[kept++] = c[i];
    return kept;
}

/* ---- Picking ---- */

static size_t window_length(const mossnet_sampler *s) {
    uint32_t window = s->rule.repetition_window;
    return s->n_accepted < window ? (size_t)s->n_accepted : window;
}

/* Once for each recent token, however often it occurred. */
static void penalise(mossnet_sampler *s, size_t n) {
    size_t length = window_length(s);
    for (size_t i = 0; i < length; i++) {
        int32_t id = s->history[i];
        if (id < 0 || (size_t)id >= n || s->penalised[id]) continue;
        float logit = s->candidates[id].logit;
        s->penalised[id] = true;
        s->candidates[id].logit = logit > 0 ? logit / s->rule.repetition_penalty : logit * s->rule.repetition_penalty;
    }
    for (size_t i = 0; i < length; i++)
        if (s->history[i] >= 0 && (size_t)s->history[i] < n) s->penalised[s->history[i]] = false;
}

/* The first of equals: candidates still stand in the order of their ids. */
static int32_t pick_greedy(const candidate *c, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        best = c[i].logit > c[best].logit ? i : best;
    return c[best].id;
}

static int32_t draw(mossnet_sampler *s, size_t n) {
    const candidate *c = s->candidates;
    double best = highest(c, n), total = 0, target;
    weigh(c, s->weights, n, best, s->rule.temperature);
    for (size_t i = 0; i < n; i++)
        total += s->weights[i];
    target = next_uniform(s->random) * total;
    size_t last = 0; /* of those that can be drawn, should the sums' rounding leave the target unreached */
    for (size_t i = 0; i < n; i++) {
        if (s->weights[i] <= 0) continue;
        last = i;
        if ((target -= s->weights[i]) < 0) break;
    }
    return c[last].id;
}

static mossnet_status reserve(mossnet_sampler *s, size_t n, mossnet_error *error) {
    if (n <= s->capacity) return MOSSNET_OK;
    candidate *candidates = malloc(n * sizeof *candidates);
    double *weights = malloc(n * sizeof *weights);
    bool *penalised = calloc(n, sizeof *penalised);
    if (!candidates || !weights || !penalised) {
        free(candidates);
        free(weights);
        free(penalised);
        return mn_fail(error, MOSSNET_MEMORY, "no memory to sample from %zu tokens", n);
    }
    free(s->candidates);
    free(s->weights);
    free(s->penalised);
    s->candidates = candidates;
    s->weights = weights;
    s->penalised = penalised;
    s->capacity = n;
    return MOSSNET_OK;
}

/* NaN compares false with everything, so it fails the first test as +infinity does. */
static mossnet_status load_logits(mossnet_sampler *s, const float *logits, size_t n, mossnet_error *error) {
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        if (!(logits[i] < INFINITY))
            return mn_fail(error, MOSSNET_ARGUMENT, "the logit of token %zu is %g", i, logits[i]);
        any |= logits[i] > -INFINITY;
        s->candidates[i] = (candidate){logits[i], (int32_t)i};
    }
    return any ? MOSSNET_OK : mn_fail(error, MOSSNET_ARGUMENT, "no token is possible: all logits are -infinity");
}

mossnet_status mossnet_sampler_pick(mossnet_sampler *s, const float *logits, size_t n, int32_t *id,
                                    mossnet_error *error) {
    if (!n || n > INT32_MAX) return mn_fail(error, MOSSNET_ARGUMENT, "%zu logits", n);
    mossnet_status status = reserve(s, n, error);
    if (!status) status = load_logits(s, logits, n, error);
    if (status) return status;
    const mossnet_sampling *rule = &s->rule;
    if (rule->repetition_penalty != 1) penalise(s, n);
    if (rule->temperature == 0) {
        *id = pick_greedy(s->candidates, n);
    } else {
        n = keep_top_k(s->candidates, n, rule->top_k);
        n = keep_top_p(s->candidates, s->weights, n, rule->top_p);
        n = keep_min_p(s->candidates, s->weights, n, rule->min_p);
        *id = draw(s, n);
    }
    return mn_ok(error);
}

void mossnet_sampler_accept(mossnet_sampler *s, int32_t id) {
    if (!s->rule.repetition_window) return;
    s->history[s->n_accepted++ % s->rule.repetition_window] = id;
}

/* Written so that NaN fails each test. */
static mossnet_status check_rule(const mossnet_sampling *rule, mossnet_error *error) {
    if (!(rule->temperature >= 0 && rule->temperature < INFINITY))
        return mn_fail(error, MOSSNET_ARGUMENT, "temperature %g, expected 0 or more", rule->temperature);
    if (!(rule->top_p > 0 && rule->top_p <= 1))
        return mn_fail(error, MOSSNET_ARGUMENT, "top_p %g, expected more than 0 and at most 1", rule->top_p);
    if (!(rule->min_p >= 0 && rule->min_p <= 1))
        return mn_fail(error, MOSSNET_ARGUMENT, "min_p %g, expected 0 to 1", rule->min_p);
    if (!(rule->repetition_penalty > 0 && rule->repetition_penalty < INFINITY))
        return mn_fail(error, MOSSNET_ARGUMENT, "repetition_penalty %g, expected more than 0",
                       rule->repetition_penalty);
    if (rule->repetition_window > MAX_WINDOW)
        return mn_fail(error, MOSSNET_ARGUMENT, "repetition_window %u, at most %d", rule->repetition_window,
                       MAX_WINDOW);
    return MOSSNET_OK;
}

mossnet_status mossnet_sampler_new(const mossnet_sampling *sampling, mossnet_sampler **out, mossnet_error *error) {
    *out = NULL;
    mossnet_status status = check_rule(sampling, error);
    if (status) return status;
    mossnet_sampler *s = calloc(1, sizeof *s);
    int32_t *history = calloc((size_t)sampling->repetition_window + 1, sizeof *history);
    if (!s || !history) {
        free(s);
        free(history);
        return mn_fail(error, MOSSNET_MEMORY, "no memory for a sampler");
    }
    s->rule = *sampling;
    s->history = history;
    uint64_t seed = sampling->seed;
    for (int i = 0; i < 4; i++)
        s->random[i] = splitmix(&seed);
    *out = s;
    return mn_ok(error);
}

void mossnet_sampler_free(mossnet_sampler *s) {
    if (!s) return;
    free(s->history);
    free(s->candidates);
    free(s->weights);
    free(s->penalised);
    free(s);
}
