package io.github.sessiond.client;

import java.util.List;

/**
 * The answer to a write.
 *
 * @param session the session after the change, without its data
 * @param setCookie values of {@code Set-Cookie} lines to send
 * @param token the token if it is new to the caller: created, rolled or signed again; empty: it is not
 */
public record WriteResult(Session session, List<String> setCookie, String token) {
    /** Leaves out the token and the cookies. */
    @Override
    public String toString() {
        return "WriteResult[session=" + session + "]";
    }
}
