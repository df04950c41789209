/* Calls a kernel of CODE: void kernel(p[0], ..., p[n - 1], lo, hi), n from 1 to 24. */
#ifndef MN_CPU_CALL_H
#define MN_CPU_CALL_H

#include <stdint.h>

void mn_cpu_call(const unsigned char *kernel, void *const *p, uint32_t n, int32_t lo, int32_t hi);

#endif
