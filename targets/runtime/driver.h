/* What a kind of device has to do for a model. model.c and session.c know devices only through this table. */
#ifndef MN_DRIVER_H
#define MN_DRIVER_H

#include "file.h"

/* A model file, mapped and checked; it stays so as long as the device is open. `fd` is valid during `open` only. */
typedef struct mn_source {
    const mn_file *file;
    const unsigned char *data;
    int fd;
    uint32_t flags; /* of mossnet_model_load */
} mn_source;

typedef struct mn_device mn_device; /* the driver's own: the weights and the code, ready to run; shared by threads */
typedef struct mn_queue mn_queue;   /* the driver's own: one session's regions and its steps, bound to them */

typedef struct mn_driver {
    const char *target; /* first word of META `target` */

    /* Refuses a machine that does not fit (UNSUPPORTED); uploads the weights, loads the code. */
    mossnet_status (*open)(const mn_source *source, mn_device **out, mossnet_error *error);
    void (*close)(mn_device *device);

    /* Allocates the regions STATE, ARENA and IO as zeros and prepares every step. */
    mossnet_status (*start)(const mn_device *device, uint32_t n_threads, mn_queue **out, mossnet_error *error);
    void (*stop)(mn_queue *queue);
    uint32_t (*threads)(const mn_queue *queue);

    /* Starts steps of the file's STEP table, in order; `wait` returns when they are done. */
    mossnet_status (*run)(mn_queue *queue, uint32_t first_step, uint32_t n_steps, mossnet_error *error);
    mossnet_status (*wait)(mn_queue *queue, mossnet_error *error);

    /* Between runs. Ranges lie within the region; WEIGHTS is never written. */
    mossnet_status (*read)(const mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, void *out,
                           mossnet_error *error);
    mossnet_status (*write)(mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, const void *in,
                            mossnet_error *error);
    mossnet_status (*clear)(mn_queue *queue, uint32_t region, mossnet_error *error);
    /* The range as the host's memory, valid until the queue's next call. */
    mossnet_status (*view)(const mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, const void **out,
                           mossnet_error *error);
} mn_driver;

extern const mn_driver mn_driver_cpu;

#endif
