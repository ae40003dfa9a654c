package io.github.sessiond.client;

/** How a session id stands in a cookie. */
public enum CookieFormat {
    /** The token as it is. */
    PLAIN,
    /** {@code s:} and the token, as express-session writes it. */
    EXPRESS
}
