package org.mossnet;

/** How a continuation went. */
public final class Generated {
    /** How it came to its end: the model ended the text, maxTokens were made, the sink said so. */
    public enum Ending {
        ENDED,
        LENGTH,
        STOPPED
    }

    /** The tokens of the prompt. */
    public final long promptTokens;
    /** The tokens that were made. */
    public final long tokens;

    public final Ending ending;

    /** In the order of jni_generate.c. */
    Generated(long[] parts) {
        promptTokens = parts[0];
        tokens = parts[1];
        ending = Ending.values()[(int) parts[2]];
    }
}
