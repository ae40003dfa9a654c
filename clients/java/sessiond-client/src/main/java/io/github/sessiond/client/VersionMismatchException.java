package io.github.sessiond.client;

/**
 * {@code ifVersion} is stale: another write came first. With {@link Applied#UNKNOWN}, that write may have been this
 * one.
 */
public class VersionMismatchException extends SessiondException {
    private static final long serialVersionUID = 1;

    /**
     * Makes an exception.
     *
     * @param message what happened
     * @param details why
     */
    public VersionMismatchException(String message, Details details) {
        super(message, details);
    }

    @Override
    public int httpStatus() {
        return 503;
    }
}
