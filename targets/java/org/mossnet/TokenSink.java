package org.mossnet;

import java.nio.charset.StandardCharsets;
import java.util.function.Predicate;

/** Gets the tokens of a text as they are made, on the thread that generates. */
public interface TokenSink {
    /**
     * @param id the token; -1 for what is left of the text at its end
     * @param utf8 the text that it completes: whole characters, perhaps none
     * @return whether to go on
     */
    boolean onToken(int id, byte[] utf8);

    /** Gets the text alone, where there is some; false stops. */
    static TokenSink text(Predicate<String> sink) {
        return (id, utf8) -> utf8.length == 0 || sink.test(new String(utf8, StandardCharsets.UTF_8));
    }
}
