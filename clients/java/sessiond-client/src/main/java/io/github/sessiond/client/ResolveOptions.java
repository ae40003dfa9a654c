package io.github.sessiond.client;

import java.util.Objects;

/** Options of {@link SessiondClient#resolve(Credential, ResolveOptions)}. */
public final class ResolveOptions {
    private String engine;
    private boolean peek;
    private boolean create;

    /** No option is set. */
    public ResolveOptions() {}

    /**
     * Name of the engine. Default: that of the client.
     *
     * @param engine the name
     * @return this
     */
    public ResolveOptions engine(String engine) {
        this.engine = Objects.requireNonNull(engine, "engine");
        return this;
    }

    /**
     * Look without moving the deadline.
     *
     * @param peek whether to
     * @return this
     */
    public ResolveOptions peek(boolean peek) {
        this.peek = peek;
        return this;
    }

    /**
     * Create a session if the credential is not live.
     *
     * @param create whether to
     * @return this
     */
    public ResolveOptions create(boolean create) {
        this.create = create;
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
     * Whether not to move the deadline.
     *
     * @return whether
     */
    public boolean peek() {
        return peek;
    }

    /**
     * Whether to create a session.
     *
     * @return whether
     */
    public boolean create() {
        return create;
    }
}
