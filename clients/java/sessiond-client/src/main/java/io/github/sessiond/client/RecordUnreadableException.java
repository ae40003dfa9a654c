package io.github.sessiond.client;

/** The stored record is damaged. A destroy ends it all the same. */
public class RecordUnreadableException extends SessiondException {
    private static final long serialVersionUID = 1;

    /**
     * Makes an exception.
     *
     * @param message what happened
     * @param details why
     */
    public RecordUnreadableException(String message, Details details) {
        super(message, details);
    }
}
