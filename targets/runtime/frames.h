/* Frames on a byte stream, and what stands in them. mossnet_tg/targets/frames.py is the other end.
 *
 *   "MNRP"  u32 type  u32 seq  u32 timeout_ms  u32 bytes  payload[bytes]          all little-endian
 *
 * A request has a type of requests.h, and after timeout_ms it counts as hung (0: never). An answer has the request's
 * seq and the type MN_ANSWER, or MN_ERROR with u32 status and a text. A request whose type has the bit MN_QUIET is
 * answered when it fails only: over USB an answer costs as much as a token. */
#ifndef MN_FRAMES_H
#define MN_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MN_ANSWER = 0x80, MN_ERROR = 0x81, MN_QUIET = 0x100 };
/* Statuses of MN_ERROR that are none of mossnet.h's. */
enum { MN_STATUS_PROTOCOL = 256, MN_STATUS_TIMEOUT = 257 };
enum { MN_FRAME_HEADER = 20 };
#define MN_FRAME_MAX_BYTES (UINT32_C(1) << 28)

typedef struct mn_frame {
    uint32_t type, seq, timeout_ms, bytes;
} mn_frame;

/* False for what is no frame, or a longer one than is allowed. */
bool mn_frame_parse(const unsigned char header[MN_FRAME_HEADER], mn_frame *out);

bool mn_frame_send(int fd, uint32_t type, uint32_t seq, const void *payload, size_t bytes);

/* A payload being read. Whatever is asked for beyond its end is 0 or NULL, and `ok` is false from then on. */
typedef struct mn_input {
    const unsigned char *at;
    size_t left;
    bool ok;
} mn_input;

const void *mn_take(mn_input *in, size_t bytes);
uint32_t mn_take_u32(mn_input *in);
uint64_t mn_take_u64(mn_input *in);
/* u32 length, so many bytes without a NUL among them, and a NUL. */
const char *mn_take_text(mn_input *in);

/* A payload being written. It grows; `ok` is false when it would pass the limit or the memory. */
typedef struct mn_output {
    unsigned char *data;
    size_t used, capacity;
    bool ok;
} mn_output;

/* Room for so many bytes, to be filled before the next call; NULL when there is none. */
void *mn_put_room(mn_output *out, size_t bytes);
void mn_put(mn_output *out, const void *data, size_t bytes);
void mn_put_u32(mn_output *out, uint32_t value);
void mn_put_u64(mn_output *out, uint64_t value);
void mn_put_f64(mn_output *out, double value);
/* u32 length and so many bytes. */
void mn_put_text(mn_output *out, const char *text);

#endif
