/* NVIDIA's driver interface (libcuda), as far as libmossnet uses it, declared by hand: nothing of NVIDIA's is needed to
 * build. tests/runtime/cuda_abi.c holds it against NVIDIA's own header. */
#ifndef MN_CUDA_API_H
#define MN_CUDA_API_H

#include "error.h"

#if defined(MN_CUDA_CHECK) /* by cuda_abi.c, behind NVIDIA's header */
typedef CUresult mn_cu_result;
typedef CUdevice mn_cu_device;
typedef CUdevice_attribute mn_cu_device_attribute;
typedef CUcontext mn_cu_context;
typedef CUmodule mn_cu_module;
typedef CUjit_option mn_cu_jit_option;
typedef CUfunction mn_cu_function;
typedef CUfunction_attribute mn_cu_function_attribute;
typedef CUdeviceptr mn_cu_pointer;
typedef CUstream mn_cu_stream;
typedef CUstreamCaptureMode mn_cu_capture_mode;
typedef CUevent mn_cu_event;
typedef CUgraph mn_cu_graph;
typedef CUgraphExec mn_cu_graph_exec;
#else
typedef int mn_cu_result;
typedef int mn_cu_device;
typedef int mn_cu_device_attribute;
typedef struct mn_cu_context_ *mn_cu_context;
typedef struct mn_cu_module_ *mn_cu_module;
typedef int mn_cu_jit_option;
typedef struct mn_cu_function_ *mn_cu_function;
typedef int mn_cu_function_attribute;
typedef unsigned long long mn_cu_pointer;
typedef struct mn_cu_stream_ *mn_cu_stream;
typedef int mn_cu_capture_mode;
typedef struct mn_cu_event_ *mn_cu_event;
typedef struct mn_cu_graph_ *mn_cu_graph;
typedef struct mn_cu_graph_exec_ *mn_cu_graph_exec;
#endif

enum { /* mn_cu_result */
       MN_CU_OK = 0,
       MN_CU_OUT_OF_MEMORY = 2,
       MN_CU_NO_DEVICE = 100,
       MN_CU_INVALID_IMAGE = 200,
       MN_CU_NO_BINARY_FOR_GPU = 209,
       MN_CU_INVALID_PTX = 218,
       MN_CU_JIT_COMPILER_NOT_FOUND = 221,
       MN_CU_UNSUPPORTED_PTX_VERSION = 222,
       MN_CU_JIT_COMPILATION_DISABLED = 223,
       MN_CU_INVALID_SOURCE = 300,
       MN_CU_NOT_FOUND = 500,
       MN_CU_NOT_READY = 600
};

enum { /* mn_cu_device_attribute */
       MN_CU_MAX_THREADS_PER_BLOCK = 1,
       MN_CU_MAX_BLOCK_DIM_X = 2, /* Y and Z follow */
       MN_CU_MAX_GRID_DIM_X = 5,
       MN_CU_MAX_SHARED_MEMORY_PER_BLOCK = 8,
       MN_CU_COMPUTE_CAPABILITY_MAJOR = 75,
       MN_CU_COMPUTE_CAPABILITY_MINOR = 76,
       MN_CU_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97
};

enum { /* mn_cu_jit_option */
       MN_CU_JIT_ERROR_LOG_BUFFER = 5,
       MN_CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6
};

enum { /* mn_cu_function_attribute */
       MN_CU_FUNCTION_MAX_THREADS_PER_BLOCK = 0,
       MN_CU_FUNCTION_SHARED_SIZE_BYTES = 1,
       MN_CU_FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
};

enum { MN_CU_STREAM_NON_BLOCKING = 1, MN_CU_CAPTURE_THREAD_LOCAL = 1 };

/* The names that the library exports: where there is a _v2, the plain name is an older interface. */
#define MN_CUDA_REQUIRED(X)                                                                                            \
    X(cuInit, (unsigned))                                                                                              \
    X(cuDriverGetVersion, (int *))                                                                                     \
    X(cuGetErrorName, (mn_cu_result, const char **))                                                                   \
    X(cuGetErrorString, (mn_cu_result, const char **))                                                                 \
    X(cuDeviceGetCount, (int *))                                                                                       \
    X(cuDeviceGet, (mn_cu_device *, int))                                                                              \
    X(cuDeviceGetName, (char *, int, mn_cu_device))                                                                    \
    X(cuDeviceGetAttribute, (int *, mn_cu_device_attribute, mn_cu_device))                                             \
    X(cuDeviceTotalMem_v2, (size_t *, mn_cu_device))                                                                   \
    X(cuDevicePrimaryCtxRetain, (mn_cu_context *, mn_cu_device))                                                       \
    X(cuDevicePrimaryCtxRelease_v2, (mn_cu_device))                                                                    \
    X(cuCtxCreate_v2, (mn_cu_context *, unsigned, mn_cu_device))                                                       \
    X(cuCtxDestroy_v2, (mn_cu_context))                                                                                \
    X(cuCtxPushCurrent_v2, (mn_cu_context))                                                                            \
    X(cuCtxPopCurrent_v2, (mn_cu_context *))                                                                           \
    X(cuModuleLoadDataEx, (mn_cu_module *, const void *, unsigned, mn_cu_jit_option *, void **))                       \
    X(cuModuleGetFunction, (mn_cu_function *, mn_cu_module, const char *))                                             \
    X(cuModuleUnload, (mn_cu_module))                                                                                  \
    X(cuFuncGetAttribute, (int *, mn_cu_function_attribute, mn_cu_function))                                           \
    X(cuFuncSetAttribute, (mn_cu_function, mn_cu_function_attribute, int))                                             \
    X(cuMemGetInfo_v2, (size_t *, size_t *))                                                                           \
    X(cuMemAlloc_v2, (mn_cu_pointer *, size_t))                                                                        \
    X(cuMemFree_v2, (mn_cu_pointer))                                                                                   \
    X(cuMemHostAlloc, (void **, size_t, unsigned))                                                                     \
    X(cuMemFreeHost, (void *))                                                                                         \
    X(cuMemcpyHtoDAsync_v2, (mn_cu_pointer, const void *, size_t, mn_cu_stream))                                       \
    X(cuMemcpyDtoHAsync_v2, (void *, mn_cu_pointer, size_t, mn_cu_stream))                                             \
    X(cuMemcpyDtoDAsync_v2, (mn_cu_pointer, mn_cu_pointer, size_t, mn_cu_stream))                                      \
    X(cuMemsetD8Async, (mn_cu_pointer, unsigned char, size_t, mn_cu_stream))                                           \
    X(cuStreamCreate, (mn_cu_stream *, unsigned))                                                                      \
    X(cuStreamDestroy_v2, (mn_cu_stream))                                                                              \
    X(cuStreamQuery, (mn_cu_stream))                                                                                   \
    X(cuEventCreate, (mn_cu_event *, unsigned))                                                                        \
    X(cuEventDestroy_v2, (mn_cu_event))                                                                                \
    X(cuEventRecord, (mn_cu_event, mn_cu_stream))                                                                      \
    X(cuEventElapsedTime, (float *, mn_cu_event, mn_cu_event))                                                         \
    X(cuLaunchKernel, (mn_cu_function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,           \
                       mn_cu_stream, void **, void **))

/* Recording an entry and replaying it: complete since CUDA 11.4. Without all of them, steps are launched one by one. */
#define MN_CUDA_GRAPHS(X)                                                                                              \
    X(cuStreamBeginCapture_v2, (mn_cu_stream, mn_cu_capture_mode))                                                     \
    X(cuStreamEndCapture, (mn_cu_stream, mn_cu_graph *))                                                               \
    X(cuGraphInstantiateWithFlags, (mn_cu_graph_exec *, mn_cu_graph, unsigned long long))                              \
    X(cuGraphLaunch, (mn_cu_graph_exec, mn_cu_stream))                                                                 \
    X(cuGraphExecDestroy, (mn_cu_graph_exec))                                                                          \
    X(cuGraphDestroy, (mn_cu_graph))

typedef struct mn_cuda_api {
#define MN_CUDA_FIELD(function, arguments) mn_cu_result(*function) arguments;
    MN_CUDA_REQUIRED(MN_CUDA_FIELD)
    MN_CUDA_GRAPHS(MN_CUDA_FIELD)
#undef MN_CUDA_FIELD
    uint32_t has_graphs;
} mn_cuda_api;

/* Finds the library, its functions, and a machine that it works on; without them: DEVICE. */
mossnet_status mn_cuda_load(mn_cuda_api *api, mossnet_error *error);
/* `what` failed: MEMORY where the device has none left, else DEVICE, with the library's words. */
mossnet_status mn_cuda_fail(const mn_cuda_api *api, mn_cu_result result, const char *what, mossnet_error *error);

#endif
