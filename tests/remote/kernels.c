/* The toy's kernels, with two tokens that no kernel survives: on CRASH it writes where no memory is, on HANG it never
 * ends. */
#define absorb static inline harmless_absorb
#include "../runtime/kernels.c"
#undef absorb

enum { CRASH = 30, HANG = 31 };

void absorb(const int32_t *params, const int32_t *ids, uint32_t *state, int32_t lo, int32_t hi) {
    for (int32_t t = 0; t < params[0]; t++) {
        if (ids[t] == CRASH) *(volatile uint32_t *)16 = 0;
        while (ids[t] == HANG)
            __asm__ volatile("" ::: "memory");
    }
    harmless_absorb(params, ids, state, lo, hi);
}
