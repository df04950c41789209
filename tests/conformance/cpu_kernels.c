/* The suite's kernels for a cpu (suite.py). A tile is what a group of threads does on a GPU. No constant may need
 * memory, since CODE holds .text alone: so there is no 1.0f. */
#include <stdint.h>

enum { GROUP = 64, N = 256, STRIDE = 4096 };

void add(const float *a, const float *b, float *out, int32_t lo, int32_t hi) {
    for (int32_t i = lo * GROUP; i < hi * GROUP; i++)
        out[i] = a[i] + b[i];
}

void scale(float *x, int32_t lo, int32_t hi) {
    int32_t one = 1;
    __asm__("" : "+r"(one));
    for (int32_t i = lo * GROUP; i < hi * GROUP; i++)
        x[i] = x[i] + x[i] + (float)one;
}

void reverse(const float *in, float *out, int32_t lo, int32_t hi) {
    for (int32_t i = lo * N; i < hi * N; i++)
        out[i] = in[N - 1 - i];
}

void slow(const volatile int32_t *count, uint32_t *out, int32_t lo, int32_t hi) {
    uint32_t v = 1;
    (void)lo;
    (void)hi;
    for (int32_t i = 0; i < count[0]; i++)
        v = v * 1664525u + 1013904223u;
    out[0] = v;
}

void touch(const float *big, float *out, int32_t lo, int32_t hi) {
    for (int32_t i = lo * GROUP; i < hi * GROUP; i++)
        out[i] = big[i * STRIDE];
}
