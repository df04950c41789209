/* The routed-expert recurrence of SPEC.md with its gradient, for training on a CPU: what scan.py says, one core.
 *
 * Channels are independent, so one block of LANES channels of one sequence runs through the time steps with the states
 * of all experts in L1. Arrays with N are blocked for it: [X / LANES, E, N, LANES], aligned to 64 bytes.
 * Rows: (token, slot) pairs sorted by expert, as the grouped matrix products made them; `row` leads back.
 * Build with -DREAL=float or -DREAL=double; scan_native.py does, pads X to a multiple of LANES and makes the blocks.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef REAL real;
/* One 512-bit register; the compiler splits it on smaller machines. */
enum { LANES = 64 / sizeof(real) };
typedef real vec __attribute__((vector_size(64)));
typedef real vec_in_memory __attribute__((vector_size(64), aligned(sizeof(real)), may_alias));

static inline vec load(const real *p) {
    return *(const vec_in_memory *)p;
}
static inline void store(real *p, vec v) {
    *(vec_in_memory *)p = v;
}

static inline real lane_sum(vec v) {
    typedef real quarter __attribute__((vector_size(16)));
    quarter q[4], sums;
    memcpy(q, &v, sizeof v);
    sums = (q[0] + q[1]) + (q[2] + q[3]);
    real sum = 0;
    for (size_t l = 0; l < sizeof sums / sizeof sum; l++)
        sum += sums[l];
    return sum;
}

/* exp of a number that is at most 0 */
static inline vec vec_exp(vec x) {
    if (sizeof(real) == 8) {
        for (int l = 0; l < LANES; l++)
            x[l] = exp(x[l]);
        return x;
    }
    typedef int32_t bits __attribute__((vector_size(64)));
    const vec magic = (vec){0} + (real)12582912.0; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    const vec floor_x = (vec){0} - (real)87;       /* below it the result is not a normal float */
    bits below = (bits)(x < floor_x);
    x = (vec)(((bits)x & ~below) | ((bits)floor_x & below));
    vec shifted = x * (real)1.44269504088896341 + magic;
    vec n = shifted - magic;
    vec r = x - n * (real)0.693359375 + n * (real)2.12194440e-4; /* ln 2 in two parts, Cephes expf */
    vec p = r * (real)1.9875691500e-4 + (real)1.3981999507e-3;
    p = p * r + (real)8.3334519073e-3;
    p = p * r + (real)4.1665795894e-2;
    p = p * r + (real)1.6666665459e-1;
    p = p * r + (real)5.0000001201e-1;
    p = p * r * r + r + (real)1;
    return (vec)((bits)p + ((bits)shifted << 23));
}

/* expert, row, gate: [B, T, K]; delta [M, X]; b, c: [M, N]; x [B, T, X]; a: blocked, negative; y: [B, T, X];
 * state: [B, blocked], read and left at its last value.
 * starts: [B, ceil(T / chunk), blocked], written: the states before each chunk of time, for scan_backward. */
void scan_forward(int64_t n_batch, int64_t T, int64_t K, int64_t E, int64_t X, int64_t N, int64_t chunk,
                  const int32_t *expert, const int32_t *row, const real *gate, const real *delta, const real *b,
                  const real *c, const real *x, const vec *a, vec *state, vec *starts, real *y) {
    int64_t n_chunks = (T + chunk - 1) / chunk, n_blocks = X / LANES, size = E * N;
    for (int64_t i = 0; i < n_batch; i++) {
        for (int64_t block = 0; block < n_blocks; block++) {
            int64_t x0 = block * LANES;
            const vec *rate = a + block * size;
            vec *h = state + (i * n_blocks + block) * size;
            for (int64_t t = 0; t < T; t++) {
                if (t % chunk == 0) {
                    memcpy(starts + ((i * n_chunks + t / chunk) * n_blocks + block) * size, h, sizeof(vec[size]));
                }
                vec xt = load(x + (i * T + t) * X + x0), yt = {0};
                for (int64_t s = (i * T + t) * K; s < (i * T + t + 1) * K; s++) {
                    const real *bs = b + row[s] * N, *cs = c + row[s] * N;
                    vec *hs = h + expert[s] * N;
                    const vec *as = rate + expert[s] * N;
                    vec dt = load(delta + row[s] * X + x0), dx = dt * xt, ys = {0};
                    for (int64_t n = 0; n < N; n++) {
                        vec after = vec_exp(dt * as[n]) * hs[n] + dx * bs[n];
                        hs[n] = after;
                        ys += after * cs[n];
                    }
                    yt += ys * gate[s];
                }
                store(y + (i * T + t) * X + x0, yt);
            }
        }
    }
}

/* As above with `starts` as scan_forward left it and `g_y` [B, T, X] the gradient of y. `g_state` [B, blocked] holds
 * the gradient of the last states and is left holding that of the first. The others must begin at zero (g_a is
 * added to, and nothing is written to rows that no token points at): g_gate .. g_a, shaped like gate .. a.
 * A chunk's states are computed again rather than kept: one chunk of a block fits into L2, a layer not into L3. */
void scan_backward(int64_t n_batch, int64_t T, int64_t K, int64_t E, int64_t X, int64_t N, int64_t chunk,
                   const int32_t *expert, const int32_t *row, const real *gate, const real *delta, const real *b,
                   const real *c, const real *x, const vec *a, const vec *starts, const real *g_y, vec *g_state,
                   real *g_gate, real *g_delta, real *g_b, real *g_c, real *g_x, vec *g_a) {
    int64_t n_chunks = (T + chunk - 1) / chunk, n_blocks = X / LANES, size = E * N, steps = chunk * K;
    vec *h = aligned_alloc(64, sizeof(vec[size]));
    /* Of each step of a chunk: the state it found, its decay, and the gradients of b and c, summed over lanes at the
     * end. */
    enum { BEFORE, DECAY, G_B, G_C, N_KEPT };
    vec(*kept)[N_KEPT][N] = aligned_alloc(64, sizeof(vec[steps][N_KEPT][N]));
    vec *g_gates = aligned_alloc(64, sizeof(vec[steps]));
    for (int64_t j = n_batch * n_chunks - 1; j >= 0; j--) {
        int64_t i = j / n_chunks, t0 = j % n_chunks * chunk, n_tokens = T - t0 < chunk ? T - t0 : chunk;
        int64_t token0 = i * T + t0;
        const int32_t *experts = expert + token0 * K, *rows = row + token0 * K;
        const real *gates = gate + token0 * K;
        memset(kept, 0, sizeof(vec[steps][N_KEPT][N]));
        memset(g_gates, 0, sizeof(vec[steps]));
        for (int64_t block = 0; block < n_blocks; block++) {
            int64_t x0 = block * LANES;
            const vec *rate = a + block * size;
            vec *gh = g_state + (i * n_blocks + block) * size, *g_rate = g_a + block * size;
            memcpy(h, starts + (j * n_blocks + block) * size, sizeof(vec[size]));
            for (int64_t t = 0; t < n_tokens; t++) {
                vec xt = load(x + (token0 + t) * X + x0);
                for (int64_t s = t * K; s < (t + 1) * K; s++) {
                    const real *bs = b + rows[s] * N;
                    vec *hs = h + experts[s] * N;
                    const vec *as = rate + experts[s] * N;
                    vec dt = load(delta + rows[s] * X + x0), dx = dt * xt;
                    vec *before = kept[s][BEFORE], *decay = kept[s][DECAY];
                    for (int64_t n = 0; n < N; n++) {
                        vec found = hs[n], factor = vec_exp(dt * as[n]);
                        before[n] = found;
                        decay[n] = factor;
                        hs[n] = factor * found + dx * bs[n];
                    }
                }
            }
            for (int64_t t = n_tokens - 1; t >= 0; t--) {
                vec xt = load(x + (token0 + t) * X + x0), gy = load(g_y + (token0 + t) * X + x0), gx = {0};
                for (int64_t s = (t + 1) * K - 1; s >= t * K; s--) {
                    const real *bs = b + rows[s] * N, *cs = c + rows[s] * N;
                    vec *ghs = gh + experts[s] * N, *g_as = g_rate + experts[s] * N;
                    const vec *as = rate + experts[s] * N;
                    vec dt = load(delta + rows[s] * X + x0), dx = dt * xt, gys = gy * gates[s];
                    const vec *before = kept[s][BEFORE], *decay = kept[s][DECAY];
                    vec *g_bs = kept[s][G_B], *g_cs = kept[s][G_C];
                    vec ys = {0}, g_dx = {0}, g_dt = {0};
                    for (int64_t n = 0; n < N; n++) {
                        vec after = decay[n] * before[n] + dx * bs[n];
                        vec g = ghs[n] + gys * cs[n];
                        vec g_before = g * decay[n], g_exponent = g_before * before[n];
                        ys += after * cs[n];
                        g_dx += g * bs[n];
                        g_dt += g_exponent * as[n];
                        ghs[n] = g_before;
                        g_cs[n] += gys * after;
                        g_bs[n] += g * dx;
                        g_as[n] += g_exponent * dt;
                    }
                    g_gates[s] += gy * ys;
                    store(g_delta + rows[s] * X + x0, g_dt + g_dx * xt);
                    gx += g_dx * dt;
                }
                store(g_x + (token0 + t) * X + x0, gx);
            }
        }
        for (int64_t s = 0; s < n_tokens * K; s++) {
            g_gate[token0 * K + s] = lane_sum(g_gates[s]);
            for (int64_t n = 0; n < N; n++) {
                g_b[rows[s] * N + n] = lane_sum(kept[s][G_B][n]);
                g_c[rows[s] * N + n] = lane_sum(kept[s][G_C][n]);
            }
        }
    }
    free(h), free(kept), free(g_gates);
}
