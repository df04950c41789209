/* Continues a text: app MODEL PROMPT [N_TOKENS] */
#include <mossnet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int print(void *context, const char *text, size_t bytes, int32_t id) {
    (void)context;
    (void)id;
    fwrite(text, 1, bytes, stdout);
    return fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL PROMPT [N_TOKENS]\n", argv[0]);
        return 2;
    }
    /* The model is our own, so its code may run. */
    const mossnet_options options = {.flags = MOSSNET_ALLOW_NATIVE};
    const mossnet_generation wanted = {.max_tokens = argc > 3 ? strtoull(argv[3], NULL, 10) : 64, .on_text = print};
    mossnet_model *model = NULL;
    mossnet_session *session = NULL;
    mossnet_error error;
    mossnet_status status = mossnet_model_load(argv[1], &options, &model, &error);
    if (!status) status = mossnet_session_new(model, 0, &session, &error);
    if (!status) status = mossnet_session_generate(session, argv[2], strlen(argv[2]), &wanted, NULL, &error);
    if (status) fprintf(stderr, "%s: %s\n", mossnet_status_name(status), error.text);
    mossnet_session_free(session);
    mossnet_model_free(model);
    return status != MOSSNET_OK;
}
