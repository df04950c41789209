package org.mossnet;

/**
 * An object of the library, which is freed once: when it is closed, and the calls that are in it then have come back.
 */
final class Handle {
    interface Call<T> {
        T on(long address);
    }

    interface Action {
        void on(long address);
    }

    private final String what;
    private final long address;
    private final Action free;
    private int calls;
    private boolean closed;

    Handle(String what, long address, Action free) {
        this.what = what;
        this.address = address;
        this.free = free;
    }

    <T> T with(Call<T> call) {
        enter();
        try {
            return call.on(address);
        } finally {
            leave();
        }
    }

    void run(Action action) {
        with(
                address -> {
                    action.on(address);
                    return null;
                });
    }

    void close() {
        close(address -> {});
    }

    /** `end` is told to calls that are in it to come back soon. */
    synchronized void close(Action end) {
        if (closed) return;
        closed = true;
        if (calls > 0) end.on(address);
        else free.on(address);
    }

    private synchronized void enter() {
        if (closed) throw new IllegalStateException("the " + what + " is closed");
        calls++;
    }

    private synchronized void leave() {
        calls--;
        if (closed && calls == 0) free.on(address);
    }
}
