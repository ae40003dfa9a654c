package io.github.sessiond.client.internal;

import com.google.protobuf.Message;
import io.github.sessiond.client.Applied;
import io.github.sessiond.client.AuthenticationException;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.Session;
import io.github.sessiond.client.SessiondAdmin;
import io.github.sessiond.client.SessiondException;
import io.github.sessiond.client.internal.pb.ListSessionsRequest;
import io.github.sessiond.client.internal.pb.ListSessionsResponse;
import io.github.sessiond.client.internal.pb.RevokeSessionsRequest;
import io.github.sessiond.client.internal.pb.RevokeSessionsResponse;
import io.grpc.CallOptions;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** The admin service over unary calls: it is asked seldom. */
public final class AdminClient implements SessiondAdmin {
    private static final String SERVICE = "sessiond.v1.SessionAdminService/";
    private static final int PAGE = 1000;
    private static final MethodDescriptor<ListSessionsRequest, ListSessionsResponse> LIST =
            method("ListSessions", ListSessionsRequest.getDefaultInstance(), ListSessionsResponse.getDefaultInstance());
    private static final MethodDescriptor<RevokeSessionsRequest, RevokeSessionsResponse> REVOKE =
            method("RevokeSessions", RevokeSessionsRequest.getDefaultInstance(), RevokeSessionsResponse.getDefaultInstance());

    private final PipelineClient.Options options;
    private final Address address;
    private final Loop loop;
    private final ManagedChannel channel;
    private final TokenSource tokens;
    private volatile boolean closed;

    /** Checks the options. */
    public AdminClient(PipelineClient.Options options) {
        this.options = options;
        this.address = new Address(options.address(), options.tls());
        options.check();
        this.tokens = new TokenSource(options);
        this.loop = new Loop(options.address());
        this.channel = address.channel(loop)
                .userAgent("sessiond-java/" + PipelineClient.VERSION)
                .disableServiceConfigLookUp()
                .proxyDetector(target -> null)
                .build();
    }

    @Override
    public List<Session> listSessions(String engine, String principal) {
        List<Session> sessions = new ArrayList<>();
        String page = "";
        do {
            ListSessionsResponse answer = call(LIST, ListSessionsRequest.newBuilder()
                    .setEngine(engine).setPrincipal(principal).setPageSize(PAGE).setPageToken(page).build());
            answer.getSessionsList().forEach(session -> sessions.add(Answers.session(session)));
            page = answer.getNextPageToken();
        } while (!page.isEmpty());
        return List.copyOf(sessions);
    }

    @Override
    public int revokeSessions(String engine, Collection<String> sessionIds) {
        if (sessionIds.isEmpty()) {
            return 0;
        }
        return call(REVOKE, RevokeSessionsRequest.newBuilder().setEngine(engine).addAllSessionIds(sessionIds).build()).getRevoked();
    }

    @Override
    public void close() {
        closed = true;
        channel.shutdownNow();
        boolean ended = false;
        try {
            ended = channel.awaitTermination(Loop.END_SECONDS, TimeUnit.SECONDS);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
        loop.shutdown(ended);
    }

    private <Q, A> A call(MethodDescriptor<Q, A> method, Q request) {
        if (closed) {
            throw Failures.closed(Applied.NO);
        }
        Metadata headers = new Metadata();
        try {
            String token = tokens.read();
            if (token != null) {
                headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
            }
            channel.resetConnectBackoff();
            return ClientCalls.blockingUnaryCall(
                    io.grpc.ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(headers)),
                    method,
                    CallOptions.DEFAULT.withDeadlineAfter(options.timeout().toNanos(), TimeUnit.NANOSECONDS).withWaitForReady(),
                    request);
        } catch (IOException unreadable) {
            throw new AuthenticationException(
                    "the token file cannot be read: " + unreadable.getClass().getSimpleName() + ": " + options.tokenFile(),
                    new SessiondException.Details(Reason.TOKEN_UNKNOWN, "UNAUTHENTICATED").cause(unreadable));
        } catch (StatusRuntimeException failed) {
            com.google.rpc.Status details = StatusProto.fromThrowable(failed);
            SessiondException error = Failures.of(details, false);
            if (closed) {
                throw Failures.closed(Applied.UNKNOWN);
            }
            Status.Code code = failed.getStatus().getCode();
            if (code == Status.Code.UNIMPLEMENTED) {
                throw Failures.protocol(address.toString(), "it has no admin service; is this the address of listen.admin?", failed);
            }
            boolean own = details.getDetailsCount() == 0
                    && (code == Status.Code.UNAVAILABLE || code == Status.Code.DEADLINE_EXCEEDED || code == Status.Code.CANCELLED);
            throw own ? Failures.unreachable("the admin service at " + address + ": " + error.getMessage(), Applied.UNKNOWN, failed) : error;
        }
    }

    private static <Q extends Message, A extends Message> MethodDescriptor<Q, A> method(String name, Q request, A answer) {
        return MethodDescriptor.<Q, A>newBuilder()
                .setType(MethodDescriptor.MethodType.UNARY)
                .setFullMethodName(SERVICE + name)
                .setRequestMarshaller(ProtoUtils.marshaller(request))
                .setResponseMarshaller(ProtoUtils.marshaller(answer))
                .build();
    }
}
