package io.github.sessiond.client.internal;

import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/** When to connect again: after 100 ms to 1 s, with some randomness. Guarded by the lock of the {@link Dispatcher}. */
final class Backoff {
    private static final long MIN = TimeUnit.MILLISECONDS.toNanos(100);
    private static final long MAX = TimeUnit.SECONDS.toNanos(1);

    private int failures;
    private long next = System.nanoTime();

    /** How long the next attempt has to wait, in nanoseconds. */
    long left() {
        return next - System.nanoTime();
    }

    void failed() {
        long pause = Math.min(MAX, MIN << Math.min(failures++, 10));
        next = System.nanoTime() + (long) (pause * (0.5 + ThreadLocalRandom.current().nextDouble() / 2));
    }

    void succeeded() {
        failures = 0;
    }
}
