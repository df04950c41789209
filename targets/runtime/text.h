/* Text into the caller's buffer, cut where it ends, counted to the end. */
#ifndef MN_TEXT_H
#define MN_TEXT_H

#include <stddef.h>

typedef struct mn_text {
    char *out; /* NULL: only counted */
    size_t capacity, used;
} mn_text;

__attribute__((format(printf, 2, 3))) void mn_text_add(mn_text *text, const char *format, ...);

#endif
