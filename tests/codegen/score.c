/* score MODEL ID... : prints the logits after each id, one row a line; used where no Python is. */
#include "mossnet.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    mossnet_error error;
    mossnet_model *model;
    mossnet_session *session;
    mossnet_info info;
    size_t n = argc > 2 ? (size_t)argc - 2 : 0;
    int32_t *ids = malloc(sizeof(int32_t) * (n ? n : 1));
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)strtol(argv[2 + i], NULL, 10);
    mossnet_options options = {.flags = MOSSNET_ALLOW_NATIVE};
    if (mossnet_model_load(argv[1], &options, &model, &error) || mossnet_session_new(model, 2, &session, &error)) {
        fprintf(stderr, "error: %s\n", error.text);
        return 1;
    }
    fprintf(stderr, "%s\n", mossnet_model_meta(model, "target"));
    mossnet_model_info(model, &info);
    float *out = malloc(sizeof(float) * n * info.vocab_size);
    if (mossnet_session_score(session, ids, n, out, &error)) {
        fprintf(stderr, "error: %s\n", error.text);
        return 1;
    }
    for (size_t i = 0; i < n; i++)
        for (uint32_t v = 0; v < info.vocab_size; v++)
            printf("%.9g%c", (double)out[i * info.vocab_size + v], v + 1 < info.vocab_size ? ' ' : '\n');
    const float *logits;
    for (size_t i = 0; i < 3; i++) { /* decode too: it is other code */
        if (mossnet_session_decode(session, ids[i], &logits, &error)) {
            fprintf(stderr, "error: %s\n", error.text);
            return 1;
        }
        for (uint32_t v = 0; v < info.vocab_size; v++)
            printf("%.9g%c", (double)logits[v], v + 1 < info.vocab_size ? ' ' : '\n');
    }
    free(out);
    free(ids);
    mossnet_session_free(session);
    mossnet_model_free(model);
    return 0;
}
