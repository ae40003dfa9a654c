package io.github.sessiond.client;

import java.time.Duration;
import java.util.Set;

/**
 * Is told what a client does, for metrics and traces. Methods are called on the client's own thread: they must be quick,
 * must not block, and must not throw.
 */
public interface SessiondListener {
    /** Does nothing. */
    SessiondListener NONE = new SessiondListener() {};

    /**
     * A connection is ready.
     *
     * @param address the daemon's address
     * @param version the daemon's version
     */
    default void connected(String address, String version) {}

    /**
     * A connection has ended.
     *
     * @param address the daemon's address
     * @param reason why
     * @param unanswered how many operations had no answer yet
     */
    default void disconnected(String address, Reason reason, int unanswered) {}

    /**
     * An attempt to connect has failed.
     *
     * @param address the daemon's address
     * @param error why
     */
    default void connectFailed(String address, SessiondException error) {}

    /**
     * An operation is over.
     *
     * @param operation which, how long it took, and how it ended
     */
    default void finished(Operation operation) {}

    /**
     * A change was dropped, because its session ended meanwhile; see {@link RequestSession#save()}.
     *
     * @param sessionId public id of the session; null: not known
     * @param keys the top-level keys that were changed
     */
    default void dropped(String sessionId, Set<String> keys) {}

    /**
     * An operation that is over.
     *
     * @param name {@code resolve}, {@code touch}, {@code write}, {@code destroy}, {@code list} or {@code describe}
     * @param engine name of the engine; empty: the daemon's {@code default}
     * @param duration how long it took, repetitions included
     * @param repetitions how often it was sent again
     * @param error why it failed; null: it did not
     */
    record Operation(String name, String engine, Duration duration, int repetitions, SessiondException error) {}
}
