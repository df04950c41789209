/* What the processor calls itself. */
#ifndef MN_CPU_NAME_H
#define MN_CPU_NAME_H

#include <stddef.h>

/* Cut to `capacity` bytes with the NUL; "" where the system does not say. */
void mn_cpu_name(char *out, size_t capacity);

#endif
