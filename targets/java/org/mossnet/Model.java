package org.mossnet;

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.util.Objects;

/**
 * A compiled model, mapped into memory. Any number of threads may use it at once, each through a session of its own.
 *
 * <pre>{@code
 * try (Model model = Model.load(file, options); Session session = model.session()) {
 *     session.generate("Once upon a time", 100, null, TokenSink.text(text -> print(text)));
 * }
 * }</pre>
 *
 * A model that is closed before its sessions goes with the last of them.
 */
public final class Model implements AutoCloseable {
    /** How a model is loaded; as it begins, a model runs on GPUs only. */
    public static final class Options {
        /**
         * The file's code is trusted as a program is: a model from the app itself, not one from anywhere. Without it
         * nothing is run on the processor.
         */
        public boolean allowNative;
        /** Of a file for several targets, those for this one only: "cpu", "opencl", "vulkan"; null: the first that runs. */
        public String driver;
        /** GPUs: a part of the device's name; null: the first of the best kind. */
        public String device;
        /** GPUs: the folder where built programs are kept, which makes the next start faster; null: they are not. */
        public File cacheDir;
        /** GPUs: how long a run may take before the device counts as lost; 0: 30 seconds. */
        public int timeoutMs;
    }

    private final Handle handle;

    private Model(long address) {
        handle = new Handle("model", address, Native::modelFree);
    }

    /** Maps and checks a model.moss; `options` may be null. Throws MossnetException. */
    public static Model load(File file, Options options) {
        Options o = options == null ? new Options() : options;
        return new Model(
                Native.modelLoad(
                        Native.name(file.getPath()),
                        o.allowNative,
                        o.timeoutMs,
                        Native.name(o.device),
                        Native.name(o.cacheDir == null ? null : o.cacheDir.getPath()),
                        Native.name(o.driver)));
    }

    /** The version of the library. */
    public static String version() {
        return new String(Native.version(), StandardCharsets.UTF_8);
    }

    /** A session with as many threads as there are processors for this process. */
    public Session session() {
        return session(0);
    }

    /** A session at position 0; more threads than the phone has big cores make it slower. */
    public Session session(int threads) {
        if (threads < 0) throw new IllegalArgumentException(threads + " threads, expected 0 or more");
        int vocabSize = vocabSize();
        return handle.with(address -> new Session(Native.sessionNew(address, threads), vocabSize));
    }

    /** The tokens of a text. */
    public int[] encode(String text) {
        byte[] utf8 = text.getBytes(StandardCharsets.UTF_8);
        return handle.with(address -> Native.modelEncode(address, utf8));
    }

    /** The text of tokens; what is no UTF-8 in them is U+FFFD. */
    public String decode(int... ids) {
        byte[] utf8 = handle.with(address -> Native.modelDecode(address, Objects.requireNonNull(ids)));
        return new String(utf8, StandardCharsets.UTF_8);
    }

    /** What the file says of itself: "target", "source", "config" and more; null for a key that it does not have. */
    public String meta(String key) {
        byte[] name = Native.name(key);
        byte[] utf8 = handle.with(address -> Native.modelMeta(address, name));
        return utf8 == null ? null : new String(utf8, StandardCharsets.UTF_8);
    }

    /** The device in use: lines `key=value`, the first its `name`. */
    public String device() {
        return new String(handle.with(Native::modelDevice), StandardCharsets.UTF_8);
    }

    /** The tokens that there are. */
    public int vocabSize() {
        return (int) info()[0];
    }

    /** The tokens that a session can read; 0: no limit. */
    public long maxContext() {
        return info()[1];
    }

    /** The memory that a session will take, however long its text grows. */
    public long sessionBytes() {
        return info()[2];
    }

    private long[] info() {
        return handle.with(Native::modelInfo);
    }

    @Override
    public void close() {
        handle.close();
    }
}
