/* A text is continued; each token goes to a TokenSink. */
#include "jni_calls.h"
#include "jni_values.h"

#include <stdlib.h>

typedef struct listener {
    JNIEnv *env;
    jobject sink;
    jmethodID on_token;
} listener;

/* Anything but 0 stops. With an exception pending, Java may not be called again. */
static int on_text(void *context, const char *text, size_t bytes, int32_t id) {
    const listener *l = context;
    JNIEnv *env = l->env;
    if ((*env)->ExceptionCheck(env)) return 1;
    jbyteArray utf8 = mj_byte_array(env, text, bytes);
    if (!utf8) return 1;
    jboolean goes_on = (*env)->CallBooleanMethod(env, l->sink, l->on_token, (jint)id, utf8);
    int over = (*env)->ExceptionCheck(env) || !goes_on;
    /* Otherwise all of a text's would stay until its end. */
    (*env)->DeleteLocalRef(env, utf8);
    return over;
}

jlongArray mj_sessionGenerate(JNIEnv *env, jclass class, jlong session, jbyteArray prompt_utf8, jlong max_tokens,
                              jfloat temperature, jfloat top_p, jfloat min_p, jfloat repetition_penalty, jint top_k,
                              jint repetition_window, jlong seed, jobject sink) {
    (void)class;
    const mossnet_sampling sampling = {
        .temperature = temperature,
        .top_p = top_p,
        .min_p = min_p,
        .repetition_penalty = repetition_penalty,
        .top_k = (uint32_t)top_k,
        .repetition_window = (uint32_t)repetition_window,
        .seed = (uint64_t)seed,
    };
    jclass kind = (*env)->FindClass(env, "org/mossnet/TokenSink");
    jmethodID on_token = kind ? (*env)->GetMethodID(env, kind, "onToken", "(I[B)Z") : NULL;
    if (!on_token) return NULL;
    size_t bytes;
    char *prompt = mj_bytes(env, prompt_utf8, &bytes);
    if (!prompt) return NULL;
    listener l = {env, sink, on_token};
    mossnet_generation wanted = {.max_tokens = (uint64_t)max_tokens, .on_text = on_text, .context = &l};
    mossnet_generated result = {0};
    mossnet_error error;
    mossnet_status status = mossnet_sampler_new(&sampling, &wanted.sampler, &error);
    if (!status) status = mossnet_session_generate(MJ_POINTER(session), prompt, bytes, &wanted, &result, &error);
    mossnet_sampler_free(wanted.sampler);
    free(prompt);
    /* What the sink threw comes first. */
    if ((*env)->ExceptionCheck(env)) return NULL;
    if (status) {
        mj_throw(env, &error);
        return NULL;
    }
    const int64_t parts[] = {(int64_t)result.n_prompt, (int64_t)result.n_tokens, result.ending};
    return mj_long_array(env, parts, sizeof parts / sizeof *parts);
}
