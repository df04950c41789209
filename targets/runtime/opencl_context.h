/* An open OpenCL device: the context that its sessions share, and the queues through which commands go. */
#ifndef MN_OPENCL_CONTEXT_H
#define MN_OPENCL_CONTEXT_H

#include "driver.h"
#include "opencl_device.h"
#include "pieces.h"

#include <pthread.h>
#include <stdatomic.h>

/* What is lost with the device. A queue keeps the one that it was made with; the next `start` opens another. */
typedef struct mn_cl_shared {
    uint32_t n_users; /* the mn_device while it is the current one, and each queue; under the device's lock */
    atomic_bool lost;
    atomic_bool busy; /* when it was left, commands still ran that may read and write its memory: nothing is freed */
    mn_cl_context context;
    mn_cl_program *program; /* [n_kernels] */
    mn_cl_mem *memory;      /* the weights, per piece */
    mn_cl_mem *weight;      /* [n_buffers]: sub-buffers of those, at the first of equal ones; NULL: not used */
} mn_cl_shared;

struct mn_device {
    const mn_file *file;
    const unsigned char *code;
    const unsigned char *weights; /* in the model's mapping */
    mn_cl cl;
    mn_cl_devices devices; /* of the machine */
    const mn_cl_device *info;
    mn_cl_recording_api recording;
    bool records;
    char *cache_dir;
    uint32_t timeout_ms;
    unsigned char *mapped; /* the weights again, for a device that reads them in place; NULL: not mapped */
    bool in_place;         /* it does: they are not copied to it */
    mn_pieces pieces[MN_REGIONS];
    uint32_t *equal; /* [n_buffers]: the first buffer of the same range */
    pthread_mutex_t lock;
    mn_cl_shared *current;
    bool left_busy; /* some context was */
    /* What opening the current context took. */
    double build_s, upload_s;
    uint32_t n_built, n_cached;
};

/* The context to use now, opened if there is none or it was lost; one user more. */
mossnet_status mn_cl_shared_take(mn_device *device, mn_cl_shared **out, mossnet_error *error);
void mn_cl_shared_leave(mn_device *device, mn_cl_shared *shared);
/* The buffers of a context, or one of them that a step uses, which is a part of a region's `memory`. */
mossnet_status mn_cl_allocate(const mn_device *device, const mn_cl_shared *shared, uint32_t region, mn_cl_mem *memory,
                              mossnet_error *error);
mossnet_status mn_cl_sub_buffer(const mn_device *device, uint32_t buffer, const mn_cl_mem *memory, mn_cl_mem *out,
                                mossnet_error *error);
void mn_cl_release_memory(const mn_device *device, mn_cl_mem *memory, uint32_t n);

/* From now on every call on the context's queues is refused. Returns the status that says so. */
mossnet_status mn_cl_lose(const mn_device *device, mn_cl_shared *shared, const char *what, mn_cl_int code,
                          mossnet_error *error);
mossnet_status mn_cl_refuse_lost(const mn_device *device, const mn_cl_shared *shared, mossnet_error *error);

/* A queue whose commands run in order. */
typedef struct mn_cl_stream {
    mn_cl_queue queue;
    mn_cl_event last; /* of its commands; NULL: all of them are done */
    uint32_t n_first; /* launches since then of kernels that had not run before */
} mn_cl_stream;

mossnet_status mn_cl_stream_open(const mn_device *device, const mn_cl_shared *shared, mn_cl_bits properties,
                                 mn_cl_stream *out, mossnet_error *error);
/* Lost with commands that still run: false, and nothing is released. */
bool mn_cl_stream_close(const mn_device *device, const mn_cl_shared *shared, mn_cl_stream *stream);
/* The event of a command that was just put into the queue; the stream's from now on. */
void mn_cl_stream_follow(const mn_device *device, mn_cl_stream *stream, mn_cl_event event);
/* Waits until every command is done. */
mossnet_status mn_cl_stream_wait(const mn_device *device, mn_cl_shared *shared, mn_cl_stream *stream,
                                 mossnet_error *error);

#endif
