#include "cuda_api.h"

#include "dso.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <string.h>

/* C has no cast from a pointer to data, which dlsym gives, to one to a function. */
static bool find(void *dso, const char *name, void *place) {
    void *symbol = dlsym(dso, name);
    memcpy(place, &symbol, sizeof symbol);
    return symbol != NULL;
}

mossnet_status mn_cuda_fail(const mn_cuda_api *api, mn_cu_result result, const char *what, mossnet_error *error) {
    const char *name = NULL, *words = NULL;
    if (api->cuGetErrorName(result, &name) || !name) name = "an error of no name";
    if (api->cuGetErrorString(result, &words) || !words) words = "no description";
    return mn_fail(error, result == MN_CU_OUT_OF_MEMORY ? MOSSNET_MEMORY : MOSSNET_DEVICE, "%s: %.60s (%d): %.120s",
                   what, name, (int)result, words);
}

/* The library is never closed: it may run threads of its own. */
mossnet_status mn_cuda_load(mn_cuda_api *api, mossnet_error *error) {
    static const char *const names[] = {"libcuda.so.1", "libcuda.so", NULL};
    void *dso = NULL;
    mossnet_error reason;
    mossnet_status status = mn_dso_open("MOSSNET_CUDA_LIB", names, &dso, &reason);
    if (status) return mn_fail(error, status, "%.300s; NVIDIA's driver brings it", reason.text);
    *api = (mn_cuda_api){.has_graphs = 1};
#define FIND_REQUIRED(function, arguments)                                                                             \
    if (!find(dso, #function, &api->function))                                                                         \
        return mn_fail(error, MOSSNET_DEVICE,                                                                          \
                       "the CUDA library has no %s: it is no libcuda, or NVIDIA's driver is older than 450",           \
                       #function);
#define FIND_GRAPHS(function, arguments) api->has_graphs &= find(dso, #function, &api->function);
    MN_CUDA_REQUIRED(FIND_REQUIRED)
    MN_CUDA_GRAPHS(FIND_GRAPHS)
#undef FIND_REQUIRED
#undef FIND_GRAPHS
    mn_cu_result result = api->cuInit(0);
    if (result == MN_CU_NO_DEVICE) return mn_fail(error, MOSSNET_DEVICE, "the CUDA library finds no GPU");
    return result ? mn_cuda_fail(api, result, "CUDA does not start", error) : MOSSNET_OK;
}
