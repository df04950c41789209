package org.mossnet;

import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.util.Objects;

/**
 * One text being read and continued, on one thread at a time; only cancel and close may come from another. The methods
 * throw MossnetException, and IllegalStateException when the session is closed.
 */
public final class Session implements AutoCloseable {
    private final Handle handle;

    private final int vocabSize;

    Session(long address, int vocabSize) {
        this.vocabSize = vocabSize;
        handle = new Handle("session", address, Native::sessionFree);
    }

    /**
     * Reads the prompt and continues it on this thread, which should not be the one that draws. Another call goes on
     * behind what the sink has seen. An empty prompt begins a text.
     *
     * @param maxTokens how many tokens at most; 0: until the model ends the text or its context is full
     * @param sampling null: the likeliest token each time
     * @param sink gets each token; what it throws ends the call and comes out of it
     */
    public Generated generate(String prompt, long maxTokens, Sampling sampling, TokenSink sink) {
        if (maxTokens < 0) throw new IllegalArgumentException(maxTokens + " tokens, expected 0 or more");
        Objects.requireNonNull(sink);
        byte[] utf8 = prompt.getBytes(StandardCharsets.UTF_8);
        Sampling s = sampling == null ? new Sampling() : sampling;
        return new Generated(
                handle.with(
                        address ->
                                Native.sessionGenerate(
                                        address,
                                        utf8,
                                        maxTokens,
                                        s.temperature,
                                        s.topP,
                                        s.minP,
                                        s.repetitionPenalty,
                                        s.topK,
                                        s.repetitionWindow,
                                        s.seed,
                                        sink)));
    }

    /** The continuation as a whole. */
    public String generate(String prompt, long maxTokens) {
        ByteArrayOutputStream text = new ByteArrayOutputStream();
        generate(
                prompt,
                maxTokens,
                null,
                (id, utf8) -> {
                    text.write(utf8, 0, utf8.length);
                    return true;
                });
        return new String(text.toByteArray(), StandardCharsets.UTF_8);
    }

    /** Reads tokens; the logits of the one behind them, one for each token that there is. */
    public float[] prefill(int... ids) {
        float[] logits = new float[vocabSize];
        handle.run(address -> Native.sessionPrefill(address, Objects.requireNonNull(ids), logits));
        return logits;
    }

    /** Reads one token; the logits of the one behind it. */
    public float[] decode(int id) {
        float[] logits = new float[vocabSize];
        handle.run(address -> Native.sessionDecode(address, id, logits));
        return logits;
    }

    /** Ends the call that another thread is in, or else the next one: it throws CANCELLED. */
    public void cancel() {
        handle.run(Native::sessionCancel);
    }

    /** How many tokens it has read. */
    public long position() {
        return handle.with(Native::sessionPosition);
    }

    /** Back to position 0. */
    public void reset() {
        handle.run(Native::sessionReset);
    }

    /** The state and the position; of the same size however long the text is. */
    public byte[] save() {
        return handle.with(Native::sessionSave);
    }

    /** Continues from what a session of the same model saved; anything else is refused and changes nothing. */
    public void restore(byte[] state) {
        handle.run(address -> Native.sessionRestore(address, Objects.requireNonNull(state)));
    }

    /** A second session that continues from the same state. */
    public Session fork() {
        return handle.with(address -> new Session(Native.sessionFork(address), vocabSize));
    }

    /** Ends the call that it is in, if any, as cancel does. */
    @Override
    public void close() {
        handle.close(Native::sessionCancel);
    }
}
