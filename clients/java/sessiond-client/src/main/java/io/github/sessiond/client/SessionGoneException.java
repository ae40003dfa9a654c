package io.github.sessiond.client;

/** The session of a write is not live: it has ended, has expired, or its id was rolled. Nothing brings it back. */
public class SessionGoneException extends SessiondException {
    private static final long serialVersionUID = 1;

    /**
     * Makes an exception.
     *
     * @param message what happened
     * @param details why
     */
    public SessionGoneException(String message, Details details) {
        super(message, details);
    }

    @Override
    public int httpStatus() {
        return 409;
    }
}
