package io.github.sessiond.client.internal;

import io.github.sessiond.client.Applied;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.SessiondException;
import io.github.sessiond.client.UnavailableException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;

/** Waits for futures. */
public final class Waiting {
    private Waiting() {}

    /** The outcome of a future. */
    public static <T> T on(CompletableFuture<T> future) {
        if (!future.isDone() && Thread.currentThread() instanceof Loop.ClientThread) {
            // The answer would have to come on this very thread.
            throw new IllegalStateException("a blocking call on the client's own thread; use thenApplyAsync");
        }
        try {
            return future.get();
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            throw new UnavailableException("the thread was interrupted", new SessiondException.Details(Reason.TIMEOUT, "CANCELLED")
                    .applied(Applied.UNKNOWN).cause(interrupted));
        } catch (ExecutionException failed) {
            if (failed.getCause() instanceof SessiondException cause) {
                throw Failures.again(cause, cause.applied());
            }
            throw new IllegalStateException(failed.getCause());
        }
    }
}
