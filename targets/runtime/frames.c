#include "frames.h"

#include "whole.h"

#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "frames are written as the machine stores numbers"
#endif

static const char MAGIC[4] = {'M', 'N', 'R', 'P'};

static uint32_t u32_at(const unsigned char *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

bool mn_frame_parse(const unsigned char header[MN_FRAME_HEADER], mn_frame *out) {
    *out = (mn_frame){u32_at(header + 4), u32_at(header + 8), u32_at(header + 12), u32_at(header + 16)};
    return !memcmp(header, MAGIC, sizeof MAGIC) && out->bytes <= MN_FRAME_MAX_BYTES;
}

bool mn_frame_send(int fd, uint32_t type, uint32_t seq, const void *payload, size_t bytes) {
    const uint32_t fields[4] = {type, seq, 0, (uint32_t)bytes};
    unsigned char small[4096]; /* one write, and so one packet on the way, for all but the long ones */
    size_t first = bytes < sizeof small - MN_FRAME_HEADER ? bytes : 0;
    memcpy(small, MAGIC, sizeof MAGIC);
    memcpy(small + sizeof MAGIC, fields, sizeof fields);
    if (first) memcpy(small + MN_FRAME_HEADER, payload, first);
    return mn_write_all(fd, small, MN_FRAME_HEADER + first) &&
           mn_write_all(fd, (const unsigned char *)payload + first, bytes - first);
}

const void *mn_take(mn_input *in, size_t bytes) {
    in->ok = in->ok && bytes <= in->left;
    if (!in->ok) return NULL;
    const void *at = in->at;
    in->at += bytes;
    in->left -= bytes;
    return at;
}

uint32_t mn_take_u32(mn_input *in) {
    const void *at = mn_take(in, sizeof(uint32_t));
    return at ? u32_at(at) : 0;
}

uint64_t mn_take_u64(mn_input *in) {
    uint64_t value = 0;
    const void *at = mn_take(in, sizeof value);
    if (at) memcpy(&value, at, sizeof value);
    return value;
}

const char *mn_take_text(mn_input *in) {
    size_t length = mn_take_u32(in);
    const char *text = mn_take(in, length + 1);
    in->ok = in->ok && memchr(text, 0, length + 1) == text + length;
    return in->ok ? text : NULL;
}

void *mn_put_room(mn_output *out, size_t bytes) {
    out->ok = out->ok && bytes <= MN_FRAME_MAX_BYTES - out->used;
    if (!out->ok) return NULL;
    size_t needed = out->used + bytes;
    if (!out->data || needed > out->capacity) {
        size_t capacity = needed < 4096 ? 4096 : needed;
        unsigned char *data = realloc(out->data, capacity);
        out->ok = data;
        if (!data) return NULL;
        out->data = data;
        out->capacity = capacity;
    }
    void *at = out->data + out->used;
    out->used = needed;
    return at;
}

void mn_put(mn_output *out, const void *data, size_t bytes) {
    void *at = mn_put_room(out, bytes);
    if (at && bytes) memcpy(at, data, bytes);
}

void mn_put_u32(mn_output *out, uint32_t value) {
    mn_put(out, &value, sizeof value);
}

void mn_put_u64(mn_output *out, uint64_t value) {
    mn_put(out, &value, sizeof value);
}

void mn_put_f64(mn_output *out, double value) {
    mn_put(out, &value, sizeof value);
}

void mn_put_text(mn_output *out, const char *text) {
    size_t length = strlen(text);
    mn_put_u32(out, (uint32_t)length);
    mn_put(out, text, length);
}
