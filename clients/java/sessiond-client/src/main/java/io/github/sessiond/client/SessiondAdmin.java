package io.github.sessiond.client;

import java.util.Collection;
import java.util.List;

/**
 * A client of the daemon's admin service, made by {@link SessiondClientBuilder#buildAdmin}: the sessions of any principal,
 * without a credential of one of them. Every method throws {@link SessiondException}.
 */
public interface SessiondAdmin extends AutoCloseable {
    /**
     * The live sessions of a principal.
     *
     * @param engine name of the engine; empty: {@code default}
     * @param principal whose sessions
     * @return the sessions, without data
     */
    List<Session> listSessions(String engine, String principal);

    /**
     * Ends sessions.
     *
     * @param engine name of the engine; empty: {@code default}
     * @param sessionIds their public ids
     * @return how many were live
     */
    int revokeSessions(String engine, Collection<String> sessionIds);

    @Override
    void close();
}
