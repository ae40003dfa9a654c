package io.github.sessiond.client;

/** An argument has a value that is not allowed, or the data are not JSON. {@link #field()} names the argument. */
public class InvalidArgumentException extends SessiondException {
    private static final long serialVersionUID = 1;

    /**
     * Makes an exception.
     *
     * @param message what happened
     * @param details why
     */
    public InvalidArgumentException(String message, Details details) {
        super(message, details);
    }
}
