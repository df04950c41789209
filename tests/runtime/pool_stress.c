/* The thread pool under ThreadSanitizer: every step sees all of the step before it, each chunk runs once, nothing
 * hangs.
 *
 *   pool_stress RUNS
 */
#include "clock.h"
#include "pool.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STEPS = 12, MOST = 16, POOLS = 3 };

typedef struct board {
    uint32_t cell[STEPS + 1][MOST]; /* plain memory: what orders its accesses is the pool */
    uint32_t run;
    uint16_t n_chunks[STEPS];
    int pause; /* now and then a chunk takes long enough for others to fall asleep */
} board;

static void chunk(const void *context, uint32_t step, uint32_t chunk, uint32_t n_chunks) {
    board *b = (board *)(uintptr_t)context;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < MOST; i++)
        sum += b->cell[step][i];
    if (b->pause && (b->run + step * 7 + chunk) % 61 == 0) usleep(300);
    for (uint32_t i = MOST * chunk / n_chunks; i < MOST * (chunk + 1) / n_chunks; i++)
        b->cell[step + 1][i] += sum + i;
}

/* The same, without threads. */
static uint32_t expected(const uint32_t *first, uint32_t step, uint32_t index) {
    uint32_t row[MOST], sum = 0;
    memcpy(row, first, sizeof row);
    for (uint32_t s = 0; s <= step; s++) {
        sum = 0;
        for (int i = 0; i < MOST; i++)
            sum += row[i];
        for (uint32_t i = 0; i < MOST; i++)
            row[i] = sum + i;
    }
    return row[index];
}

static int check(const board *b) {
    for (uint32_t step = 0; step < STEPS; step++)
        for (uint32_t i = 0; i < MOST; i++)
            if (b->cell[step + 1][i] != expected(b->cell[0], step, i)) {
                fprintf(stderr, "run %u, step %u, cell %u: %u, expected %u\n", b->run, step, i, b->cell[step + 1][i],
                        expected(b->cell[0], step, i));
                return 1;
            }
    return 0;
}

static int stress(uint32_t n_threads, uint32_t runs, int pause) {
    mn_pool *pool;
    mossnet_error error;
    board b = {.pause = pause};
    if (mn_pool_new(n_threads, &pool, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    for (b.run = 0; b.run < runs; b.run++) {
        memset(b.cell, 0, sizeof b.cell);
        for (uint32_t i = 0; i < MOST; i++)
            b.cell[0][i] = b.run + i;
        for (uint32_t step = 0; step < STEPS; step++)
            b.n_chunks[step] = (uint16_t)(1 + (b.run + step * 5) % MOST);
        mn_pool_run(pool, &(mn_job){chunk, &b, b.n_chunks, 0}); /* nothing to do */
        mn_pool_run(pool, &(mn_job){chunk, &b, b.n_chunks, STEPS});
        if (check(&b)) return 1;
        if (pause && b.run % 50 == 0) usleep(400); /* workers are asleep when the next run starts */
    }
    mn_pool_free(pool);
    return 0;
}

static void *stress_beside(void *argument) {
    return (void *)(intptr_t)stress(2, *(uint32_t *)argument, 0);
}

static void doze(const void *context, uint32_t step, uint32_t chunk, uint32_t n_chunks) {
    (void)context;
    (void)step;
    (void)chunk;
    (void)n_chunks;
    usleep(10000);
}

/* Twelve chunks that sleep 10 ms each, on four threads: all of them take part, also after they slept. */
static int shares(void) {
    mn_pool *pool;
    uint16_t n_chunks = 12;
    int failed = 0;
    if (mn_pool_new(4, &pool, NULL)) return 1;
    for (int i = 0; i < 5; i++) {
        uint64_t start = mn_clock_ns();
        mn_pool_run(pool, &(mn_job){doze, NULL, &n_chunks, 1});
        failed += mn_clock_ns() - start > 90000000;
        usleep(5000);
    }
    mn_pool_free(pool);
    if (failed > 2) fprintf(stderr, "%d of 5 runs took three quarters of one thread's time or more\n", failed);
    return failed > 2;
}

int main(int argc, char **argv) {
    uint32_t runs = argc > 1 ? (uint32_t)atoi(argv[1]) : 1000;
    for (uint32_t n_threads = 1; n_threads <= 4; n_threads++)
        for (int pause = 0; pause < 2; pause++)
            if (stress(n_threads, pause ? runs / 4 : runs, pause)) return 1;
    if (shares()) return 1;
    if (stress(16, runs / 8, 0)) return 1; /* far more threads than CPUs */
    pthread_t beside[POOLS];               /* several pools at once */
    uint32_t each = runs / 4;
    for (int i = 0; i < POOLS; i++)
        if (pthread_create(&beside[i], NULL, stress_beside, &each)) return 1;
    int failed = 0;
    for (int i = 0; i < POOLS; i++) {
        void *result;
        pthread_join(beside[i], &result);
        failed |= result != NULL;
    }
    for (int i = 0; i < 200; i++) { /* come and go without a run, and with one */
        mn_pool *pool;
        uint16_t n_chunks = 3;
        board b = {.run = 1};
        if (mn_pool_new(4, &pool, NULL)) return 1;
        if (i % 2) mn_pool_run(pool, &(mn_job){chunk, &b, &n_chunks, 1});
        mn_pool_free(pool);
    }
    mn_pool_free(NULL);
    puts("fine");
    return failed;
}
