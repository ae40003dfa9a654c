package io.github.sessiond.client.internal;

import com.google.protobuf.Message;
import io.github.sessiond.client.Applied;
import io.github.sessiond.client.AuthenticationException;
import io.github.sessiond.client.Description;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.SessiondException;
import io.github.sessiond.client.Session;
import io.github.sessiond.client.ListResult;
import io.github.sessiond.client.internal.pb.DescribeRequest;
import io.github.sessiond.client.internal.pb.DescribeResponse;
import io.github.sessiond.client.internal.pb.PipelineRequest;
import io.github.sessiond.client.internal.pb.PipelineResponse;
import io.github.sessiond.client.internal.pb.SessionServiceListSessionsRequest;
import io.github.sessiond.client.internal.pb.SessionServiceListSessionsResponse;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.protobuf.StatusProto;
import java.security.cert.CertificateException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.Predicate;
import javax.net.ssl.SSLException;

/**
 * One connection to the daemon: it asks Describe first, then opens one Pipeline, and carries unary calls beside it. It
 * knows nothing of operations and their repetition; the {@link Dispatcher} does.
 */
final class Connection {
    private static final String SERVICE = "sessiond.v1.SessionService/";
    private static final Metadata.Key<String> AUTHORIZATION = Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
    static final MethodDescriptor<DescribeRequest, DescribeResponse> DESCRIBE = method(
            MethodDescriptor.MethodType.UNARY, "Describe", DescribeRequest.getDefaultInstance(), DescribeResponse.getDefaultInstance());
    static final MethodDescriptor<SessionServiceListSessionsRequest, SessionServiceListSessionsResponse> LIST = method(
            MethodDescriptor.MethodType.UNARY,
            "ListSessions",
            SessionServiceListSessionsRequest.getDefaultInstance(),
            SessionServiceListSessionsResponse.getDefaultInstance());
    static final MethodDescriptor<PipelineRequest, PipelineResponse> PIPELINE = method(
            MethodDescriptor.MethodType.BIDI_STREAMING,
            "Pipeline",
            PipelineRequest.getDefaultInstance(),
            PipelineResponse.getDefaultInstance());
    /** No answer is as long; a longer one is not from a daemon. */
    private static final int MAX_ANSWER = 64 << 20;

    /** What became of the operations that a connection has not answered; {@code fatal}: no repetition helps. */
    record End(Applied applied, SessiondException error, boolean fatal) {}

    /** Whom a connection reports to; on the client's thread. */
    interface Observer {
        void ready(Connection connection, Description description);

        void answer(Connection connection, PipelineResponse answer);

        void writable(Connection connection);

        /** The daemon asks to open a new connection. What is under way here goes on. */
        void draining(Connection connection);

        void closed(Connection connection, End end);
    }

    private final Address address;
    private final Loop loop;
    private final String token;
    private final long timeout;
    private final Observer observer;
    private final ManagedChannel channel;
    private volatile ClientCall<PipelineRequest, PipelineResponse> pipeline;
    private volatile boolean ending;
    private boolean closed;
    boolean draining;
    /** Whether an operation had an answer here; guarded by the lock of the {@link Dispatcher}. */
    boolean answered;

    /** {@code timeout}: until the connection is ready, in nanoseconds. */
    Connection(Address address, Loop loop, String token, long timeout, Observer observer) {
        this.address = address;
        this.loop = loop;
        this.token = token;
        this.timeout = timeout;
        this.observer = observer;
        channel = address.channel(loop)
                .directExecutor()
                .maxInboundMessageSize(MAX_ANSWER)
                .userAgent("sessiond-java/" + PipelineClient.VERSION)
                // A peer that has gone without a word is noticed after 15 s; 10 s is the least that grpc-java allows.
                .keepAliveTime(10, TimeUnit.SECONDS)
                .keepAliveTimeout(5, TimeUnit.SECONDS)
                .idleTimeout(365, TimeUnit.DAYS)
                // The daemon is a neighbor: it has no configuration in the DNS, and is never behind a proxy for the Web.
                .disableServiceConfigLookUp()
                .proxyDetector(target -> null)
                .build();
    }

    void start() {
        CompletableFuture<DescribeResponse> described = unary(DESCRIBE, DescribeRequest.getDefaultInstance(), timeout);
        described.whenComplete((answer, failure) -> {
            if (failure == null) {
                loop.execute(() -> described(answer));
            } else {
                loop.execute(() -> refused((SessiondException) failure));
            }
        });
    }

    private void described(DescribeResponse answer) {
        Description description;
        try {
            description = Answers.description(answer);
        } catch (RuntimeException unreadable) {
            refused(Failures.protocol(address.toString(), "a description that cannot be read", unreadable));
            return;
        }
        open(description);
    }

    /** Whether the Pipeline takes more now. */
    boolean isReady() {
        ClientCall<PipelineRequest, PipelineResponse> call = pipeline;
        return call != null && !ending && call.isReady();
    }

    /** Sends one operation; the caller sees to it that there is one call at a time. */
    void send(PipelineRequest request) {
        pipeline.sendMessage(request);
    }

    /** All pages of a list. */
    CompletableFuture<ListResult> list(SessionServiceListSessionsRequest request, long deadline) {
        return page(request, deadline, new ArrayList<>());
    }

    private CompletableFuture<ListResult> page(SessionServiceListSessionsRequest request, long deadline, List<Session> before) {
        return unary(LIST, request, deadline - System.nanoTime()).thenCompose(answer -> {
            answer.getSessionsList().forEach(session -> before.add(Answers.session(session)));
            if (!answer.getNextPageToken().isEmpty()) {
                return page(request.toBuilder().setPageToken(answer.getNextPageToken()).build(), deadline, before);
            }
            String current = answer.getCurrentSessionId();
            return CompletableFuture.completedFuture(
                    new ListResult(Answers.state(answer.getState()), List.copyOf(before), current.isEmpty() ? null : current));
        });
    }

    /** Closes a connection on which nothing is under way. */
    void end() {
        if (ending) {
            return;
        }
        ending = true;
        draining = true;
        if (pipeline != null) {
            pipeline.halfClose();
            // A daemon that does not answer the end of the stream must not hold the connection.
            loop.schedule(() -> destroy(Failures.closed(Applied.NO)), timeout);
        } else {
            destroy(Failures.closed(Applied.NO));
        }
    }

    /** Cuts the connection. */
    void destroy(SessiondException error) {
        close(new End(error.applied(), error, false));
    }

    /** Waits until a connection that was cut has let go of everything; reports whether it has. */
    boolean awaitEnd() {
        try {
            return channel.awaitTermination(Loop.END_SECONDS, TimeUnit.SECONDS);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            return false;
        }
    }

    private void open(Description description) {
        if (closed) {
            return;
        }
        ClientCall<PipelineRequest, PipelineResponse> call = channel.newCall(PIPELINE, CallOptions.DEFAULT);
        call.start(new ClientCall.Listener<>() {
            @Override
            public void onMessage(PipelineResponse answer) {
                observer.answer(Connection.this, answer);
            }

            @Override
            public void onReady() {
                observer.writable(Connection.this);
            }

            @Override
            public void onClose(Status status, Metadata trailers) {
                loop.execute(() -> close(ended(status, trailers)));
            }
        }, headers());
        // What is under way is bounded by maxInFlight.
        call.request(Integer.MAX_VALUE);
        pipeline = call;
        channel.notifyWhenStateChanged(ConnectivityState.READY, () -> loop.execute(this::drain));
        observer.ready(this, description);
    }

    /** GOAWAY, or the end. */
    private void drain() {
        if (!closed && !draining && channel.getState(false) != ConnectivityState.READY) {
            draining = true;
            observer.draining(this);
        } else if (!closed && !draining) {
            channel.notifyWhenStateChanged(ConnectivityState.READY, () -> loop.execute(this::drain));
        }
    }

    private void refused(SessiondException error) {
        boolean fatal = error instanceof AuthenticationException || error.reason() == Reason.PROTOCOL_ERROR || neverHeals(error);
        if (error.code().equals("UNIMPLEMENTED")) {
            fatal = true;
            error = new SessiondException(
                    "the daemon at " + address + " does not know Describe: it is older than this client (" + PipelineClient.VERSION
                            + "), or this is an address of listen.admin; update the daemon, or use an address of listen.grpc",
                    new SessiondException.Details(Reason.DAEMON_TOO_OLD, "UNIMPLEMENTED"));
        }
        // Nothing but Describe was sent.
        close(new End(Applied.NO, error, fatal));
    }

    /** What a certificate or the kind of the connection is wrong about does not heal by itself. */
    private static boolean neverHeals(SessiondException error) {
        return hasCause(error.getCause(), at -> at instanceof SSLException || at instanceof CertificateException || isNoHttp2(at));
    }

    private static boolean isNoHttp2(Throwable cause) {
        return cause.getClass().getName().endsWith(".Http2Exception");
    }

    private static boolean hasCause(Throwable error, Predicate<Throwable> wanted) {
        for (Throwable at = error; at != null; at = at.getCause()) {
            if (wanted.test(at)) {
                return true;
            }
        }
        return false;
    }

    private End ended(Status status, Metadata trailers) {
        if (ending) {
            return new End(Applied.NO, Failures.closed(Applied.NO), false);
        }
        if (status.isOk()) {
            return new End(Applied.UNKNOWN, Failures.unreachable("the daemon at " + address + " has ended the stream", Applied.UNKNOWN, null), false);
        }
        SessiondException error = error(status, trailers);
        boolean refused = error instanceof AuthenticationException;
        // Whatever has no answer after SHUTTING_DOWN was not applied.
        boolean notApplied = refused || error.reason() == Reason.SHUTTING_DOWN;
        return new End(notApplied ? Applied.NO : Applied.UNKNOWN, error, refused || error.code().equals("UNIMPLEMENTED"));
    }

    private SessiondException error(Status status, Metadata trailers) {
        com.google.rpc.Status details = StatusProto.fromStatusAndTrailers(status, trailers);
        SessiondException error = Failures.of(details, false);
        if (hasCause(status.getCause(), Connection::isNoHttp2)) {
            return Failures.unreachable(
                    "no HTTP/2 (is it TLS, or another server?) from the daemon at " + address, Applied.UNKNOWN, status.getCause());
        }
        if (error.reason() == Reason.PROTOCOL_ERROR) {
            return error.code().equals("UNIMPLEMENTED") ? error : Failures.protocol(address.toString(), firstLine(error.getMessage()), status.getCause());
        }
        boolean own = details.getDetailsCount() == 0;
        if (own && error.reason() == Reason.CONNECTION_FAILED) {
            String what = status.getCause() != null && status.getCause().getMessage() != null
                    ? status.getCause().getMessage() : error.getMessage();
            return Failures.unreachable("cannot reach the daemon at " + address + ": " + firstLine(what), Applied.UNKNOWN, status.getCause());
        }
        if (own && error.reason() == Reason.TIMEOUT) {
            return Failures.unreachable("no answer from the daemon at " + address, Applied.UNKNOWN, null);
        }
        return error;
    }

    /** Without the octets that Netty quotes. */
    private static String firstLine(String text) {
        return text.lines().findFirst().orElse("").replaceFirst("(not an SSL/TLS record):.*", "$1");
    }

    /** The connection is over; once. */
    private void close(End end) {
        if (closed) {
            return;
        }
        closed = true;
        draining = true;
        ending = true;
        channel.shutdownNow();
        observer.closed(this, end);
    }

    private Metadata headers() {
        Metadata headers = new Metadata();
        if (token != null) {
            headers.put(AUTHORIZATION, "Bearer " + token);
        }
        return headers;
    }

    private <Q, A> CompletableFuture<A> unary(MethodDescriptor<Q, A> method, Q request, long nanos) {
        CompletableFuture<A> future = new CompletableFuture<>();
        ClientCall<Q, A> call = channel.newCall(method, CallOptions.DEFAULT.withDeadlineAfter(Math.max(nanos, 1), TimeUnit.NANOSECONDS));
        call.start(new ClientCall.Listener<>() {
            private A message;

            @Override
            public void onMessage(A answer) {
                message = answer;
            }

            @Override
            public void onClose(Status status, Metadata trailers) {
                if (!status.isOk()) {
                    future.completeExceptionally(error(status, trailers));
                } else if (message == null) {
                    future.completeExceptionally(Failures.protocol(address.toString(), "an answer without a message", null));
                } else {
                    future.complete(message);
                }
            }
        }, headers());
        call.request(2);
        call.sendMessage(request);
        call.halfClose();
        return future;
    }

    private static <Q extends Message, A extends Message> MethodDescriptor<Q, A> method(
            MethodDescriptor.MethodType type, String name, Q request, A answer) {
        return MethodDescriptor.<Q, A>newBuilder()
                .setType(type)
                .setFullMethodName(SERVICE + name)
                .setRequestMarshaller(ProtoUtils.marshaller(request))
                .setResponseMarshaller(ProtoUtils.marshaller(answer))
                .build();
    }
}
