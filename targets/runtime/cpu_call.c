#include "cpu_call.h"

/* A function takes its arguments in registers as its type says, so each number of parameters needs a type of its own:
 * T<n> are the n types, P<n> the n values. */
#define T1  void *
#define P1  p[0]
#define T2  T1, void *
#define P2  P1, p[1]
#define T3  T2, void *
#define P3  P2, p[2]
#define T4  T3, void *
#define P4  P3, p[3]
#define T5  T4, void *
#define P5  P4, p[4]
#define T6  T5, void *
#define P6  P5, p[5]
#define T7  T6, void *
#define P7  P6, p[6]
#define T8  T7, void *
#define P8  P7, p[7]
#define T9  T8, void *
#define P9  P8, p[8]
#define T10 T9, void *
#define P10 P9, p[9]
#define T11 T10, void *
#define P11 P10, p[10]
#define T12 T11, void *
#define P12 P11, p[11]
#define T13 T12, void *
#define P13 P12, p[12]
#define T14 T13, void *
#define P14 P13, p[13]
#define T15 T14, void *
#define P15 P14, p[14]
#define T16 T15, void *
#define P16 P15, p[15]
#define T17 T16, void *
#define P17 P16, p[16]
#define T18 T17, void *
#define P18 P17, p[17]
#define T19 T18, void *
#define P19 P18, p[18]
#define T20 T19, void *
#define P20 P19, p[19]
#define T21 T20, void *
#define P21 P20, p[20]
#define T22 T21, void *
#define P22 P21, p[21]
#define T23 T22, void *
#define P23 P22, p[22]
#define T24 T23, void *
#define P24 P23, p[23]
#define CALL(n)                                                                                                        \
    case n: ((void (*)(T##n, int32_t, int32_t))code)(P##n, lo, hi); break;

void mn_cpu_call(const unsigned char *kernel, void *const *p, uint32_t n, int32_t lo, int32_t hi) {
    uintptr_t code = (uintptr_t)kernel;
    switch (n) {
        // clang-format off
        CALL(1) CALL(2) CALL(3) CALL(4) CALL(5) CALL(6)
        CALL(7) CALL(8) CALL(9) CALL(10) CALL(11) CALL(12)
        CALL(13) CALL(14) CALL(15) CALL(16) CALL(17) CALL(18)
        CALL(19) CALL(20) CALL(21) CALL(22) CALL(23) CALL(24)
        // clang-format on
    }
}
