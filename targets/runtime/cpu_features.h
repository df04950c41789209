/* What this machine's CPU and system have. */
#ifndef MN_CPU_FEATURES_H
#define MN_CPU_FEATURES_H

#include "mossnet.h"

#include <stdbool.h>

/* Whether this machine lacks one of the comma separated `features`; writes those it lacks to `missing`, cut to size. */
bool mn_cpu_missing(const char *features, char *missing, size_t capacity);

#endif
