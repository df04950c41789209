/* The native code of a model in memory, executable. */
#ifndef MN_CPU_CODE_H
#define MN_CPU_CODE_H

#include "driver.h"

#include <stdbool.h>

typedef struct mn_cpu_code {
    const unsigned char *at;
    size_t mapped; /* bytes to unmap; 0 when it is the library's */
    void *library;
} mn_cpu_code;

/* False, with errno set, when the system does not let this process have such code. */
bool mn_cpu_code_open(const mn_source *source, mn_cpu_code *code);
void mn_cpu_code_close(mn_cpu_code *code);

#endif
