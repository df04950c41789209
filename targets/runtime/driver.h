/* What a kind of device has to do for a model. model.c and session.c know devices only through this table. */
#ifndef MN_DRIVER_H
#define MN_DRIVER_H

#include "file.h"
#include "text.h"

/* A model file, mapped and checked; file and data stay so as long as the device is open, fd and options during `open`
 * only. */
typedef struct mn_source {
    const mn_file *file;
    const unsigned char *data;
    int fd;
    const mossnet_options *options;
} mn_source;

typedef struct mn_device mn_device; /* the driver's own: the weights and the code, ready to run; shared by threads */
typedef struct mn_queue mn_queue;   /* the driver's own: one session's regions and its steps, bound to them */

typedef struct mn_driver {
    const char *name; /* META `driver` */

    /* The machine's devices, as mossnet_devices describes them. */
    mossnet_status (*devices)(mn_text *out, mossnet_error *error);

    /* Refuses a machine that does not fit (UNSUPPORTED) or where there is no device (DEVICE); uploads the weights,
     * loads the code. */
    mossnet_status (*open)(const mn_source *source, mn_device **out, mossnet_error *error);
    void (*close)(mn_device *device);
    /* The device in use, as mossnet_model_device describes it. */
    void (*describe)(const mn_device *device, mn_text *out);
    /* Bytes per second at which the device copies memory; NULL where mossnet_read_bandwidth says it. */
    mossnet_status (*bandwidth)(mn_device *device, uint64_t bytes, uint32_t reps, double *bytes_per_s,
                                mossnet_error *error);

    /* Allocates the regions STATE, ARENA and IO as zeros and prepares every step. After a device was lost, this is what
     * opens it anew. */
    mossnet_status (*start)(mn_device *device, uint32_t n_threads, mn_queue **out, mossnet_error *error);
    void (*stop)(mn_queue *queue);
    uint32_t (*threads)(const mn_queue *queue);

    /* Starts steps of the file's STEP table, in order; `wait` returns when they are done. */
    mossnet_status (*run)(mn_queue *queue, uint32_t first_step, uint32_t n_steps, mossnet_error *error);
    mossnet_status (*wait)(mn_queue *queue, mossnet_error *error);
    /* Runs steps one after the other and writes the seconds that the device spent on each; NULL where the host's clock
     * says it. */
    mossnet_status (*time)(mn_queue *queue, uint32_t first_step, uint32_t n_steps, double *step_s,
                           mossnet_error *error);

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
extern const mn_driver mn_driver_cuda;
extern const mn_driver mn_driver_opencl;
extern const mn_driver mn_driver_vulkan;

#endif
