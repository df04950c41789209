/* Ids to text, one at a time: a character whose bytes are spread over several tokens is given when it is whole. */
#include "model.h"
#include "utf8.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct mossnet_decoder {
    mossnet_model *model;
    size_t n_held;
    unsigned char held[MN_UTF8_MOST]; /* the beginning of a character */
    unsigned char *bytes;             /* [longest_token + MN_UTF8_MOST]: held and a token's, to work on */
    unsigned char *text;              /* three times as many, since each can become U+FFFD, and a NUL */
};

mossnet_status mossnet_decoder_new(mossnet_model *model, mossnet_decoder **out, mossnet_error *error) {
    *out = NULL;
    if (!model->file.text)
        return mn_fail(error, MOSSNET_UNSUPPORTED, "the model file has no TEXT: it gives token ids, and no text");
    size_t most = model->file.text->longest_token + MN_UTF8_MOST;
    mossnet_decoder *decoder = calloc(1, sizeof *decoder);
    unsigned char *memory = malloc(most + 3 * most + 1);
    if (!decoder || !memory) {
        free(decoder);
        free(memory);
        return mn_fail(error, MOSSNET_MEMORY, "no memory for a decoder");
    }
    *decoder = (mossnet_decoder){.model = model, .bytes = memory, .text = memory + most};
    atomic_fetch_add(&model->n_users, 1);
    *out = decoder;
    return mn_ok(error);
}

void mossnet_decoder_free(mossnet_decoder *decoder) {
    if (!decoder) return;
    mossnet_model_free(decoder->model);
    free(decoder->bytes);
    free(decoder);
}

static void give(mossnet_decoder *decoder, size_t used, const char **text, size_t *bytes) {
    decoder->text[used] = 0;
    *text = (const char *)decoder->text;
    *bytes = used;
}

mossnet_status mossnet_decoder_push(mossnet_decoder *decoder, int32_t id, const char **text, size_t *bytes,
                                    mossnet_error *error) {
    const mn_text_program *program = decoder->model->file.text;
    size_t n = decoder->n_held, used = 0, at = 0;
    memcpy(decoder->bytes, decoder->held, n);
    if (id >= 0 && (uint32_t)id < program->n_tokens) {
        mn_bytes token = mn_token(program, (uint32_t)id);
        memcpy(decoder->bytes + n, token.at, token.n);
        n += token.n;
    }
    for (size_t length; at < n; at += length) {
        uint32_t character;
        length = mn_utf8_next(decoder->bytes + at, n - at, &character);
        if (!length) break;
        used += mn_utf8_put(decoder->text + used, character);
    }
    decoder->n_held = n - at;
    memcpy(decoder->held, decoder->bytes + at, n - at);
    give(decoder, used, text, bytes);
    return mn_ok(error);
}

mossnet_status mossnet_decoder_flush(mossnet_decoder *decoder, const char **text, size_t *bytes, mossnet_error *error) {
    size_t used = decoder->n_held ? mn_utf8_put(decoder->text, MN_REPLACEMENT) : 0;
    decoder->n_held = 0;
    give(decoder, used, text, bytes);
    return mn_ok(error);
}
