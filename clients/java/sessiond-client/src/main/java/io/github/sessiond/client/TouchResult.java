package io.github.sessiond.client;

import java.util.List;

/**
 * The answer to a touch.
 *
 * @param state what became of the credential
 * @param session the session without its data if the state is {@code ACTIVE}; otherwise null
 * @param setCookie values of {@code Set-Cookie} lines to send
 */
public record TouchResult(SessionState state, Session session, List<String> setCookie) {
    /** Leaves out the cookies. */
    @Override
    public String toString() {
        return "TouchResult[state=" + state + ", session=" + session + "]";
    }
}
