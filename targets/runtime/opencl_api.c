#include "opencl_api.h"

#include "dso.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* Android: an app may open its vendor's library by the bare name only, a shell by the path only. */
static const char *const NAMES[] = {
    "libOpenCL.so.1",
    "libOpenCL.so",
    "/vendor/lib64/libOpenCL.so",
    "/system/vendor/lib64/libOpenCL.so",
    "/system/lib64/libOpenCL.so",
    "/vendor/lib64/egl/libGLES_mali.so",
    NULL,
};

/* Functions come as void *, which C does not convert. */
static bool assign(void *function, void *address) {
    memcpy(function, &address, sizeof address);
    return address;
}

static mossnet_status lacks(const char *name, mossnet_error *error) {
    return mn_fail(error, MOSSNET_DEVICE, "the OpenCL library does not have %s: OpenCL 1.2 is needed", name);
}

static mossnet_status load_exports(mn_cl *cl, mossnet_error *error) {
#define LOAD(name, slot, result, arguments)                                                                            \
    if (!assign(&cl->name, dlsym(cl->library, #name))) return lacks(#name, error);
    MN_CL_FUNCTIONS(LOAD)
#undef LOAD
    return MOSSNET_OK;
}

bool mn_cl_is_1_2(const char *version) {
    int major = 0, minor = 0;
    return sscanf(version, "OpenCL %d.%d", &major, &minor) == 2 && (major > 1 || (major == 1 && minor >= 2));
}

/* An ICD by itself exports one function; each of its objects begins with a pointer to a table of the others. */
static mossnet_status load_icd(mn_cl *cl, mn_cl_lookup lookup, mossnet_error *error) {
    mn_cl_platform platform = NULL;
    mn_cl_uint n = 0;
    char version[128] = "";
    if (!assign(&cl->clGetPlatformIDs, lookup("clIcdGetPlatformIDsKHR"))) return lacks("clIcdGetPlatformIDsKHR", error);
    if (cl->clGetPlatformIDs(1, &platform, &n) || !n)
        return mn_fail(error, MOSSNET_DEVICE, "the OpenCL library has no platform");
    void **table;
    memcpy(&table, platform, sizeof table);
    assign(&cl->clGetPlatformInfo, table[1]);
    /* Before 1.2 the table ends earlier. */
    if (cl->clGetPlatformInfo(platform, MN_CL_PLATFORM_VERSION, sizeof version - 1, version, NULL) ||
        !mn_cl_is_1_2(version))
        return mn_fail(error, MOSSNET_DEVICE, "the OpenCL library has \"%s\", at least OpenCL 1.2 is needed", version);
#define LOAD(name, slot, result, arguments)                                                                            \
    if (slot && !assign(&cl->name, table[slot])) return lacks(#name, error);
    MN_CL_FUNCTIONS(LOAD)
#undef LOAD
    return MOSSNET_OK;
}

mossnet_status mn_cl_load(mn_cl *out, mossnet_error *error) {
    mn_cl_lookup lookup;
    *out = (mn_cl){.library = NULL};
    mossnet_status status = mn_dso_open("MOSSNET_OPENCL_LIB", NAMES, &out->library, error);
    if (status) return status;
    if (!dlsym(out->library, "clGetPlatformIDs") &&
        assign(&lookup, dlsym(out->library, "clGetExtensionFunctionAddress")))
        return load_icd(out, lookup, error);
    return load_exports(out, error);
}

bool mn_cl_load_recording(const mn_cl *cl, mn_cl_platform platform, mn_cl_recording_api *out) {
    void *(*of_platform)(mn_cl_platform, const char *);
    mn_cl_lookup of_all;
    bool all = true;
    assign(&of_platform, dlsym(cl->library, "clGetExtensionFunctionAddressForPlatform"));
    assign(&of_all, dlsym(cl->library, "clGetExtensionFunctionAddress"));
#define LOAD(name, result, arguments)                                                                                  \
    all = (assign(&out->name, of_platform ? of_platform(platform, #name) : NULL) ||                                    \
           assign(&out->name, of_all ? of_all(#name) : NULL) || assign(&out->name, dlsym(cl->library, #name))) &&      \
          all;
    MN_CL_RECORDING_FUNCTIONS(LOAD)
#undef LOAD
    return all;
}

const char *mn_cl_error_name(mn_cl_int code) {
    switch (code) {
#define NAME(name, value)                                                                                              \
    case value: return "CL_" #name;
        MN_CL_ERRORS(NAME)
#undef NAME
    }
    return "an unknown error";
}
