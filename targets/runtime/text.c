#include "text.h"

#include <stdarg.h>
#include <stdio.h>

void mn_text_add(mn_text *text, const char *format, ...) {
    int fits = text->out && text->used < text->capacity;
    va_list list;
    va_start(list, format);
    int n = vsnprintf(fits ? text->out + text->used : NULL, fits ? text->capacity - text->used : 0, format, list);
    va_end(list);
    if (n > 0) text->used += (size_t)n;
}
