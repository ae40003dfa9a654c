package io.github.sessiond.client;

import java.util.Collection;
import java.util.List;
import java.util.Objects;

/** Options of {@link SessiondClient#destroy(Credential, DestroyOptions)}. */
public final class DestroyOptions {
    private String engine;
    private DestroyScope scope;
    private List<String> sessionIds;

    /** No option is set. */
    public DestroyOptions() {}

    /**
     * Name of the engine. Default: that of the client.
     *
     * @param engine the name
     * @return this
     */
    public DestroyOptions engine(String engine) {
        this.engine = Objects.requireNonNull(engine, "engine");
        return this;
    }

    /**
     * Which sessions to end. Default: {@link DestroyScope#THIS}.
     *
     * @param scope the scope
     * @return this
     */
    public DestroyOptions scope(DestroyScope scope) {
        this.scope = scope;
        return this;
    }

    /**
     * Public ids of sessions of the same principal to end, 1 to 1000, instead of a scope.
     *
     * @param sessionIds the ids
     * @return this
     */
    public DestroyOptions sessionIds(Collection<String> sessionIds) {
        this.sessionIds = List.copyOf(sessionIds);
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
     * Which sessions to end.
     *
     * @return the scope; null: that of the credential, or those of {@link #sessionIds()}
     */
    public DestroyScope scope() {
        return scope;
    }

    /**
     * Public ids of sessions to end.
     *
     * @return the ids; null: {@link #scope()} counts
     */
    public List<String> sessionIds() {
        return sessionIds;
    }
}
