#include "dso.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

mossnet_status mn_dso_open(const char *variable, const char *const *names, void **out, mossnet_error *error) {
    const char *named = getenv(variable);
    const char *const only[] = {named, NULL};
    char tried[200] = "";
    for (const char *const *name = named && *named ? only : names; *name; name++) {
        if ((*out = dlopen(*name, RTLD_NOW | RTLD_LOCAL))) return MOSSNET_OK;
        size_t used = strlen(tried);
        if (used + strlen(*name) + 3 < sizeof tried) strcat(strcat(tried, used ? ", " : ""), *name);
    }
    /* Of a library that was asked for by name, dlerror says what is wrong with it, and begins with the name. */
    const char *reason = named && *named ? dlerror() : NULL;
    if (reason) return mn_fail(error, MOSSNET_DEVICE, "%.300s", reason);
    return mn_fail(error, MOSSNET_DEVICE, "%s not found", tried);
}
