/* What the pool costs and gains, on matrix-vector products that read their weights from memory.
 *
 *   gcc -O3 -pthread -D_GNU_SOURCE -DMOSSNET_VERSION='""' -Itargets/runtime tests/runtime/pool_bench.c \
 *       targets/runtime/pool.c targets/runtime/error.c -o pool_bench
 *   ./pool_bench THREADS STEPS KIB_PER_STEP CHUNKS_PER_THREAD RUNS
 *
 * prints microseconds per step: best, median and mean of RUNS runs of STEPS steps. "empty" is the pool alone. Beside a
 * process that keeps a core busy, two threads should not be much slower than one is alone. */
#include "clock.h"
#include "pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 1024 };

typedef struct product {
    const float *weights, *x;
    float *y;
    size_t rows; /* of a step */
} product;

static void empty(const void *context, uint32_t step, uint32_t chunk, uint32_t n_chunks) {
    (void)context;
    (void)step;
    (void)chunk;
    (void)n_chunks;
}

static void matvec(const void *context, uint32_t step, uint32_t chunk, uint32_t n_chunks) {
    const product *p = context;
    typedef float vector __attribute__((vector_size(32)));
    for (size_t row = p->rows * chunk / n_chunks; row < p->rows * (chunk + 1) / n_chunks; row++) {
        const vector *w = (const vector *)(const void *)(p->weights + (step * p->rows + row) * COLUMNS);
        const vector *x = (const vector *)(const void *)p->x;
        vector sum[4] = {{0}};
        for (int i = 0; i < COLUMNS / 8; i += 4)
            for (int j = 0; j < 4; j++)
                sum[j] += w[i + j] * x[i + j];
        sum[0] += sum[1] + sum[2] + sum[3];
        p->y[row] = sum[0][0] + sum[0][1] + sum[0][2] + sum[0][3] + sum[0][4] + sum[0][5] + sum[0][6] + sum[0][7];
    }
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(const char *name, mn_pool *pool, const mn_job *job, uint32_t runs, double *us) {
    double sum = 0;
    for (uint32_t run = 0; run < runs; run++) {
        uint64_t start = mn_clock_ns();
        mn_pool_run(pool, job);
        sum += us[run] = (double)(mn_clock_ns() - start) * 1e-3 / job->n_steps;
    }
    qsort(us, runs, sizeof *us, ascending);
    printf("%s best %.2f median %.2f mean %.2f us per step\n", name, us[0], us[runs / 2], sum / runs);
}

int main(int argc, char **argv) {
    uint32_t value[5];
    for (int i = 0; i < 5; i++)
        if (argc < 6 || !(value[i] = (uint32_t)atoi(argv[i + 1]))) return 2;
    uint32_t n_threads = value[0], n_steps = value[1], runs = value[4];
    product p = {.rows = value[2] / 4}; /* a row has 4 KiB */
    size_t bytes = n_steps * p.rows * COLUMNS * sizeof(float);
    float *weights = aligned_alloc(4096, bytes), *x = aligned_alloc(4096, 4096);
    uint16_t *n_chunks = malloc(n_steps * sizeof *n_chunks);
    double *us = malloc(runs * sizeof *us);
    mn_pool *pool;
    p.y = malloc(p.rows * sizeof *p.y);
    if (!weights || !x || !n_chunks || !us || !p.y || mn_pool_new(n_threads, &pool, NULL)) return 1;
    memset(weights, 0, bytes);
    memset(x, 0, 4096);
    p.weights = weights;
    p.x = x;
    for (uint32_t i = 0; i < n_steps; i++)
        n_chunks[i] = (uint16_t)(n_threads == 1 ? 1 : n_threads * value[3]);
    measure("empty ", pool, &(mn_job){empty, &p, n_chunks, n_steps}, runs, us);
    measure("matvec", pool, &(mn_job){matvec, &p, n_chunks, n_steps}, runs, us);
    mn_pool_free(pool);
    return 0;
}
