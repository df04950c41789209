#include "consent.h"

mossnet_status mn_consent(uint32_t flags, const char *device, mossnet_error *error) {
    if (flags & MOSSNET_ALLOW_NATIVE) return MOSSNET_OK;
    return mn_fail(error, MOSSNET_CONSENT,
                   "the model's code would run with your rights, on this machine's processor (%.80s): load it with "
                   "MOSSNET_ALLOW_NATIVE if you trust who made the file",
                   device);
}
