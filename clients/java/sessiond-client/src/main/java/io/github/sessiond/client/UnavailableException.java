package io.github.sessiond.client;

/**
 * Nobody knows what became of the session: the store failed, the daemon cannot be reached, is stopping or has too
 * much to do, or the time was over. Answer 503 with {@code Retry-After}. It never means "no session".
 */
public class UnavailableException extends SessiondException {
    private static final long serialVersionUID = 1;

    /**
     * Makes an exception.
     *
     * @param message what happened
     * @param details why
     */
    public UnavailableException(String message, Details details) {
        super(message, details);
    }

    @Override
    public int httpStatus() {
        return 503;
    }
}
