/* Statuses with a text, in the caller's struct. */
#ifndef MN_ERROR_H
#define MN_ERROR_H

#include "mossnet.h"

/* Stores status and text in `error` unless it is NULL, and returns the status, so that a check is one return statement.
 */
__attribute__((format(printf, 3, 4))) mossnet_status mn_fail(mossnet_error *error, mossnet_status status,
                                                             const char *format, ...);
/* MOSSNET_OK and an empty text. */
mossnet_status mn_ok(mossnet_error *error);

#endif
