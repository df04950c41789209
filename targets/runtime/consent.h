/* Whether a model's code may run on this machine's processor. */
#ifndef MN_CONSENT_H
#define MN_CONSENT_H

#include "error.h"

/* CONSENT unless `flags` of mossnet_options say that the caller trusts the code, which would run on `device`: inside
 * this process, whichever driver brings it there. */
mossnet_status mn_consent(uint32_t flags, const char *device, mossnet_error *error);

#endif
