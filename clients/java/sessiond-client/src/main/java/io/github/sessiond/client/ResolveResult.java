package io.github.sessiond.client;

import java.util.List;

/**
 * The answer to a resolve.
 *
 * @param state what became of the credential
 * @param session the session if the state is {@code ACTIVE} or {@code CREATED}; otherwise null
 * @param setCookie values of {@code Set-Cookie} lines to send
 * @param token the token if it is new to the caller; empty: it is not
 */
public record ResolveResult(SessionState state, Session session, List<String> setCookie, String token) {
    /** Leaves out the token and the cookies. */
    @Override
    public String toString() {
        return "ResolveResult[state=" + state + ", session=" + session + "]";
    }
}
