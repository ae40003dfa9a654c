package io.github.sessiond.client;

/** Too many operations at once, in this client ({@code IN_FLIGHT_LIMIT}) or in the daemon ({@code OVERLOADED}). */
public class OverloadedException extends UnavailableException {
    private static final long serialVersionUID = 1;

    /**
     * Makes an exception.
     *
     * @param message what happened
     * @param details why
     */
    public OverloadedException(String message, Details details) {
        super(message, details);
    }
}
