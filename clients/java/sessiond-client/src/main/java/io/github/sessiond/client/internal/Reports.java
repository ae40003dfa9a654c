package io.github.sessiond.client.internal;

import io.github.sessiond.client.Description;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.SessiondException;
import io.github.sessiond.client.SessiondListener;
import java.time.Duration;
import java.util.function.Consumer;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Tells the log and the listener what a client does. The listener is foreign code: it is told without a lock. */
record Reports(String address, SessiondListener listener) {
    private static final Logger LOG = LoggerFactory.getLogger("io.github.sessiond.client");

    /** {@code again}: attempts before this one have failed. */
    void connected(Description description, boolean again) {
        if (again) {
            LOG.info("connected to sessiond at {} again", address);
        } else {
            LOG.debug("connected to sessiond {} at {}", description.version(), address);
        }
        tell(to -> to.connected(address, description.version()));
    }

    /** {@code first}: the log has not told of this outage. */
    void connectFailed(SessiondException error, boolean first) {
        if (first) {
            LOG.warn("cannot connect to sessiond: {}", error.getMessage());
        }
        tell(to -> to.connectFailed(address, error));
    }

    void disconnected(Reason reason, int unanswered) {
        if (reason != Reason.CLOSED) {
            LOG.debug("disconnected from sessiond at {}: {}, {} operations without an answer", address, reason, unanswered);
        }
        tell(to -> to.disconnected(address, reason, unanswered));
    }

    /** {@code error}: null, if it has succeeded. */
    void finished(Operation operation, SessiondException error) {
        if (listener != SessiondListener.NONE) {
            Duration duration = Duration.ofNanos(System.nanoTime() - operation.started);
            tell(to -> to.finished(new SessiondListener.Operation(
                    operation.name(), operation.engine(), duration, operation.retries + operation.cuts, error)));
        }
    }

    private void tell(Consumer<SessiondListener> what) {
        try {
            what.accept(listener);
        } catch (Throwable thrown) {
            // Also an Error, such as that of a library in the wrong version: whoever waits for the operation must not pay.
            LOG.error("a SessiondListener has thrown", thrown);
        }
    }
}
