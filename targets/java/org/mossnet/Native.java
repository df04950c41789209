package org.mossnet;

import java.nio.charset.StandardCharsets;

/** What is written in C (native/jni.c). Texts are UTF-8; an address is one that a function of its kind returned. */
final class Native {
    static {
        System.loadLibrary("mossnet");
    }

    private Native() {}

    static native byte[] version();

    /** The texts are of `name`; all but the path may be null. */
    static native long modelLoad(
            byte[] path, boolean allowNative, int timeoutMs, byte[] device, byte[] cacheDir, byte[] driver);

    static native void modelFree(long model);

    /** vocab_size, max_context, session_bytes */
    static native long[] modelInfo(long model);

    static native byte[] modelMeta(long model, byte[] key);

    static native byte[] modelDevice(long model);

    static native int[] modelEncode(long model, byte[] text);

    static native byte[] modelDecode(long model, int[] ids);

    static native long sessionNew(long model, int threads);

    static native void sessionFree(long session);

    static native long sessionFork(long session);

    static native void sessionReset(long session);

    static native void sessionCancel(long session);

    static native long sessionPosition(long session);

    /** As many logits as there is room for, at most vocab_size. */
    static native void sessionPrefill(long session, int[] ids, float[] logits);

    /** As many logits as there is room for, at most vocab_size. */
    static native void sessionDecode(long session, int id, float[] logits);

    static native byte[] sessionSave(long session);

    static native void sessionRestore(long session, byte[] state);

    /** n_prompt, n_tokens, ending */
    static native long[] sessionGenerate(
            long session,
            byte[] prompt,
            long maxTokens,
            float temperature,
            float topP,
            float minP,
            float repetitionPenalty,
            int topK,
            int repetitionWindow,
            long seed,
            TokenSink sink);

    /** What becomes a text of C, which ends before the first 0; null stays null. */
    static byte[] name(String text) {
        if (text == null) return null;
        if (text.indexOf('\0') >= 0) throw new IllegalArgumentException("a name that holds the character 0");
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
