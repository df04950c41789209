#include "serve.h"

#include "requests.h"
#include "watchdog.h"
#include "whole.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct connection {
    int in, out;
    mn_server *server;
    mn_watchdog dog;
    unsigned char *payload;
    size_t capacity;
    mn_output answer;
} connection;

static bool send_error(const connection *c, uint32_t seq, uint32_t status, const char *text) {
    unsigned char error[sizeof status + sizeof((mossnet_error *)NULL)->text];
    size_t length = strlen(text);
    memcpy(error, &status, sizeof status);
    memcpy(error + sizeof status, text, length);
    return mn_frame_send(c->out, MN_ERROR, seq, error, sizeof status + length);
}

/* A request that is too long for this machine is read all the same, so that the next one is found. */
static bool skip(int in, size_t bytes) {
    unsigned char some[4096];
    for (size_t n; bytes; bytes -= n) {
        n = bytes < sizeof some ? bytes : sizeof some;
        if (!mn_read_all(in, some, n)) return false;
    }
    return true;
}

static bool has_room(connection *c, size_t bytes) {
    if (bytes <= c->capacity && c->payload) return true;
    unsigned char *payload = realloc(c->payload, bytes ? bytes : 1);
    if (!payload) return false;
    c->payload = payload;
    c->capacity = bytes;
    return true;
}

/* Whether the connection still stands. */
static bool answer(connection *c, const mn_frame *frame) {
    mossnet_error error;
    if (!has_room(c, frame->bytes))
        return skip(c->in, frame->bytes) &&
               send_error(c, frame->seq, MOSSNET_MEMORY, "no memory for a request of that length");
    if (!mn_read_all(c->in, c->payload, frame->bytes)) return false;
    mn_watchdog_arm(&c->dog, frame->seq, frame->timeout_ms);
    uint32_t type = frame->type & ~(uint32_t)MN_QUIET;
    uint32_t status = mn_answer(c->server, type, c->payload, frame->bytes, &c->answer, &error);
    mn_watchdog_disarm(&c->dog);
    if (status) return send_error(c, frame->seq, status, error.text);
    return type != frame->type || mn_frame_send(c->out, MN_ANSWER, frame->seq, c->answer.data, c->answer.used);
}

static int answer_all(connection *c) {
    unsigned char header[MN_FRAME_HEADER];
    mn_frame frame = {0};
    while (frame.type != MN_BYE && mn_read_all(c->in, header, sizeof header)) {
        if (!mn_frame_parse(header, &frame)) {
            send_error(c, frame.seq, MN_STATUS_PROTOCOL, "what came is no frame, or too long a one");
            return 2;
        }
        if (!answer(c, &frame)) break;
    }
    return 0;
}

int mn_serve(int in, int out) {
    mossnet_error error;
    connection c = {.in = in, .out = out, .server = calloc(1, sizeof *c.server)};
    if (!c.server || mn_watchdog_start(&c.dog, in, out, &error)) {
        fprintf(stderr, "mossnet-run: no memory or no thread to begin with\n");
        free(c.server);
        return 1;
    }
    int code = answer_all(&c);
    mn_watchdog_stop(&c.dog);
    mn_server_clear(c.server);
    free(c.server);
    free(c.payload);
    free(c.answer.data);
    return code;
}
