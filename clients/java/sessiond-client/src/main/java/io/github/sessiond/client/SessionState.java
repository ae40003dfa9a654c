package io.github.sessiond.client;

/** What became of a credential. */
public enum SessionState {
    /** Live; there is a session. */
    ACTIVE,
    /** Created by this call, because {@code create} was set. */
    CREATED,
    /** No session cookie in the credential. */
    NONE,
    /** Malformed, or signed by no known secret. */
    INVALID,
    /** Authentic, but the session was destroyed, or has expired and was removed. */
    NOT_FOUND,
    /** Authentic, but the session's time is over. */
    EXPIRED,
    /** Authentic, but the id was replaced since: serve the request as nobody's and change no cookie. */
    SUPERSEDED
}
