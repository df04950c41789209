/* A disk that is full after FULL_DISK_AFTER bytes of a file that is not complete yet; put before a program with
 * LD_PRELOAD. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

ssize_t write(int fd, const void *data, size_t bytes) {
    const char *after = getenv("FULL_DISK_AFTER");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    if (after && n > 4 && !strcmp(path + n - 4, ".tmp") && lseek(fd, 0, SEEK_CUR) + (off_t)bytes > atol(after)) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_write, fd, data, bytes);
}
