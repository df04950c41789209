/* A device opened for a model: its context with the code and the weights in it, and what queues keep there. */
#ifndef MN_CUDA_CONTEXT_H
#define MN_CUDA_CONTEXT_H

#include "cuda_limits.h"
#include "driver.h"

#include <stdbool.h>

/* What a queue has in the device. */
typedef struct mn_cuda_lane {
    mn_cu_stream stream;
    mn_cu_pointer region[MN_REGIONS]; /* WEIGHTS: the context's */
    mn_cu_graph_exec *graph;          /* [n_entries]: NULL where the entry is launched step by step */
    unsigned char *staging;           /* memory of the host that the device reaches */
    size_t staging_bytes;
    size_t staged;       /* bytes of it that the stream may still have to read */
    unsigned char *view; /* what was looked at last, where the staging memory is too small for it */
    struct mn_cuda_lane *next;
} mn_cuda_lane;

typedef struct mn_cuda_context {
    const mn_cuda_api *api;
    const mn_file *file;
    mn_cu_device device;
    mn_cu_context handle;
    bool own; /* not the device's primary context, which everyone in the process shares */
    uint32_t timeout_ms;
    mn_cu_module module;
    mn_cu_function *functions; /* [n_kernels] */
    uint32_t *dynamic_bytes;   /* [n_kernels]: local memory that a launch has to ask for */
    mn_cu_pointer weights;
    mn_cu_stream stream; /* for what is no queue's */
    double build_s, upload_s;
    uint32_t n_built;
    _Atomic bool lost;
    _Atomic bool hung;   /* lost since it took too long */
    uint32_t n_users;    /* the device and its queues; guarded by the device */
    mn_cuda_lane *lanes; /* of queues that stopped after it was lost; guarded by the device */
} mn_cuda_context;

/* Opens the device's primary context, or one of our own; loads code and weights. */
mossnet_status mn_cuda_context_open(const mn_cuda_api *api, const mn_source *source, mn_cu_device device,
                                    const mn_cuda_limits *limits, uint32_t timeout_ms, bool own, mn_cuda_context **out,
                                    mossnet_error *error);
void mn_cuda_context_free(mn_cuda_context *context);

/* Between the two the context is the calling thread's; `enter` refuses one that was lost. */
mossnet_status mn_cuda_enter(mn_cuda_context *context, mossnet_error *error);
void mn_cuda_leave(const mn_cuda_context *context);
/* Any failure but that of missing memory makes the context a lost one: what it does next cannot be relied on. */
mossnet_status mn_cuda_check(mn_cuda_context *context, mn_cu_result result, const char *what, mossnet_error *error);
/* Waits for what the stream was given; a device that takes longer than timeout_ms is lost. */
mossnet_status mn_cuda_wait(mn_cuda_context *context, mn_cu_stream stream, mossnet_error *error);
mossnet_status mn_cuda_alloc(mn_cuda_context *context, uint64_t bytes, mn_cu_pointer *out, mossnet_error *error);
/* Inside the context. */
void mn_cuda_lane_free(const mn_cuda_context *context, mn_cuda_lane *lane);

#endif
