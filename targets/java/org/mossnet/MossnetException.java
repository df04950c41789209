package org.mossnet;

import java.nio.charset.StandardCharsets;

/** What the library says when a call fails: what was found, and what was expected. */
public final class MossnetException extends RuntimeException {
    private static final long serialVersionUID = 1;

    /** As in mossnet.h, in the order of its numbers, the first of which is no failure. */
    public enum Status {
        OK,
        ARGUMENT,
        MEMORY,
        IO,
        FORMAT,
        UNSUPPORTED,
        CONSENT,
        STATE,
        CONTEXT,
        DEVICE,
        CANCELLED
    }

    private final Status status;

    /** Called by the library, whose texts are UTF-8. */
    MossnetException(int status, byte[] utf8) {
        super(new String(utf8, StandardCharsets.UTF_8));
        this.status = Status.values()[status];
    }

    public Status status() {
        return status;
    }
}
