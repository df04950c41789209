#include "cpu_code.h"

#include "crc.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/* A library that holds the code, byte for byte: an Android app brings one, because its code should be in its package
 * and not among its data. Its name is that of the code (targets/java/code_library.py). */
static bool find_library(const mn_source *source, mn_cpu_code *code) {
    const mn_span span = source->file->code;
    const unsigned char *expected = source->data + span.offset;
    char name[40];
    snprintf(name, sizeof name, "libmossnet_%08x_k.so", mn_crc32(expected, span.bytes));
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library) return false;
    const unsigned char *at = dlsym(library, "mossnet_code");
    const uint64_t *bytes = dlsym(library, "mossnet_code_bytes");
    if (!at || !bytes || *bytes != span.bytes || memcmp(at, expected, (size_t)span.bytes)) {
        dlclose(library);
        return false;
    }
    *code = (mn_cpu_code){at, 0, library};
    return true;
}

/* A copy of the code, for filesystems that are mounted noexec. */
static bool copy(const unsigned char *from, size_t bytes, mn_cpu_code *code) {
    unsigned char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return false;
    memcpy(at, from, bytes);
    if (mprotect(at, bytes, PROT_READ | PROT_EXEC)) {
        int reason = errno;
        munmap(at, bytes);
        errno = reason;
        return false;
    }
    __builtin___clear_cache((char *)at, (char *)at + bytes);
    *code = (mn_cpu_code){at, bytes, NULL};
    return true;
}

bool mn_cpu_code_open(const mn_source *source, mn_cpu_code *code) {
    const mn_span span = source->file->code;
    if (find_library(source, code)) return true;
    void *at = mmap(NULL, (size_t)span.bytes, PROT_READ | PROT_EXEC, MAP_PRIVATE, source->fd, (off_t)span.offset);
    if (at == MAP_FAILED) return copy(source->data + span.offset, (size_t)span.bytes, code);
    *code = (mn_cpu_code){at, (size_t)span.bytes, NULL};
    return true;
}

void mn_cpu_code_close(mn_cpu_code *code) {
    if (code->mapped) munmap((void *)(uintptr_t)code->at, code->mapped);
    if (code->library) dlclose(code->library);
}
