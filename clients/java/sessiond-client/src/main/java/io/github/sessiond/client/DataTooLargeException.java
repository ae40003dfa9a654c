package io.github.sessiond.client;

/**
 * The data would be larger than the engine's {@code max_data_bytes}, or a message larger than the daemon accepts.
 */
public class DataTooLargeException extends InvalidArgumentException {
    private static final long serialVersionUID = 1;

    /**
     * Makes an exception.
     *
     * @param message what happened
     * @param details why
     */
    public DataTooLargeException(String message, Details details) {
        super(message, details);
    }

    @Override
    public int httpStatus() {
        return 413;
    }
}
