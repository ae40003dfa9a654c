package io.github.sessiond.client;

/** The daemon asks for a bearer token, does not know the one that was sent, or wants a caller with another role. */
public class AuthenticationException extends SessiondException {
    private static final long serialVersionUID = 1;

    /**
     * Makes an exception.
     *
     * @param message what happened
     * @param details why
     */
    public AuthenticationException(String message, Details details) {
        super(message, details);
    }
}
