/* The driver cuda's sessions: what driver.h asks of a queue. */
#ifndef MN_CUDA_QUEUE_H
#define MN_CUDA_QUEUE_H

#include "cuda_context.h"

/* The device's context, for one more user; when the last one was lost, a new one (cuda.c). */
mossnet_status mn_cuda_acquire(mn_device *device, mn_cuda_context **out, mossnet_error *error);
/* Gives it back. `lane`, if any, is freed: at once, or with the context when that was lost. */
void mn_cuda_release(mn_device *device, mn_cuda_context *context, mn_cuda_lane *lane);

mossnet_status mn_cuda_start(mn_device *device, uint32_t n_threads, mn_queue **out, mossnet_error *error);
void mn_cuda_stop(mn_queue *queue);
mossnet_status mn_cuda_run(mn_queue *queue, uint32_t first_step, uint32_t n_steps, mossnet_error *error);
mossnet_status mn_cuda_finish(mn_queue *queue, mossnet_error *error);
mossnet_status mn_cuda_time(mn_queue *queue, uint32_t first_step, uint32_t n_steps, double *step_s,
                            mossnet_error *error);
mossnet_status mn_cuda_read(const mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, void *out,
                            mossnet_error *error);
mossnet_status mn_cuda_write(mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, const void *in,
                             mossnet_error *error);
mossnet_status mn_cuda_clear(mn_queue *queue, uint32_t region, mossnet_error *error);
mossnet_status mn_cuda_view(const mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, const void **out,
                            mossnet_error *error);

#endif
