#include "store.h"

#include "whole.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void mn_store_name(const uint8_t hash[MN_SHA256_BYTES], char out[MN_STORE_NAME]) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < MN_SHA256_BYTES; i++) {
        out[2 * i] = digits[hash[i] >> 4];
        out[2 * i + 1] = digits[hash[i] & 15];
    }
    memcpy(out + 2 * MN_SHA256_BYTES, ".moss", sizeof ".moss");
}

bool mn_store_has(const uint8_t hash[MN_SHA256_BYTES], uint64_t total) {
    char name[MN_STORE_NAME];
    struct stat info;
    mn_store_name(hash, name);
    return !stat(name, &info) && S_ISREG(info.st_mode) && (uint64_t)info.st_size == total;
}

void mn_store_remove(const uint8_t hash[MN_SHA256_BYTES]) {
    char name[MN_STORE_NAME];
    mn_store_name(hash, name);
    unlink(name);
}

void mn_store_drop(mn_store *store) {
    if (!store->open) return;
    store->open = false;
    close(store->fd);
    unlink(store->unfinished);
}

/* What the system says of a file that it does not take. */
static mossnet_status refused(mn_store *store, mossnet_error *error) {
    mossnet_status status = mn_fail(error, MOSSNET_IO, "a file of %llu bytes cannot be stored, after %llu: %s",
                                    (unsigned long long)store->total, (unsigned long long)store->done, strerror(errno));
    mn_store_drop(store);
    return status;
}

static mossnet_status begin(mn_store *store, const uint8_t hash[MN_SHA256_BYTES], uint64_t total,
                            mossnet_error *error) {
    char name[MN_STORE_NAME];
    mn_store_drop(store);
    mn_store_name(hash, name);
    *store = (mn_store){.total = total};
    memcpy(store->hash, hash, sizeof store->hash);
    snprintf(store->unfinished, sizeof store->unfinished, "%s.%d.tmp", name, (int)(getpid() % 10000000));
    mn_sha256_start(&store->sum);
    store->fd = open(store->unfinished, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (store->fd < 0) return refused(store, error);
    store->open = true;
    return MOSSNET_OK;
}

static mossnet_status finish(mn_store *store, mossnet_error *error) {
    uint8_t found[MN_SHA256_BYTES];
    char name[MN_STORE_NAME];
    mn_sha256_end(&store->sum, found);
    mn_store_name(store->hash, name);
    if (memcmp(found, store->hash, sizeof found)) {
        mn_store_drop(store);
        return mn_fail(error, MOSSNET_ARGUMENT,
                       "the %llu bytes that came are not those of %.16s...: damaged on the way",
                       (unsigned long long)store->total, name);
    }
    if (rename(store->unfinished, name)) return refused(store, error);
    store->open = false;
    /* Some file systems say only now that the disk is full. */
    if (!close(store->fd)) return MOSSNET_OK;
    unlink(name);
    return refused(store, error);
}

mossnet_status mn_store_put(mn_store *store, const uint8_t hash[MN_SHA256_BYTES], uint64_t total, uint64_t offset,
                            const void *data, size_t bytes, mossnet_error *error) {
    mossnet_status status = offset ? MOSSNET_OK : begin(store, hash, total, error);
    if (status) return status;
    bool expected = store->open && offset == store->done && total == store->total && bytes <= total - offset &&
                    !memcmp(hash, store->hash, sizeof store->hash);
    if (!expected) {
        mn_store_drop(store);
        return mn_fail(error, MOSSNET_ARGUMENT, "%zu bytes at %llu of a file of %llu, which is no next piece", bytes,
                       (unsigned long long)offset, (unsigned long long)total);
    }
    if (!mn_write_all(store->fd, data, bytes)) return refused(store, error);
    mn_sha256_add(&store->sum, data, bytes);
    store->done += bytes;
    return store->done == total ? finish(store, error) : MOSSNET_OK;
}
