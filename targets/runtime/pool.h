/* A thread pool that runs a list of steps, each cut into chunks, without a barrier between them.
 *
 * A thread claims a chunk when it is free to run it. So a worker that sleeps, or that another process has pushed off
 * its core, costs nothing unless that happened inside a chunk: the others take its share. */
#ifndef MN_POOL_H
#define MN_POOL_H

#include "error.h"

enum { MN_POOL_MAX_THREADS = 1024, MN_POOL_MAX_CHUNKS = 8192 };

typedef struct mn_pool mn_pool;

/* What to run: run(context, step, chunk, n_chunks) for each chunk of each step. The chunks of one step run at once and
 * in any order; a step starts when the one before it is done. A step of one chunk runs on the thread that calls
 * mn_pool_run. */
typedef struct mn_job {
    void (*run)(const void *context, uint32_t step, uint32_t chunk, uint32_t n_chunks);
    const void *context;
    const uint16_t *n_chunks; /* per step, 1 to MN_POOL_MAX_CHUNKS */
    uint32_t n_steps;
} mn_job;

/* n_threads counts the calling thread: 1 starts none. */
mossnet_status mn_pool_new(uint32_t n_threads, mn_pool **out, mossnet_error *error);
/* One caller at a time. */
void mn_pool_run(mn_pool *pool, const mn_job *job);
void mn_pool_free(mn_pool *pool);

#endif
