/* UTF-8, one character at a time. */
#ifndef MN_UTF8_H
#define MN_UTF8_H

#include <stddef.h>
#include <stdint.h>

enum { MN_REPLACEMENT = 0xFFFD, MN_UTF8_MOST = 4 };

/* The length of the first character of n >= 1 bytes, and the character. Bytes that are none: the length of the longest
 * part that could begin one (at least 1), and U+FFFD. Bytes that end inside a character: 0. */
size_t mn_utf8_next(const unsigned char *at, size_t n, uint32_t *character);
/* The same of bytes that nothing follows: U+FFFD for an unfinished character, never 0. */
size_t mn_utf8_last(const unsigned char *at, size_t n, uint32_t *character);
/* Writes a character; returns its length. */
size_t mn_utf8_put(unsigned char *at, uint32_t character);

#endif
