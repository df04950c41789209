/* OpenCL 1.2, as much of it as the driver calls, declared by hand: no header and no library is needed to build.
 * tests/runtime/opencl_abi.c holds it against Khronos' headers. */
#ifndef MN_OPENCL_API_H
#define MN_OPENCL_API_H

#include "error.h"

#include <stdbool.h>

#ifdef MN_CL_CHECK /* with Khronos' types, so that the signatures can be compared */
typedef cl_int mn_cl_int;
typedef cl_uint mn_cl_uint;
typedef cl_bool mn_cl_bool;
typedef cl_bitfield mn_cl_bits;
typedef cl_context_properties mn_cl_property;
typedef cl_platform_id mn_cl_platform;
typedef cl_device_id mn_cl_device_id;
typedef cl_context mn_cl_context;
typedef cl_command_queue mn_cl_queue;
typedef cl_mem mn_cl_mem;
typedef cl_program mn_cl_program;
typedef cl_kernel mn_cl_kernel;
typedef cl_event mn_cl_event;
#else
typedef int32_t mn_cl_int;
typedef uint32_t mn_cl_uint;
typedef uint32_t mn_cl_bool;
typedef uint64_t mn_cl_bits;
typedef intptr_t mn_cl_property;
typedef struct mn_cl_platform_object *mn_cl_platform;
typedef struct mn_cl_device_object *mn_cl_device_id;
typedef struct mn_cl_context_object *mn_cl_context;
typedef struct mn_cl_queue_object *mn_cl_queue;
typedef struct mn_cl_mem_object *mn_cl_mem;
typedef struct mn_cl_program_object *mn_cl_program;
typedef struct mn_cl_kernel_object *mn_cl_kernel;
typedef struct mn_cl_event_object *mn_cl_event;
#endif

typedef struct mn_cl_region { /* what clCreateSubBuffer takes */
    size_t origin, size;
} mn_cl_region;

/* X(name without CL_, value) */
#define MN_CL_CONSTANTS(X)                                                                                             \
    X(PLATFORM_VERSION, 0x901)                                                                                         \
    X(PLATFORM_NAME, 0x902)                                                                                            \
    X(DEVICE_TYPE_CPU, 2)                                                                                              \
    X(DEVICE_TYPE_GPU, 4)                                                                                              \
    X(DEVICE_TYPE_ACCELERATOR, 8)                                                                                      \
    X(DEVICE_TYPE, 0x1000)                                                                                             \
    X(DEVICE_MAX_WORK_GROUP_SIZE, 0x1004)                                                                              \
    X(DEVICE_MAX_WORK_ITEM_SIZES, 0x1005)                                                                              \
    X(DEVICE_ADDRESS_BITS, 0x100D)                                                                                     \
    X(DEVICE_MAX_MEM_ALLOC_SIZE, 0x1010)                                                                               \
    X(DEVICE_MEM_BASE_ADDR_ALIGN, 0x1019)                                                                              \
    X(DEVICE_GLOBAL_MEM_SIZE, 0x101F)                                                                                  \
    X(DEVICE_LOCAL_MEM_SIZE, 0x1023)                                                                                   \
    X(DEVICE_AVAILABLE, 0x1027)                                                                                        \
    X(DEVICE_COMPILER_AVAILABLE, 0x1028)                                                                               \
    X(DEVICE_NAME, 0x102B)                                                                                             \
    X(DEVICE_VENDOR, 0x102C)                                                                                           \
    X(DRIVER_VERSION, 0x102D)                                                                                          \
    X(DEVICE_VERSION, 0x102F)                                                                                          \
    X(DEVICE_EXTENSIONS, 0x1030)                                                                                       \
    X(DEVICE_HOST_UNIFIED_MEMORY, 0x1035)                                                                              \
    X(CONTEXT_PLATFORM, 0x1084)                                                                                        \
    X(QUEUE_PROFILING_ENABLE, 2)                                                                                       \
    X(MEM_READ_WRITE, 1)                                                                                               \
    X(MEM_READ_ONLY, 4)                                                                                                \
    X(MEM_USE_HOST_PTR, 8)                                                                                             \
    X(BUFFER_CREATE_TYPE_REGION, 0x1220)                                                                               \
    X(PROGRAM_BINARY_SIZES, 0x1165)                                                                                    \
    X(PROGRAM_BINARIES, 0x1166)                                                                                        \
    X(PROGRAM_BUILD_LOG, 0x1183)                                                                                       \
    X(KERNEL_NUM_ARGS, 0x1191)                                                                                         \
    X(KERNEL_WORK_GROUP_SIZE, 0x11B0)                                                                                  \
    X(KERNEL_COMPILE_WORK_GROUP_SIZE, 0x11B1)                                                                          \
    X(KERNEL_LOCAL_MEM_SIZE, 0x11B2)                                                                                   \
    X(EVENT_COMMAND_EXECUTION_STATUS, 0x11D3)                                                                          \
    X(PROFILING_COMMAND_QUEUED, 0x1280)                                                                                \
    X(PROFILING_COMMAND_START, 0x1282)                                                                                 \
    X(PROFILING_COMMAND_END, 0x1283)

/* X(name without CL_, value): what a failing call returns, and what a failed command's event says */
#define MN_CL_ERRORS(X)                                                                                                \
    X(DEVICE_NOT_FOUND, -1)                                                                                            \
    X(DEVICE_NOT_AVAILABLE, -2)                                                                                        \
    X(COMPILER_NOT_AVAILABLE, -3)                                                                                      \
    X(MEM_OBJECT_ALLOCATION_FAILURE, -4)                                                                               \
    X(OUT_OF_RESOURCES, -5)                                                                                            \
    X(OUT_OF_HOST_MEMORY, -6)                                                                                          \
    X(PROFILING_INFO_NOT_AVAILABLE, -7)                                                                                \
    X(BUILD_PROGRAM_FAILURE, -11)                                                                                      \
    X(MISALIGNED_SUB_BUFFER_OFFSET, -13)                                                                               \
    X(EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, -14)                                                                  \
    X(INVALID_VALUE, -30)                                                                                              \
    X(INVALID_QUEUE_PROPERTIES, -35)                                                                                   \
    X(INVALID_COMMAND_QUEUE, -36)                                                                                      \
    X(INVALID_HOST_PTR, -37)                                                                                           \
    X(INVALID_MEM_OBJECT, -38)                                                                                         \
    X(INVALID_BINARY, -42)                                                                                             \
    X(INVALID_BUILD_OPTIONS, -43)                                                                                      \
    X(INVALID_KERNEL_NAME, -46)                                                                                        \
    X(INVALID_ARG_SIZE, -51)                                                                                           \
    X(INVALID_KERNEL_ARGS, -52)                                                                                        \
    X(INVALID_WORK_GROUP_SIZE, -54)                                                                                    \
    X(INVALID_WORK_ITEM_SIZE, -55)                                                                                     \
    X(INVALID_OPERATION, -59)                                                                                          \
    X(INVALID_BUFFER_SIZE, -61)                                                                                        \
    X(INVALID_GLOBAL_WORK_SIZE, -63)

#define MN_CL_ENUMERATOR(name, value) MN_CL_##name = (value),
enum { MN_CL_CONSTANTS(MN_CL_ENUMERATOR) MN_CL_ERRORS(MN_CL_ENUMERATOR) MN_CL_SUCCESS = 0 };
#undef MN_CL_ENUMERATOR

#define MN_CL_DEVICE_TYPE_ALL ((mn_cl_bits)0xFFFFFFFF)

/* X(name, place in the dispatch table that every object of an ICD begins with, result, arguments) */
#define MN_CL_FUNCTIONS(X)                                                                                             \
    X(clGetPlatformIDs, 0, mn_cl_int, (mn_cl_uint, mn_cl_platform *, mn_cl_uint *))                                    \
    X(clGetPlatformInfo, 1, mn_cl_int, (mn_cl_platform, mn_cl_uint, size_t, void *, size_t *))                         \
    X(clGetDeviceIDs, 2, mn_cl_int, (mn_cl_platform, mn_cl_bits, mn_cl_uint, mn_cl_device_id *, mn_cl_uint *))         \
    X(clGetDeviceInfo, 3, mn_cl_int, (mn_cl_device_id, mn_cl_uint, size_t, void *, size_t *))                          \
    X(clCreateContext, 4, mn_cl_context,                                                                               \
      (const mn_cl_property *, mn_cl_uint, const mn_cl_device_id *,                                                    \
       void (*)(const char *, const void *, size_t, void *), void *, mn_cl_int *))                                     \
    X(clReleaseContext, 7, mn_cl_int, (mn_cl_context))                                                                 \
    X(clCreateCommandQueue, 9, mn_cl_queue, (mn_cl_context, mn_cl_device_id, mn_cl_bits, mn_cl_int *))                 \
    X(clReleaseCommandQueue, 11, mn_cl_int, (mn_cl_queue))                                                             \
    X(clCreateBuffer, 14, mn_cl_mem, (mn_cl_context, mn_cl_bits, size_t, void *, mn_cl_int *))                         \
    X(clReleaseMemObject, 18, mn_cl_int, (mn_cl_mem))                                                                  \
    X(clCreateProgramWithSource, 26, mn_cl_program,                                                                    \
      (mn_cl_context, mn_cl_uint, const char **, const size_t *, mn_cl_int *))                                         \
    X(clCreateProgramWithBinary, 27, mn_cl_program,                                                                    \
      (mn_cl_context, mn_cl_uint, const mn_cl_device_id *, const size_t *, const unsigned char **, mn_cl_int *,        \
       mn_cl_int *))                                                                                                   \
    X(clReleaseProgram, 29, mn_cl_int, (mn_cl_program))                                                                \
    X(clBuildProgram, 30, mn_cl_int,                                                                                   \
      (mn_cl_program, mn_cl_uint, const mn_cl_device_id *, const char *, void (*)(mn_cl_program, void *), void *))     \
    X(clGetProgramInfo, 32, mn_cl_int, (mn_cl_program, mn_cl_uint, size_t, void *, size_t *))                          \
    X(clGetProgramBuildInfo, 33, mn_cl_int, (mn_cl_program, mn_cl_device_id, mn_cl_uint, size_t, void *, size_t *))    \
    X(clCreateKernel, 34, mn_cl_kernel, (mn_cl_program, const char *, mn_cl_int *))                                    \
    X(clReleaseKernel, 37, mn_cl_int, (mn_cl_kernel))                                                                  \
    X(clSetKernelArg, 38, mn_cl_int, (mn_cl_kernel, mn_cl_uint, size_t, const void *))                                 \
    X(clGetKernelInfo, 39, mn_cl_int, (mn_cl_kernel, mn_cl_uint, size_t, void *, size_t *))                            \
    X(clGetKernelWorkGroupInfo, 40, mn_cl_int, (mn_cl_kernel, mn_cl_device_id, mn_cl_uint, size_t, void *, size_t *))  \
    X(clGetEventInfo, 42, mn_cl_int, (mn_cl_event, mn_cl_uint, size_t, void *, size_t *))                              \
    X(clReleaseEvent, 44, mn_cl_int, (mn_cl_event))                                                                    \
    X(clGetEventProfilingInfo, 45, mn_cl_int, (mn_cl_event, mn_cl_uint, size_t, void *, size_t *))                     \
    X(clFlush, 46, mn_cl_int, (mn_cl_queue))                                                                           \
    X(clEnqueueReadBuffer, 48, mn_cl_int,                                                                              \
      (mn_cl_queue, mn_cl_mem, mn_cl_bool, size_t, size_t, void *, mn_cl_uint, const mn_cl_event *, mn_cl_event *))    \
    X(clEnqueueWriteBuffer, 49, mn_cl_int,                                                                             \
      (mn_cl_queue, mn_cl_mem, mn_cl_bool, size_t, size_t, const void *, mn_cl_uint, const mn_cl_event *,              \
       mn_cl_event *))                                                                                                 \
    X(clEnqueueCopyBuffer, 50, mn_cl_int,                                                                              \
      (mn_cl_queue, mn_cl_mem, mn_cl_mem, size_t, size_t, size_t, mn_cl_uint, const mn_cl_event *, mn_cl_event *))     \
    X(clEnqueueNDRangeKernel, 59, mn_cl_int,                                                                           \
      (mn_cl_queue, mn_cl_kernel, mn_cl_uint, const size_t *, const size_t *, const size_t *, mn_cl_uint,              \
       const mn_cl_event *, mn_cl_event *))                                                                            \
    X(clCreateSubBuffer, 82, mn_cl_mem, (mn_cl_mem, mn_cl_bits, mn_cl_uint, const void *, mn_cl_int *))                \
    X(clEnqueueFillBuffer, 102, mn_cl_int,                                                                             \
      (mn_cl_queue, mn_cl_mem, const void *, size_t, size_t, size_t, mn_cl_uint, const mn_cl_event *, mn_cl_event *))  \
    X(clEnqueueMarkerWithWaitList, 105, mn_cl_int, (mn_cl_queue, mn_cl_uint, const mn_cl_event *, mn_cl_event *))

/* cl_qcom_recordable_queues, Qualcomm's way to enqueue many kernels at once. Khronos' headers do not have it; the
 * arrays that this driver never passes (arguments, offsets and sizes to change) are void here. */
typedef struct mn_cl_recording_object *mn_cl_recording;
enum { MN_CL_QUEUE_RECORDABLE = 0x40000000 }; /* alone: together with another property creating the queue fails */
#define MN_CL_RECORDING_FUNCTIONS(X)                                                                                   \
    X(clNewRecordingQCOM, mn_cl_recording, (mn_cl_queue, mn_cl_int *))                                                 \
    X(clEndRecordingQCOM, mn_cl_int, (mn_cl_recording))                                                                \
    X(clReleaseRecordingQCOM, mn_cl_int, (mn_cl_recording))                                                            \
    X(clEnqueueRecordingQCOM, mn_cl_int,                                                                               \
      (mn_cl_queue, mn_cl_recording, size_t, const void *, size_t, const void *, size_t, const void *, size_t,         \
       const void *, mn_cl_uint, const mn_cl_event *, mn_cl_event *))

typedef void *(*mn_cl_lookup)(const char *);

typedef struct mn_cl {
#define MN_CL_FIELD(name, slot, result, arguments) result(*name) arguments;
    MN_CL_FUNCTIONS(MN_CL_FIELD)
#undef MN_CL_FIELD
    void *library;
} mn_cl;

typedef struct mn_cl_recording_api {
#define MN_CL_FIELD(name, result, arguments) result(*name) arguments;
    MN_CL_RECORDING_FUNCTIONS(MN_CL_FIELD)
#undef MN_CL_FIELD
} mn_cl_recording_api;

/* Opens MOSSNET_OPENCL_LIB or else the system's OpenCL: a loader, a driver that exports everything, or an ICD. It is
 * never closed: drivers keep threads that run its code. */
mossnet_status mn_cl_load(mn_cl *out, mossnet_error *error);
/* Whether the platform has all of them. */
bool mn_cl_load_recording(const mn_cl *cl, mn_cl_platform platform, mn_cl_recording_api *out);
/* Whether "OpenCL 1.2 ..." is at least that. */
bool mn_cl_is_1_2(const char *version);
/* "CL_OUT_OF_RESOURCES"; "an unknown error" for a value that has no name here. */
const char *mn_cl_error_name(mn_cl_int code);

#endif
