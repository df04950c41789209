#include "program_cache.h"

#include "crc.h"
#include "whole.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct header { /* of a file; the data follows */
    char magic[8];
    mn_cache_key key;
    uint64_t bytes;
    uint32_t crc, reserved;
} header;
static const char MAGIC[] = "MOSSBIN1"; /* the field holds it without the NUL */
enum { MAX_PATH = 4096 };
static const uint64_t MAX_BYTES = UINT64_C(1) << 30;

static uint64_t mix(uint64_t hash, uint64_t prime, const unsigned char *at, size_t bytes) { /* FNV-1a's step */
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ at[i]) * prime;
    return hash;
}

void mn_cache_key_add(mn_cache_key *key, const void *data, size_t bytes) {
    static const uint64_t primes[2] = {UINT64_C(0x100000001b3), UINT64_C(0x9e3779b97f4a7c15)};
    uint64_t length = bytes;
    for (int i = 0; i < 2; i++) {
        uint64_t hash = key->hash[i] ^ UINT64_C(0xcbf29ce484222325);
        hash = mix(hash, primes[i], (const unsigned char *)&length, sizeof length);
        key->hash[i] = mix(hash, primes[i], data, bytes);
    }
}

static bool path_of(char out[MAX_PATH], const char *folder, const mn_cache_key *key, const char *suffix) {
    int n = snprintf(out, MAX_PATH, "%s/%016llx%016llx.bin%s", folder, (unsigned long long)key->hash[0],
                     (unsigned long long)key->hash[1], suffix);
    return n > 0 && n < MAX_PATH;
}

static void *read_file(int fd, const mn_cache_key *key, size_t *bytes) {
    header h;
    struct stat info;
    if (!mn_read_all(fd, &h, sizeof h) || memcmp(h.magic, MAGIC, sizeof h.magic) || memcmp(&h.key, key, sizeof *key) ||
        h.bytes > MAX_BYTES || fstat(fd, &info) || (uint64_t)info.st_size != sizeof h + h.bytes)
        return NULL;
    void *data = malloc(h.bytes ? (size_t)h.bytes : 1);
    if (data && mn_read_all(fd, data, (size_t)h.bytes) && mn_crc32(data, h.bytes) == h.crc) {
        *bytes = (size_t)h.bytes;
        return data;
    }
    free(data);
    return NULL;
}

void *mn_cache_load(const char *folder, const mn_cache_key *key, size_t *bytes) {
    char path[MAX_PATH];
    if (!folder || !*folder || !path_of(path, folder, key, "")) return NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    void *data = read_file(fd, key, bytes);
    close(fd);
    return data;
}

bool mn_cache_store(const char *folder, const mn_cache_key *key, const void *data, size_t bytes) {
    char path[MAX_PATH], unfinished[MAX_PATH], suffix[32];
    snprintf(suffix, sizeof suffix, ".%ld.tmp", (long)getpid());
    if (!folder || !*folder || bytes > MAX_BYTES || !path_of(path, folder, key, "") ||
        !path_of(unfinished, folder, key, suffix))
        return false;
    if (mkdir(folder, 0700) && errno != EEXIST) return false;
    header h = {.key = *key, .bytes = bytes, .crc = mn_crc32(data, bytes)};
    memcpy(h.magic, MAGIC, sizeof h.magic);
    int fd = open(unfinished, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return false;
    bool stored = mn_write_all(fd, &h, sizeof h) && mn_write_all(fd, data, bytes);
    stored = !close(fd) && stored && !rename(unfinished, path);
    if (!stored) unlink(unfinished);
    return stored;
}
