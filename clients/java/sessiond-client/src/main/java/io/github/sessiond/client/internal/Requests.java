package io.github.sessiond.client.internal;

import com.google.protobuf.ByteString;
import io.github.sessiond.client.Credential;
import io.github.sessiond.client.DestroyOptions;
import io.github.sessiond.client.InvalidArgumentException;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.ResolveOptions;
import io.github.sessiond.client.SessiondException;
import io.github.sessiond.client.TouchOptions;
import io.github.sessiond.client.WriteOptions;
import io.github.sessiond.client.internal.pb.DestroyRequest;
import io.github.sessiond.client.internal.pb.DestroyScope;
import io.github.sessiond.client.internal.pb.ResolveRequest;
import io.github.sessiond.client.internal.pb.SessionServiceListSessionsRequest;
import io.github.sessiond.client.internal.pb.TouchRequest;
import io.github.sessiond.client.internal.pb.WriteRequest;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.regex.Pattern;

/** Requests of the protocol from arguments, which are checked here. */
public final class Requests {
    private static final int MAX_TEXT = 256;
    private static final int MAX_LIST = 1000;
    private static final Pattern SESSION_ID = Pattern.compile("[A-Za-z0-9_-]{16}");
    private static final Duration MAX_DURATION = Duration.ofDays(400);

    private Requests() {}

    /** A Resolve. */
    public static ResolveRequest resolve(Credential credential, ResolveOptions options, String engine) {
        ResolveRequest.Builder request = ResolveRequest.newBuilder()
                .setEngine(engine(options.engine(), engine))
                .setPeek(options.peek())
                .setCreate(options.create());
        if (credential != null) {
            request.setCredential(credential(credential));
        }
        return request.build();
    }

    /** A Touch. */
    public static TouchRequest touch(Credential credential, TouchOptions options, String engine) {
        TouchRequest.Builder request = TouchRequest.newBuilder().setEngine(engine(options.engine(), engine));
        if (credential != null) {
            request.setCredential(credential(credential));
        }
        if (options.duration() != null) {
            request.setDuration(duration(options.duration()));
        }
        return request.build();
    }

    /** A Write. */
    public static WriteRequest write(Credential credential, WriteOptions options, String engine) {
        WriteRequest.Builder request = WriteRequest.newBuilder()
                .setEngine(engine(options.engine(), engine))
                .setSet(Json.wellFormed(options.set()))
                .addAllUnset(list("unset", options.unset()))
                .setReplace(options.replace())
                .setRoll(options.roll());
        if (credential != null) {
            request.setCredential(credential(credential));
        }
        if (options.ifVersion() != null) {
            if (options.ifVersion() < 1) {
                throw invalid("ifVersion", "expected at least 1");
            }
            if (credential == null) {
                throw invalid("ifVersion", "not when creating");
            }
            request.setIfVersion(options.ifVersion());
        }
        if (options.principal() != null) {
            request.setPrincipal(text("principal", options.principal()));
        }
        if (options.duration() != null) {
            request.setDuration(duration(options.duration()));
        }
        if (options.persistent() != null) {
            request.setPersistent(options.persistent());
        }
        if (options.label() != null) {
            request.setLabel(text("label", options.label()));
        }
        return request.build();
    }

    /** A Destroy. */
    public static DestroyRequest destroy(Credential credential, DestroyOptions options, String engine) {
        DestroyRequest.Builder request = DestroyRequest.newBuilder().setEngine(engine(options.engine(), engine));
        if (credential != null) {
            request.setCredential(credential(credential));
        }
        if (options.scope() != null) {
            if (options.sessionIds() != null) {
                throw invalid("sessionIds", "not together with a scope");
            }
            request.setScope(switch (options.scope()) {
                case THIS -> DestroyScope.DESTROY_SCOPE_THIS;
                case OTHERS -> DestroyScope.DESTROY_SCOPE_OTHERS;
                case ALL -> DestroyScope.DESTROY_SCOPE_ALL;
            });
        }
        if (options.sessionIds() != null) {
            // None at all would be taken as no list, and end the session of the credential.
            if (options.sessionIds().isEmpty()) {
                throw invalid("sessionIds", "expected at least one id");
            }
            if (!options.sessionIds().stream().allMatch(Requests::isSessionId)) {
                throw invalid("sessionIds", "expected public ids, 16 characters of base64url each");
            }
            request.addAllSessionIds(list("sessionIds", options.sessionIds()));
        }
        return request.build();
    }

    /** Whether a text can be a public id. */
    public static boolean isSessionId(String text) {
        return SESSION_ID.matcher(text).matches();
    }

    /** The first page of a list. */
    public static SessionServiceListSessionsRequest list(Credential credential, String engine) {
        SessionServiceListSessionsRequest.Builder request =
                SessionServiceListSessionsRequest.newBuilder().setEngine(engine).setPageSize(MAX_LIST);
        if (credential != null) {
            request.setCredential(credential(credential));
        }
        return request.build();
    }

    private static String engine(String engine, String ofClient) {
        return engine == null ? ofClient : engine;
    }

    private static io.github.sessiond.client.internal.pb.Credential credential(Credential credential) {
        ByteString octets = ByteString.copyFrom(credential.octets());
        io.github.sessiond.client.internal.pb.Credential.Builder message =
                io.github.sessiond.client.internal.pb.Credential.newBuilder();
        return (credential.isToken() ? message.setToken(octets) : message.setCookieHeader(octets)).build();
    }

    private static com.google.protobuf.Duration duration(Duration duration) {
        if (duration.isNegative() || duration.isZero() || duration.compareTo(MAX_DURATION) > 0) {
            throw invalid("duration", "expected more than zero and at most 400 days");
        }
        return com.google.protobuf.Duration.newBuilder().setSeconds(duration.getSeconds()).setNanos(duration.getNano()).build();
    }

    private static String text(String field, String text) {
        if (!Json.isWellFormed(text)) {
            throw invalid(field, "half a surrogate pair");
        }
        if (text.getBytes(StandardCharsets.UTF_8).length > MAX_TEXT) {
            throw invalid(field, "at most " + MAX_TEXT + " bytes of UTF-8");
        }
        return text;
    }

    private static List<String> list(String field, List<String> texts) {
        if (texts.size() > MAX_LIST) {
            throw invalid(field, "at most " + MAX_LIST);
        }
        for (String text : texts) {
            if (!Json.isWellFormed(text)) {
                throw invalid(field, "half a surrogate pair");
            }
        }
        return texts;
    }

    /** An argument that is not allowed. */
    public static InvalidArgumentException invalid(String field, String message) {
        return new InvalidArgumentException(
                field + ": " + message, new SessiondException.Details(Reason.INVALID_ARGUMENT, "INVALID_ARGUMENT").field(field));
    }
}
