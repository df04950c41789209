/* The text of tokens. */
#include "jni_calls.h"
#include "jni_values.h"

#include <stdlib.h>
#include <string.h>

typedef struct text {
    char *at;
    size_t bytes, capacity;
} text;

static mossnet_status add(text *to, const char *piece, size_t bytes, mossnet_error *error) {
    if (bytes > to->capacity - to->bytes) {
        size_t capacity = 2 * (to->bytes + bytes);
        char *at = realloc(to->at, capacity);
        if (!at) {
            *error = (mossnet_error){MOSSNET_MEMORY, "no memory for a text"};
            return MOSSNET_MEMORY;
        }
        to->at = at;
        to->capacity = capacity;
    }
    if (bytes) memcpy(to->at + to->bytes, piece, bytes);
    to->bytes += bytes;
    return MOSSNET_OK;
}

static mossnet_status decode(mossnet_decoder *decoder, const int32_t *ids, size_t n, text *out, mossnet_error *error) {
    const char *piece = NULL;
    size_t bytes = 0;
    mossnet_status status = MOSSNET_OK;
    for (size_t i = 0; !status && i < n; i++) {
        status = mossnet_decoder_push(decoder, ids[i], &piece, &bytes, error);
        if (!status) status = add(out, piece, bytes, error);
    }
    if (!status) status = mossnet_decoder_flush(decoder, &piece, &bytes, error);
    return status ? status : add(out, piece, bytes, error);
}

jbyteArray mj_modelDecode(JNIEnv *env, jclass class, jlong model, jintArray array) {
    (void)class;
    size_t n;
    int32_t *ids = mj_ints(env, array, &n);
    if (!ids) return NULL;
    text out = {NULL, 0, 0};
    mossnet_decoder *decoder = NULL;
    mossnet_error error;
    mossnet_status status = mossnet_decoder_new(MJ_POINTER(model), &decoder, &error);
    if (!status) status = decode(decoder, ids, n, &out, &error);
    if (status) mj_throw(env, &error);
    jbyteArray utf8 = status ? NULL : mj_byte_array(env, out.at, out.bytes);
    mossnet_decoder_free(decoder);
    free(ids);
    free(out.at);
    return utf8;
}
