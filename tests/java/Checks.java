import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import org.mossnet.Generated;
import org.mossnet.Model;
import org.mossnet.MossnetException;
import org.mossnet.MossnetException.Status;
import org.mossnet.Sampling;
import org.mossnet.Session;
import org.mossnet.TokenSink;

/** What an app does with org.mossnet: Checks NAME MODEL [ARGUMENT...]. An exception that escapes is a failure. */
public class Checks {
    interface Check {
        void run(Model model, String[] arguments) throws Exception;
    }

    interface Body {
        void run() throws Exception;
    }

    static final PrintStream OUT = utf8(System.out);
    static final Map<String, Check> CHECKS = new HashMap<>();
    static final String PROMPT = "the quick";

    static {
        CHECKS.put("text", Checks::text);
        CHECKS.put("stream", Checks::stream);
        CHECKS.put("tokens", Checks::tokens);
        CHECKS.put("endings", Checks::endings);
        CHECKS.put("cancel", Checks::cancel);
        CHECKS.put("throws", Checks::throwing);
        CHECKS.put("closed", Checks::closed);
        CHECKS.put("closing", Checks::closing);
        CHECKS.put("callbacks", Checks::callbacks);
        CHECKS.put("threads", Checks::threads);
        CHECKS.put("states", Checks::states);
        CHECKS.put("errors", Checks::errors);
        CHECKS.put("gpu", Checks::gpu);
        CHECKS.put("facts", Checks::facts);
    }

    public static void main(String[] arguments) throws Exception {
        Model.Options options = new Model.Options();
        options.allowNative = true;
        try (Model model = Model.load(new File(arguments[1]), options)) {
            CHECKS.get(arguments[0]).run(model, Arrays.copyOfRange(arguments, 2, arguments.length));
        }
        OUT.println("done");
    }

    /** PROMPT N: the text that follows, in one piece. */
    static void text(Model model, String[] arguments) {
        try (Session session = model.session()) {
            OUT.println(hex(session.generate(arguments[0], Long.parseLong(arguments[1]))));
        }
    }

    /** PROMPT N TEMPERATURE SEED: the ids, and the text as it came; each piece has whole characters. */
    static void stream(Model model, String[] arguments) {
        Sampling sampling = new Sampling();
        sampling.temperature = Float.parseFloat(arguments[2]);
        sampling.seed = Long.parseLong(arguments[3]);
        long n = Long.parseLong(arguments[1]);
        List<String> ids = new ArrayList<>();
        ByteArrayOutputStream text = new ByteArrayOutputStream();
        StringBuilder pieces = new StringBuilder();
        Generated done;
        try (Session session = model.session(1)) {
            done = session.generate(arguments[0], n, sampling, (id, utf8) -> {
                if (id >= 0) ids.add(Integer.toString(id));
                text.write(utf8, 0, utf8.length);
                return pieces.append(strict(utf8)) != null;
            });
            equal(done.promptTokens + done.tokens, session.position());
            session.reset();
            StringBuilder again = new StringBuilder();
            session.generate(arguments[0], n, sampling, TokenSink.text(piece -> again.append(piece) != null));
            equal(again.toString(), pieces.toString());
        }
        equal((long) ids.size(), done.tokens);
        equal(strict(text.toByteArray()), pieces.toString());
        OUT.println(String.join(" ", ids));
        OUT.println(hex(pieces.toString()));
    }

    /** TEXT: its ids; they decode to it again. */
    static void tokens(Model model, String[] arguments) {
        int[] ids = model.encode(arguments[0]);
        OUT.println(Arrays.toString(ids));
        equal(model.decode(ids), arguments[0]);
        equal(model.encode("").length, 0);
        equal(model.decode(), "");
        equal(model.decode(Arrays.copyOf(model.encode("🌱"), 1)), "\ufffd");
    }

    static void endings(Model model, String[] arguments) {
        try (Session session = model.session(1)) {
            Generated done = session.generate(PROMPT, 5, null, (id, utf8) -> true);
            equal(done.tokens + " " + done.ending, "5 LENGTH");
            done = session.generate("", 0, null, (id, utf8) -> session.position() < 40);
            equal(done.ending, Generated.Ending.STOPPED);
            long position = session.position();
            done = session.generate(PROMPT, 0, null, (id, utf8) -> false);
            equal(done.tokens + " " + done.ending, "1 STOPPED");
            equal(session.position(), position + done.promptTokens + 1);
        }
    }

    static void cancel(Model model, String[] arguments) throws Exception {
        try (Session session = model.session(1)) {
            CountDownLatch begun = new CountDownLatch(1);
            Thread other = new Thread(() -> {
                await(begun);
                session.cancel();
            });
            other.start();
            fails(Status.CANCELLED, "cancelled at position", () -> session.generate(PROMPT, 0, null, (id, utf8) -> {
                begun.countDown();
                return true;
            }));
            other.join();
            fails(Status.CANCELLED, "", () -> session.generate(PROMPT, 0, null, (id, utf8) -> {
                session.cancel();
                return true;
            }));
            session.cancel();
            fails(Status.CANCELLED, "", () -> session.decode(1));
            session.reset();
            String after = session.generate(PROMPT, 20);
            try (Session fresh = model.session(1)) {
                equal(after, fresh.generate(PROMPT, 20));
            }
        }
    }

    static void throwing(Model model, String[] arguments) {
        RuntimeException own = new RuntimeException("own");
        int[] calls = {0};
        try (Session session = model.session(1)) {
            for (int at = 1; at < 40; at++) {
                int last = at;
                calls[0] = 0;
                session.reset();
                try {
                    session.generate(PROMPT, 0, null, (id, utf8) -> {
                        if (++calls[0] == last) throw own;
                        return true;
                    });
                    throw new AssertionError("it was not thrown");
                } catch (RuntimeException e) {
                    if (e != own) throw e;
                }
                equal(calls[0], last);
            }
            session.reset();
            equal(session.generate(PROMPT, 3).isEmpty(), false);
        }
    }

    static void closed(Model model, String[] arguments) throws Exception {
        Session session = model.session(1);
        byte[] state = session.save();
        session.close();
        session.close();
        Body[] calls = {
            () -> session.generate(PROMPT, 1), () -> session.prefill(1), () -> session.decode(1), session::cancel,
            session::position, session::reset, session::save, () -> session.restore(state), session::fork
        };
        for (Body call : calls) throwsIllegalState("the session is closed", call);
        Session survivor = model.session(1);
        model.close();
        model.close();
        Body[] others = {
            model::session, () -> model.encode("a"), () -> model.decode(1), () -> model.meta("target"), model::device,
            model::vocabSize, model::maxContext, model::sessionBytes
        };
        for (Body call : others) throwsIllegalState("the model is closed", call);
        equal(survivor.generate(PROMPT, 3).isEmpty(), false);
        try (Session second = survivor.fork()) {
            survivor.close();
            equal(second.generate(PROMPT, 3).isEmpty(), false);
        }
    }

    /** Closed while it generates, by the sink and by another thread: the call ends, and then it is freed, threads too. */
    static void closing(Model model, String[] arguments) throws Exception {
        for (int i = 0; i < 50; i++) {
            Session inside = model.session(4);
            fails(Status.CANCELLED, "", () -> inside.generate(PROMPT, 0, null, (id, utf8) -> {
                inside.close();
                return true;
            }));
            throwsIllegalState("the session is closed", inside::position);
            Session outside = model.session(4);
            CountDownLatch begun = new CountDownLatch(1);
            Thread other = new Thread(() -> {
                await(begun);
                outside.close();
            });
            other.start();
            fails(Status.CANCELLED, "", () -> outside.generate(PROMPT, 0, null, (id, utf8) -> {
                begun.countDown();
                return true;
            }));
            other.join();
        }
        int threads = new File("/proc/self/task").list().length;
        if (threads > 150) throw new AssertionError(threads + " threads are left");
    }

    /** N callbacks. */
    static void callbacks(Model model, String[] arguments) {
        long n = Long.parseLong(arguments[0]);
        long[] calls = {0};
        try (Session session = model.session(1)) {
            Generated done = session.generate(PROMPT, n, null, (id, utf8) -> {
                if (id >= 0) calls[0]++;
                return true;
            });
            equal(done.tokens, n);
        }
        equal(calls[0], n);
    }

    static void threads(Model model, String[] arguments) throws Exception {
        String[] texts = new String[8];
        Thread[] all = new Thread[texts.length];
        for (int i = 0; i < all.length; i++) {
            int own = i;
            all[i] = new Thread(() -> {
                try (Session session = model.session(1)) {
                    texts[own] = session.generate(PROMPT, 200);
                }
            });
            all[i].start();
        }
        for (Thread thread : all) thread.join();
        try (Session session = model.session(1)) {
            String expected = session.generate(PROMPT, 200);
            for (String text : texts) equal(text, expected);
        }
    }

    static void states(Model model, String[] arguments) throws Exception {
        try (Session first = model.session(1); Session second = model.session(1)) {
            int[] ids = model.encode(PROMPT);
            float[] logits = first.prefill(ids);
            equal(logits.length, model.vocabSize());
            equal(first.position(), (long) ids.length);
            for (int id : ids) equal(second.decode(id).length, logits.length);
            byte[] state = first.save();
            second.restore(state);
            try (Session third = first.fork()) {
                float[] expected = first.decode(7);
                equal(Arrays.equals(second.decode(7), expected), true);
                equal(Arrays.equals(third.decode(7), expected), true);
                equal(Arrays.equals(first.decode(8), expected), false);
                equal(third.position(), ids.length + 1L);
            }
            first.reset();
            equal(first.position(), 0L);
            first.restore(state);
            equal(first.position(), (long) ids.length);
            state[state.length / 2] ^= 1;
            fails(Status.STATE, "", () -> first.restore(Arrays.copyOf(state, 10)));
            fails(Status.STATE, "", () -> first.restore(new byte[0]));
            equal(first.position(), (long) ids.length);
        }
    }

    /** OTHER: a copy of the model whose name is not ASCII. */
    static void errors(Model model, String[] arguments) throws Exception {
        fails(Status.IO, "🌱.moss: No such file", () -> Model.load(new File("🌱.moss"), null));
        fails(Status.CONSENT, "MOSSNET_ALLOW_NATIVE", () -> Model.load(new File(arguments[0]), null));
        Model.Options options = new Model.Options();
        options.driver = "🌱";
        fails(Status.DEVICE, "🌱 is asked for", () -> Model.load(new File(arguments[0]), options));
        options.driver = "a\0b";
        throwsKind(IllegalArgumentException.class, () -> Model.load(new File(arguments[0]), options));
        throwsKind(NullPointerException.class, () -> Model.load(null, null));
        throwsKind(IllegalArgumentException.class, () -> model.session(-1));
        throwsKind(NullPointerException.class, () -> model.encode(null));
        throwsKind(NullPointerException.class, () -> model.decode((int[]) null));
        try (Session session = model.session(1)) {
            fails(Status.ARGUMENT, "token 0 is -1", () -> session.decode(-1));
            fails(Status.ARGUMENT, "token 1 is", () -> session.prefill(1, model.vocabSize()));
            fails(Status.ARGUMENT, "no tokens", session::prefill);
            throwsKind(NullPointerException.class, () -> session.prefill((int[]) null));
            throwsKind(NullPointerException.class, () -> session.restore(null));
            throwsKind(NullPointerException.class, () -> session.generate(PROMPT, 1, null, null));
            throwsKind(NullPointerException.class, () -> session.generate(null, 1));
            throwsKind(IllegalArgumentException.class, () -> session.generate(PROMPT, -1));
            Sampling sampling = new Sampling();
            sampling.temperature = -1;
            fails(Status.ARGUMENT, "temperature", () -> session.generate(PROMPT, 1, sampling, (id, utf8) -> true));
            session.generate(PROMPT, 2, null, (id, utf8) -> {
                fails(Status.ARGUMENT, "in a call already", () -> session.decode(1));
                return true;
            });
        }
    }

    /** MODEL DEVICE CACHE: a text from a GPU, whose programs are kept there. */
    static void gpu(Model model, String[] arguments) throws Exception {
        Model.Options options = new Model.Options();
        options.allowNative = true;
        options.device = "no such device";
        fails(Status.DEVICE, "no such device", () -> Model.load(new File(arguments[0]), options));
        options.device = arguments[1];
        options.cacheDir = new File(arguments[2]);
        options.timeoutMs = 60000;
        try (Model gpu = Model.load(new File(arguments[0]), options); Session session = gpu.session()) {
            OUT.println(hex(session.generate(PROMPT, 8)));
        }
    }

    static void facts(Model model, String[] arguments) {
        OUT.println(Model.version());
        OUT.println(model.meta("target"));
        OUT.println(model.meta("nothing"));
        OUT.println(model.device().split("\n")[0]);
        OUT.println(model.vocabSize() + " " + model.maxContext() + " " + model.sessionBytes());
        OUT.println(Arrays.toString(Status.values()));
        OUT.println(Arrays.toString(Generated.Ending.values()));
    }

    static void fails(Status status, String text, Body body) {
        try {
            body.run();
        } catch (MossnetException e) {
            equal(e.status(), status);
            if (!e.getMessage().contains(text)) throw new AssertionError(e.getMessage());
            return;
        } catch (Exception e) {
            throw new AssertionError(e);
        }
        throw new AssertionError("expected " + status);
    }

    static void throwsIllegalState(String text, Body body) {
        equal(throwsKind(IllegalStateException.class, body).getMessage(), text);
    }

    static Exception throwsKind(Class<? extends Exception> kind, Body body) {
        try {
            body.run();
        } catch (Exception e) {
            if (e.getClass() == kind) return e;
            throw new AssertionError(e);
        }
        throw new AssertionError("expected " + kind);
    }

    static void equal(Object found, Object expected) {
        if (!expected.equals(found)) throw new AssertionError("found " + found + ", expected " + expected);
    }

    static String strict(byte[] utf8) {
        try {
            return StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(utf8)).toString();
        } catch (CharacterCodingException e) {
            throw new AssertionError(Arrays.toString(utf8), e);
        }
    }

    /** A text that no line ends in. */
    static String hex(String text) {
        StringBuilder out = new StringBuilder();
        for (byte b : text.getBytes(StandardCharsets.UTF_8)) out.append(String.format("%02x", b));
        return out.toString();
    }

    static void await(CountDownLatch latch) {
        try {
            latch.await();
        } catch (InterruptedException e) {
            throw new AssertionError(e);
        }
    }

    static PrintStream utf8(PrintStream to) {
        try {
            return new PrintStream(to, true, "UTF-8");
        } catch (java.io.UnsupportedEncodingException e) {
            throw new AssertionError(e);
        }
    }
}
