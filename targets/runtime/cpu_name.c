#include "cpu_name.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_OF_CPUINFO = 1 << 16 };

/* The value of the first line "key<spaces>: value" whose value is not empty. */
static bool find(const char *text, const char *key, char *out, size_t capacity) {
    size_t length = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, length)) continue;
        const char *colon = line + length + strspn(line + length, " \t");
        if (*colon != ':') continue;
        const char *value = colon + 1 + strspn(colon + 1, " \t");
        size_t n = strcspn(value, "\n");
        if (!n) continue;
        if (n >= capacity) n = capacity - 1;
        memcpy(out, value, n);
        out[n] = 0;
        return true;
    }
    return false;
}

void mn_cpu_name(char *out, size_t capacity) {
    static const char *const keys[] = {"model name", "Hardware", "Model"}; /* x86-64, older arm64, small boards */
    const char *named = getenv("MOSSNET_CPU");
    if (named && named[strspn(named, " ")]) {
        snprintf(out, capacity, "%s", named + strspn(named, " "));
        return;
    }
    out[0] = 0;
    char *text = calloc(1, MOST_OF_CPUINFO);
    int fd = text ? open("/proc/cpuinfo", O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n = 1;
    for (size_t used = 0; fd >= 0 && n > 0; used += (size_t)n)
        n = used < MOST_OF_CPUINFO - 1 ? read(fd, text + used, MOST_OF_CPUINFO - 1 - used) : 0;
    for (size_t i = 0; fd >= 0 && i < sizeof keys / sizeof *keys; i++)
        if (find(text, keys[i], out, capacity)) break;
    if (fd >= 0) close(fd);
    free(text);
}
