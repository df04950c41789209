/* What the fuzzers share: numbers that repeat with their seed, files, and the modes that a program is started in. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t fuzz_state = 1;

/* splitmix64 */
static inline uint64_t next(uint64_t below) {
    uint64_t z = fuzz_state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (z ^ z >> 31) % (below ? below : 1);
}

static inline uint32_t u32(const unsigned char *at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return value;
}

static inline uint64_t u64(const unsigned char *at) {
    uint64_t value;
    memcpy(&value, at, 8);
    return value;
}

/* A file in an allocation of its size. */
static inline unsigned char *fuzz_read(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END)) exit(2);
    *size = (size_t)ftell(f);
    unsigned char *content = malloc(*size);
    rewind(f);
    if (!content || fread(content, 1, *size, f) != *size) exit(2);
    fclose(f);
    return content;
}

/* Mutants from stdin, each u32 n, then n times u32 offset, u32 value: prints what `judge` says of each. */
static inline void fuzz_patches(const unsigned char *seed, size_t size, int (*judge)(unsigned char *, size_t)) {
    unsigned char *mutant = malloc(size);
    for (uint32_t n; fread(&n, 4, 1, stdin) == 1;) {
        memcpy(mutant, seed, size);
        for (; n; n--) {
            uint32_t patch[2];
            if (fread(patch, 4, 2, stdin) != 2 || patch[0] > size - 4) abort();
            memcpy(mutant + patch[0], &patch[1], 4);
        }
        putchar('0' + judge(mutant, size));
    }
    free(mutant);
}

typedef struct fuzz_mode {
    const char *name;
    void (*run)(unsigned char *seed, size_t size, unsigned long n);
} fuzz_mode;

/* PROGRAM SEED_FILE MODE [N [SEED]] */
static inline int fuzz_run(int argc, char **argv, const fuzz_mode *modes) {
    if (argc < 3) return 2;
    while (modes->name && strcmp(modes->name, argv[2]))
        modes++;
    if (!modes->name) return 2;
    size_t size;
    unsigned char *seed = fuzz_read(argv[1], &size);
    if (argc > 4) fuzz_state = strtoull(argv[4], NULL, 10);
    modes->run(seed, size, argc > 3 ? strtoul(argv[3], NULL, 10) : 0);
    free(seed);
    return 0;
}

#endif
