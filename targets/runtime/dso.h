/* A driver's library, found when it is needed: libmossnet is linked against none. */
#ifndef MN_DSO_H
#define MN_DSO_H

#include "error.h"

/* Opens the library that the environment variable names, or else the first of `names` (ending with NULL) that is there.
 * Without one: DEVICE, and the text says what was looked for. */
mossnet_status mn_dso_open(const char *variable, const char *const *names, void **out, mossnet_error *error);

#endif
