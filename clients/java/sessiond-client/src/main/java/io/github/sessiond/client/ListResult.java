package io.github.sessiond.client;

import java.util.List;

/**
 * The answer to a list.
 *
 * @param state what became of the credential
 * @param sessions the live sessions of the credential's principal, ordered by id, without data
 * @param currentSessionId public id of the credential's own session; null unless the state is {@code ACTIVE}
 */
public record ListResult(SessionState state, List<Session> sessions, String currentSessionId) {}
