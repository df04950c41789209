#include "error.h"

#include <stdarg.h>
#include <stdio.h>

mossnet_status mn_fail(mossnet_error *error, mossnet_status status, const char *format, ...) {
    if (error) {
        va_list list;
        va_start(list, format);
        error->status = status;
        vsnprintf(error->text, sizeof error->text, format, list);
        va_end(list);
    }
    return status;
}

mossnet_status mn_ok(mossnet_error *error) {
    if (error) {
        error->status = MOSSNET_OK;
        error->text[0] = 0;
    }
    return MOSSNET_OK;
}

const char *mossnet_status_name(mossnet_status status) {
    switch (status) {
    case MOSSNET_OK: return "OK";
    case MOSSNET_ARGUMENT: return "ARGUMENT";
    case MOSSNET_MEMORY: return "MEMORY";
    case MOSSNET_IO: return "IO";
    case MOSSNET_FORMAT: return "FORMAT";
    case MOSSNET_UNSUPPORTED: return "UNSUPPORTED";
    case MOSSNET_CONSENT: return "CONSENT";
    case MOSSNET_STATE: return "STATE";
    case MOSSNET_CONTEXT: return "CONTEXT";
    case MOSSNET_DEVICE: return "DEVICE";
    case MOSSNET_CANCELLED: return "CANCELLED";
    }
    return "UNKNOWN";
}

const char *mossnet_version(void) {
    return MOSSNET_VERSION;
}

uint32_t mossnet_abi_version(void) {
    return MOSSNET_ABI_VERSION;
}
