/* A session's methods, but for generation. */
#include "jni_calls.h"
#include "jni_values.h"

#include <stdlib.h>

jlong mj_sessionNew(JNIEnv *env, jclass class, jlong model, jint n_threads) {
    (void)class;
    mossnet_session *session;
    mossnet_error error;
    if (mossnet_session_new(MJ_POINTER(model), (uint32_t)n_threads, &session, &error)) mj_throw(env, &error);
    return MJ_ADDRESS(session);
}

void mj_sessionFree(JNIEnv *env, jclass class, jlong session) {
    (void)env;
    (void)class;
    mossnet_session_free(MJ_POINTER(session));
}

jlong mj_sessionFork(JNIEnv *env, jclass class, jlong session) {
    (void)class;
    mossnet_session *other;
    mossnet_error error;
    if (mossnet_session_fork(MJ_POINTER(session), &other, &error)) mj_throw(env, &error);
    return MJ_ADDRESS(other);
}

void mj_sessionReset(JNIEnv *env, jclass class, jlong session) {
    (void)env;
    (void)class;
    mossnet_session_reset(MJ_POINTER(session));
}

void mj_sessionCancel(JNIEnv *env, jclass class, jlong session) {
    (void)env;
    (void)class;
    mossnet_session_cancel(MJ_POINTER(session));
}

jlong mj_sessionPosition(JNIEnv *env, jclass class, jlong session) {
    (void)env;
    (void)class;
    return (jlong)mossnet_session_position(MJ_POINTER(session));
}

/* After a call of the model: the logits, as many as there is room for, or an exception. */
static void give_logits(JNIEnv *env, mossnet_status status, const mossnet_error *error, const float *logits,
                        jfloatArray out) {
    if (status)
        mj_throw(env, error);
    else
        (*env)->SetFloatArrayRegion(env, out, 0, (*env)->GetArrayLength(env, out), logits);
}

void mj_sessionPrefill(JNIEnv *env, jclass class, jlong session, jintArray array, jfloatArray out) {
    (void)class;
    size_t n;
    const float *logits = NULL;
    mossnet_error error;
    int32_t *ids = mj_ints(env, array, &n);
    if (!ids) return;
    mossnet_status status = mossnet_session_prefill(MJ_POINTER(session), ids, n, &logits, &error);
    free(ids);
    give_logits(env, status, &error, logits, out);
}

void mj_sessionDecode(JNIEnv *env, jclass class, jlong session, jint id, jfloatArray out) {
    (void)class;
    const float *logits = NULL;
    mossnet_error error;
    mossnet_status status = mossnet_session_decode(MJ_POINTER(session), id, &logits, &error);
    give_logits(env, status, &error, logits, out);
}

jbyteArray mj_sessionSave(JNIEnv *env, jclass class, jlong session) {
    (void)class;
    size_t bytes = mossnet_session_state_bytes(MJ_POINTER(session)), used = 0;
    mossnet_error error;
    void *state = malloc(bytes);
    if (!state) return mj_no_memory(env, bytes);
    jbyteArray array = NULL;
    if (mossnet_session_save(MJ_POINTER(session), state, bytes, &used, &error))
        mj_throw(env, &error);
    else
        array = mj_byte_array(env, state, used);
    free(state);
    return array;
}

void mj_sessionRestore(JNIEnv *env, jclass class, jlong session, jbyteArray array) {
    (void)class;
    size_t bytes;
    mossnet_error error;
    char *state = mj_bytes(env, array, &bytes);
    if (!state) return;
    if (mossnet_session_restore(MJ_POINTER(session), state, bytes, &error)) mj_throw(env, &error);
    free(state);
}
