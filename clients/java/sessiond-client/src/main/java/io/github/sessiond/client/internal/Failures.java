package io.github.sessiond.client.internal;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import com.google.rpc.Status;
import io.github.sessiond.client.Applied;
import io.github.sessiond.client.AuthenticationException;
import io.github.sessiond.client.DataTooLargeException;
import io.github.sessiond.client.InvalidArgumentException;
import io.github.sessiond.client.OverloadedException;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.RecordUnreadableException;
import io.github.sessiond.client.SessionGoneException;
import io.github.sessiond.client.SessiondException;
import io.github.sessiond.client.SessiondException.Details;
import io.github.sessiond.client.SupersededException;
import io.github.sessiond.client.TooManySessionsException;
import io.github.sessiond.client.UnavailableException;
import io.github.sessiond.client.VersionMismatchException;
import java.time.Duration;

/** Exceptions from statuses of the protocol: one table. */
public final class Failures {
    private static final String DOMAIN = "sessiond";
    private static final Duration SECOND = Duration.ofSeconds(1);
    private static final long LONGEST_RETRY = Duration.ofDays(1).toSeconds();

    private Failures() {}

    /** The exception of a status. {@code unknown}: the outcome is unknown, whatever the status says. */
    static SessiondException of(Status status, boolean unknown) {
        io.grpc.Status.Code code = io.grpc.Status.fromCodeValue(status.getCode()).getCode();
        ErrorInfo info = null;
        Duration retryAfter = null;
        String field = null;
        try {
            for (Any detail : status.getDetailsList()) {
                if (detail.is(ErrorInfo.class) && detail.unpack(ErrorInfo.class).getDomain().equals(DOMAIN)) {
                    info = detail.unpack(ErrorInfo.class);
                } else if (detail.is(RetryInfo.class)) {
                    com.google.protobuf.Duration delay = detail.unpack(RetryInfo.class).getRetryDelay();
                    // Nobody waits for longer, and what Java cannot compute with must not get in the way.
                    retryAfter = Duration.ofSeconds(Math.max(0, Math.min(delay.getSeconds(), LONGEST_RETRY)), delay.getNanos());
                } else if (detail.is(BadRequest.class) && detail.unpack(BadRequest.class).getFieldViolationsCount() > 0) {
                    field = detail.unpack(BadRequest.class).getFieldViolations(0).getField();
                }
            }
        } catch (InvalidProtocolBufferException unreadable) {
            // Details that cannot be read are as good as none.
        }
        Reason reason = info == null ? byCode(code) : named(info.getReason());
        String applied = info == null ? null : info.getMetadataMap().get("applied");
        boolean uncertain = unknown || (applied == null ? !refuses(code) : !applied.equals("no"));
        return make(reason, status.getMessage().isEmpty() ? "the daemon answered " + code : status.getMessage(), new Details(reason, code.name())
                .applied(uncertain ? Applied.UNKNOWN : Applied.NO)
                .retryable(retryable(reason) && !(unknown && reason == Reason.VERSION_MISMATCH))
                .retryAfter(retryAfter)
                .field(field));
    }

    /** An exception of the class that its reason has. */
    public static SessiondException make(Reason reason, String message, Details details) {
        return switch (reason) {
            case INVALID_ARGUMENT, INVALID_DATA, UNKNOWN_ENGINE -> new InvalidArgumentException(message, details);
            case DATA_TOO_LARGE, MESSAGE_TOO_LARGE -> new DataTooLargeException(message, details);
            case SESSION_GONE -> new SessionGoneException(message, details);
            case VERSION_MISMATCH -> new VersionMismatchException(message, details);
            case TOO_MANY_SESSIONS -> new TooManySessionsException(message, details);
            case OVERLOADED, IN_FLIGHT_LIMIT -> new OverloadedException(message, details);
            case STORE_FULL, STORE_UNAVAILABLE, SHUTTING_DOWN, TIMEOUT, CONNECTION_FAILED, CLOSED ->
                new UnavailableException(message, details);
            case RECORD_UNREADABLE -> new RecordUnreadableException(message, details);
            case TOKEN_REQUIRED, TOKEN_UNKNOWN, ROLE_REQUIRED -> new AuthenticationException(message, details);
            case SUPERSEDED -> new SupersededException();
            case MALFORMED_MESSAGE, COMPRESSION_UNSUPPORTED, PROTOCOL_ERROR, DAEMON_TOO_OLD, OTHER ->
                new SessiondException(message, details);
        };
    }

    private static Reason named(String name) {
        for (Reason reason : Reason.values()) {
            if (reason.name().equals(name)) {
                return reason;
            }
        }
        return Reason.OTHER;
    }

    /** Without a reason, the code says what can be said. */
    private static Reason byCode(io.grpc.Status.Code code) {
        return switch (code) {
            case INVALID_ARGUMENT -> Reason.INVALID_ARGUMENT;
            case DEADLINE_EXCEEDED -> Reason.TIMEOUT;
            case RESOURCE_EXHAUSTED -> Reason.OVERLOADED;
            case UNAVAILABLE, CANCELLED -> Reason.CONNECTION_FAILED;
            case UNAUTHENTICATED -> Reason.TOKEN_UNKNOWN;
            case PERMISSION_DENIED -> Reason.ROLE_REQUIRED;
            default -> Reason.PROTOCOL_ERROR;
        };
    }

    /** These refuse an operation before anything is done, if the daemon does not say whether it was applied. */
    private static boolean refuses(io.grpc.Status.Code code) {
        return switch (code) {
            case INVALID_ARGUMENT, NOT_FOUND, ABORTED, FAILED_PRECONDITION, UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED -> true;
            default -> false;
        };
    }

    static boolean retryable(Reason reason) {
        return switch (reason) {
            case OVERLOADED, STORE_FULL, STORE_UNAVAILABLE, SHUTTING_DOWN, VERSION_MISMATCH, TIMEOUT, CONNECTION_FAILED -> true;
            default -> false;
        };
    }

    static UnavailableException unreachable(String message, Applied applied, Throwable cause) {
        return new UnavailableException(message, new Details(Reason.CONNECTION_FAILED, "UNAVAILABLE")
                .applied(applied).retryable(true).retryAfter(SECOND).cause(cause));
    }

    static UnavailableException timeout(String message, Applied applied) {
        return new UnavailableException(message, new Details(Reason.TIMEOUT, "DEADLINE_EXCEEDED")
                .applied(applied).retryable(true).retryAfter(SECOND));
    }

    /** The client is closed. */
    public static UnavailableException closed(Applied applied) {
        return new UnavailableException("the client is closed", new Details(Reason.CLOSED, "CANCELLED").applied(applied));
    }

    /** Its caller has cancelled an operation. */
    static UnavailableException cancelled(Applied applied) {
        return new UnavailableException("the operation was cancelled", new Details(Reason.TIMEOUT, "CANCELLED").applied(applied));
    }

    static SessiondException protocol(String address, String what, Throwable cause) {
        return new SessiondException(
                "the server at " + address + " does not speak the protocol of sessiond: " + what,
                new Details(Reason.PROTOCOL_ERROR, "INTERNAL").applied(Applied.UNKNOWN).cause(cause));
    }

    /** The exception of an operation that was cut off: each has one of its own. */
    static SessiondException cut(SessiondException cause, Applied applied) {
        if (cause.reason() == Reason.PROTOCOL_ERROR) {
            return again(cause, applied);
        }
        Reason reason = cause instanceof UnavailableException ? cause.reason() : Reason.CONNECTION_FAILED;
        return new UnavailableException(cause.getMessage(), new Details(reason, "UNAVAILABLE")
                .applied(applied)
                .retryable(applied == Applied.NO)
                .retryAfter(cause.retryAfter() == null ? SECOND : cause.retryAfter())
                .cause(cause));
    }

    /** The same once more, with the stack of whoever calls. */
    static SessiondException again(SessiondException cause, Applied applied) {
        return make(cause.reason(), cause.getMessage(), new Details(cause.reason(), cause.code())
                .applied(applied)
                .retryable(cause.retryable())
                .retryAfter(cause.retryAfter())
                .field(cause.field())
                .cause(cause));
    }
}
