package io.github.sessiond.client;

/** The principal has as many sessions as the daemon's {@code max_sessions_per_principal} allows. End one first. */
public class TooManySessionsException extends SessiondException {
    private static final long serialVersionUID = 1;

    /**
     * Makes an exception.
     *
     * @param message what happened
     * @param details why
     */
    public TooManySessionsException(String message, Details details) {
        super(message, details);
    }

    @Override
    public int httpStatus() {
        return 403;
    }
}
