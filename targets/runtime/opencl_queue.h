/* What of the driver works on a session; driver.h says what each does. */
#ifndef MN_OPENCL_QUEUE_H
#define MN_OPENCL_QUEUE_H

#include "opencl_context.h"

mossnet_status mn_cl_queue_start(mn_device *device, uint32_t n_threads, mn_queue **out, mossnet_error *error);
void mn_cl_queue_stop(mn_queue *queue);
uint32_t mn_cl_queue_threads(const mn_queue *queue);
mossnet_status mn_cl_queue_run(mn_queue *queue, uint32_t first_step, uint32_t n_steps, mossnet_error *error);
mossnet_status mn_cl_queue_wait(mn_queue *queue, mossnet_error *error);
mossnet_status mn_cl_queue_time(mn_queue *queue, uint32_t first_step, uint32_t n_steps, double *step_s,
                                mossnet_error *error);
mossnet_status mn_cl_queue_read(const mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, void *out,
                                mossnet_error *error);
mossnet_status mn_cl_queue_write(mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, const void *in,
                                 mossnet_error *error);
mossnet_status mn_cl_queue_clear(mn_queue *queue, uint32_t region, mossnet_error *error);
mossnet_status mn_cl_queue_view(const mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes,
                                const void **out, mossnet_error *error);

#endif
