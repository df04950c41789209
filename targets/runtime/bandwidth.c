/* How fast this machine reads memory: what a model whose weights are read once per token can reach at best. */
#include "clock.h"
#include "cpu_features.h"
#include "pool.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Sums in eight vectors, so that neither the adds' latency nor the loads' bounds it. */
#define DEFINE_SUM(name, attributes, width)                                                                            \
    attributes static float name(const unsigned char *at, size_t bytes) {                                              \
        typedef float vector __attribute__((vector_size(width)));                                                      \
        vector sum[8] = {{0}};                                                                                         \
        for (size_t i = 0; i + sizeof sum <= bytes; i += sizeof sum)                                                   \
            for (int j = 0; j < 8; j++)                                                                                \
                sum[j] += *(const vector *)(const void *)(at + i + (size_t)j * sizeof(vector));                        \
        sum[0] += sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];                                        \
        return sum[0][0] + sum[0][1];                                                                                  \
    }

DEFINE_SUM(sum_plain, , 16)
#if defined(__x86_64__)
DEFINE_SUM(sum_avx, __attribute__((target("avx"))), 32)
DEFINE_SUM(sum_avx512, __attribute__((target("avx512f"))), 64)
#endif

enum { BLOCK = 1 << 20 };

typedef struct read_job {
    float (*sum)(const unsigned char *at, size_t bytes);
    const unsigned char *data;
    size_t bytes;
    float *sums; /* per chunk, so that no compiler may drop the reading */
} read_job;

static void read_chunk(const void *context, uint32_t step, uint32_t chunk, uint32_t n_chunks) {
    const read_job *job = context;
    size_t blocks = job->bytes / BLOCK;
    size_t from = blocks * chunk / n_chunks * BLOCK, to = blocks * (chunk + 1) / n_chunks * BLOCK;
    (void)step;
    job->sums[chunk] = job->sum(job->data + from, to - from);
}

static void touch_chunk(const void *context, uint32_t step, uint32_t chunk, uint32_t n_chunks) {
    const read_job *job = context;
    size_t blocks = job->bytes / BLOCK;
    size_t from = blocks * chunk / n_chunks * BLOCK, to = blocks * (chunk + 1) / n_chunks * BLOCK;
    (void)step;
    memset((void *)(uintptr_t)(job->data + from), 1, to - from);
}

mossnet_status mossnet_read_bandwidth(size_t bytes, uint32_t n_threads, uint32_t reps, double *bytes_per_s,
                                      mossnet_error *error) {
    *bytes_per_s = 0;
    bytes -= bytes % BLOCK;
    if (!bytes || !reps) return mn_fail(error, MOSSNET_ARGUMENT, "expected at least %d bytes and one pass", BLOCK);
    if (!n_threads) n_threads = mossnet_cpu_count();
    read_job job = {.sum = sum_plain, .bytes = bytes};
#if defined(__x86_64__)
    char missing[16];
    if (!mn_cpu_missing("avx", missing, sizeof missing)) job.sum = sum_avx;
    if (!mn_cpu_missing("avx512f", missing, sizeof missing)) job.sum = sum_avx512;
#endif
    mn_pool *pool;
    mossnet_status status = mn_pool_new(n_threads, &pool, error);
    if (status) return status;
    uint16_t n_chunks = (uint16_t)(n_threads * 4);
    job.sums = calloc(n_chunks, sizeof *job.sums);
    void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (job.sums && data != MAP_FAILED) {
        madvise(data, bytes, MADV_HUGEPAGE); /* the memory's speed, not that of the page tables */
        job.data = data;
        mn_pool_run(pool, &(mn_job){touch_chunk, &job, &n_chunks, 1});
        for (uint32_t rep = 0; rep < reps; rep++) {
            uint64_t start = mn_clock_ns();
            mn_pool_run(pool, &(mn_job){read_chunk, &job, &n_chunks, 1});
            double speed = (double)bytes / ((double)(mn_clock_ns() - start) * 1e-9);
            *bytes_per_s = speed > *bytes_per_s ? speed : *bytes_per_s;
        }
        status = mn_ok(error);
    } else {
        status = mn_fail(error, MOSSNET_MEMORY, "no memory for %zu bytes to read", bytes);
    }
    if (data != MAP_FAILED) munmap(data, bytes);
    free(job.sums);
    mn_pool_free(pool);
    return status;
}
