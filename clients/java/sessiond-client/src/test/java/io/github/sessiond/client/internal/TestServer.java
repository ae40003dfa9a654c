package io.github.sessiond.client.internal;

import com.google.protobuf.Any;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.github.sessiond.client.internal.pb.DescribeResponse;
import io.github.sessiond.client.internal.pb.DestroyResponse;
import io.github.sessiond.client.internal.pb.Engine;
import io.github.sessiond.client.internal.pb.Limits;
import io.github.sessiond.client.internal.pb.PipelineRequest;
import io.github.sessiond.client.internal.pb.PipelineResponse;
import io.github.sessiond.client.internal.pb.ResolveResponse;
import io.github.sessiond.client.internal.pb.Session;
import io.github.sessiond.client.internal.pb.SessionServiceListSessionsResponse;
import io.github.sessiond.client.internal.pb.SessionState;
import io.github.sessiond.client.internal.pb.TouchResponse;
import io.github.sessiond.client.internal.pb.WriteResponse;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerCredentials;
import io.grpc.InsecureServerCredentials;
import io.grpc.ServerServiceDefinition;
import io.grpc.ServiceDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Function;

/** A daemon that does what a test says. */
final class TestServer implements AutoCloseable {
    /** What a test says to a request of the Pipeline. */
    interface Script {
        void request(Stream stream, PipelineRequest request);
    }

    /** A request that came, and on which stream. */
    record Seen(int stream, PipelineRequest request) {}

    /** One Pipeline. */
    record Stream(ServerCall<PipelineRequest, PipelineResponse> call, int number) {
        void answer(PipelineRequest request) {
            PipelineResponse.Builder answer = PipelineResponse.newBuilder().setSequence(request.getSequence());
            Session session = Session.newBuilder().setId("AAAAAAAAAAAAAAAA").setData("{}").setVersion(1).build();
            switch (request.getOperationCase()) {
                case RESOLVE -> answer.setResolve(ResolveResponse.newBuilder().setState(SessionState.SESSION_STATE_ACTIVE).setSession(session));
                case TOUCH -> answer.setTouch(TouchResponse.newBuilder().setState(SessionState.SESSION_STATE_ACTIVE).setSession(session));
                case WRITE -> answer.setWrite(WriteResponse.newBuilder().setSession(session).setToken("new"));
                default -> answer.setDestroy(DestroyResponse.newBuilder().setDestroyed((int) request.getSequence()));
            }
            send(answer.build());
        }

        void fail(PipelineRequest request, com.google.rpc.Status error) {
            send(PipelineResponse.newBuilder().setSequence(request.getSequence()).setError(error).build());
        }

        synchronized void send(PipelineResponse answer) {
            call.sendMessage(answer);
        }

        void end(com.google.rpc.Status status) {
            StatusRuntimeException error = StatusProto.toStatusRuntimeException(status);
            call.close(error.getStatus(), error.getTrailers());
        }
    }

    final List<Seen> seen = new CopyOnWriteArrayList<>();
    final List<String> tokens = new CopyOnWriteArrayList<>();
    private final AtomicInteger streams = new AtomicInteger();
    private final Server server;
    volatile Function<Metadata, StatusRuntimeException> refuse = headers -> null;
    volatile Script script;
    volatile DescribeResponse described = describe();

    private TestServer(Script script, int port, ServerCredentials credentials) throws IOException {
        this.script = script;
        ServerServiceDefinition service = ServerServiceDefinition.builder(
                        ServiceDescriptor.newBuilder("sessiond.v1.SessionService").addMethod(Connection.DESCRIBE).addMethod(Connection.LIST).addMethod(Connection.PIPELINE).build())
                .addMethod(Connection.DESCRIBE, unary(Connection.DESCRIBE, request -> described))
                .addMethod(Connection.LIST, unary(Connection.LIST, request -> SessionServiceListSessionsResponse.getDefaultInstance()))
                .addMethod(Connection.PIPELINE, this::pipeline)
                .build();
        server = NettyServerBuilder.forAddress(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), credentials)
                .directExecutor()
                .addService(service)
                .build()
                .start();
    }

    static TestServer start(Script script) throws IOException {
        return new TestServer(script, 0, InsecureServerCredentials.create());
    }

    static TestServer start(Script script, ServerCredentials credentials) throws IOException {
        return new TestServer(script, 0, credentials);
    }

    static TestServer answering() throws IOException {
        return start(Stream::answer);
    }

    int port() {
        return server.getPort();
    }

    String address() {
        return "127.0.0.1:" + port();
    }

    /** Sends GOAWAY, and goes on with what is under way. */
    void goAway() {
        server.shutdown();
    }

    private static DescribeResponse describe() {
        return DescribeResponse.newBuilder()
                .setVersion("0.1.0")
                .setLimits(Limits.newBuilder().setMaxMessageBytes(1 << 20))
                .addEngines(Engine.newBuilder().setName("default").setCookieName("session").setMaxDataBytes(65_536))
                .build();
    }

    private <Q, A> ServerCallHandler<Q, A> unary(MethodDescriptor<Q, A> method, Function<Q, A> answer) {
        return (call, headers) -> {
            StatusRuntimeException refusal = refuse.apply(headers);
            tokens.add(String.valueOf(headers.get(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER))));
            if (refusal != null) {
                call.close(refusal.getStatus(), refusal.getTrailers() == null ? new Metadata() : refusal.getTrailers());
                return new ServerCall.Listener<>() {};
            }
            call.request(1);
            return new ServerCall.Listener<>() {
                @Override
                public void onMessage(Q request) {
                    call.sendHeaders(new Metadata());
                    call.sendMessage(answer.apply(request));
                    call.close(Status.OK, new Metadata());
                }
            };
        };
    }

    private ServerCall.Listener<PipelineRequest> pipeline(ServerCall<PipelineRequest, PipelineResponse> call, Metadata headers) {
        Stream stream = new Stream(call, streams.incrementAndGet());
        call.sendHeaders(new Metadata());
        call.request(Integer.MAX_VALUE);
        return new ServerCall.Listener<>() {
            @Override
            public void onMessage(PipelineRequest request) {
                seen.add(new Seen(stream.number, request));
                script.request(stream, request);
            }

            @Override
            public void onHalfClose() {
                call.close(Status.OK, new Metadata());
            }
        };
    }

    @Override
    public void close() {
        server.shutdownNow();
    }

    /** A status as the daemon makes it. {@code retryAfter}: null is none. */
    static com.google.rpc.Status status(int code, String reason, String applied, Duration retryAfter) {
        com.google.rpc.Status.Builder status = com.google.rpc.Status.newBuilder()
                .setCode(code)
                .setMessage(reason)
                .addDetails(Any.pack(ErrorInfo.newBuilder().setReason(reason).setDomain("sessiond").putMetadata("applied", applied).build()));
        if (retryAfter != null) {
            status.addDetails(Any.pack(RetryInfo.newBuilder()
                    .setRetryDelay(com.google.protobuf.Duration.newBuilder().setNanos((int) (retryAfter.toNanos() % 1_000_000_000)).setSeconds(retryAfter.toSeconds()))
                    .build()));
        }
        return status.build();
    }
}
