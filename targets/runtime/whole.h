/* Reading and writing all bytes of something, in as many calls as it takes. */
#ifndef MN_WHOLE_H
#define MN_WHOLE_H

#include <stdbool.h>
#include <stddef.h>

/* False at the end of the file and after an error. */
bool mn_read_all(int fd, void *out, size_t bytes);
bool mn_write_all(int fd, const void *in, size_t bytes);

#endif
