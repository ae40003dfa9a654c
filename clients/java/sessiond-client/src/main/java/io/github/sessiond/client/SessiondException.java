package io.github.sessiond.client;

import java.time.Duration;
import java.util.Objects;

/**
 * An operation failed. The base class of all exceptions of this package.
 *
 * <p>No message holds a token, a cookie or data of a session.
 */
public class SessiondException extends RuntimeException {
    private static final long serialVersionUID = 1;

    /** Why. */
    private final Reason reason;

    /** Name of the gRPC code. */
    private final String code;

    /** Whether something may have been changed. */
    private final Applied applied;

    /** Whether it can be tried again. */
    private final boolean retryable;

    /** When to try again; null: not known. */
    private final Duration retryAfter;

    /** Which field is at fault; null: none. */
    private final String field;

    /**
     * Makes an exception.
     *
     * @param message what happened
     * @param details why
     */
    public SessiondException(String message, Details details) {
        super(message, details.cause);
        this.reason = Objects.requireNonNull(details.reason);
        this.code = details.code;
        this.applied = details.applied;
        this.retryable = details.retryable;
        this.retryAfter = details.retryAfter;
        this.field = details.field;
    }

    /**
     * Why. Act upon this, or upon the class, and not upon the text.
     *
     * @return the reason
     */
    public Reason reason() {
        return reason;
    }

    /**
     * Name of the gRPC code, such as {@code UNAVAILABLE}.
     *
     * @return the name
     */
    public String code() {
        return code;
    }

    /**
     * Whether the operation may have changed something all the same.
     *
     * @return whether
     */
    public Applied applied() {
        return applied;
    }

    /**
     * Whether the same call can succeed a moment later, and does no harm.
     *
     * @return whether
     */
    public boolean retryable() {
        return retryable;
    }

    /**
     * After which time to try again.
     *
     * @return the time; null: not known
     */
    public Duration retryAfter() {
        return retryAfter;
    }

    /**
     * Name of the field that is at fault.
     *
     * @return the name; null: none
     */
    public String field() {
        return field;
    }

    /**
     * The HTTP status to answer with.
     *
     * @return the status
     */
    public int httpStatus() {
        return 500;
    }

    /** What an exception is made of. */
    public static final class Details {
        private final Reason reason;
        private final String code;
        private Applied applied = Applied.NO;
        private boolean retryable;
        private Duration retryAfter;
        private String field;
        private Throwable cause;

        /**
         * Why.
         *
         * @param reason the reason
         * @param code name of the gRPC code
         */
        public Details(Reason reason, String code) {
            this.reason = reason;
            this.code = code;
        }

        /**
         * Whether it may have changed something.
         *
         * @param applied whether; default: {@link Applied#NO}
         * @return this
         */
        public Details applied(Applied applied) {
            this.applied = applied;
            return this;
        }

        /**
         * Whether it can be tried again.
         *
         * @param retryable whether; default: false
         * @return this
         */
        public Details retryable(boolean retryable) {
            this.retryable = retryable;
            return this;
        }

        /**
         * When to try again.
         *
         * @param retryAfter after which time; default: not known
         * @return this
         */
        public Details retryAfter(Duration retryAfter) {
            this.retryAfter = retryAfter;
            return this;
        }

        /**
         * Which field is at fault.
         *
         * @param field its name; default: none
         * @return this
         */
        public Details field(String field) {
            this.field = field;
            return this;
        }

        /**
         * What is behind it.
         *
         * @param cause the error behind it; default: none
         * @return this
         */
        public Details cause(Throwable cause) {
            this.cause = cause;
            return this;
        }
    }
}
