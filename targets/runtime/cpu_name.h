/* What the processor calls itself. */
#ifndef MN_CPU_NAME_H
#define MN_CPU_NAME_H

#include <stddef.h>

/* Cut to `capacity` bytes with the NUL; "" where neither MOSSNET_CPU nor the system says it. */
void mn_cpu_name(char *out, size_t capacity);

#endif
