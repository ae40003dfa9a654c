package io.github.sessiond.client;

import java.time.Duration;
import java.util.Objects;

/** Options of {@link SessiondClient#touch(Credential, TouchOptions)}. */
public final class TouchOptions {
    private String engine;
    private Duration duration;

    /** No option is set. */
    public TouchOptions() {}

    /**
     * Name of the engine. Default: that of the client.
     *
     * @param engine the name
     * @return this
     */
    public TouchOptions engine(String engine) {
        this.engine = Objects.requireNonNull(engine, "engine");
        return this;
    }

    /**
     * The session's own idle timeout from now on: more than zero, at most 400 days, rounded up to milliseconds.
     *
     * @param duration the timeout; null: as it was
     * @return this
     */
    public TouchOptions duration(Duration duration) {
        this.duration = duration;
        return this;
    }

    /**
     * Name of the engine.
     *
     * @return the name; null: that of the client
     */
    public String engine() {
        return engine;
    }

    /**
     * The session's own idle timeout.
     *
     * @return the timeout; null: as it was
     */
    public Duration duration() {
        return duration;
    }
}
