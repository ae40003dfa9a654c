package io.github.sessiond.client.internal;

import static io.github.sessiond.client.internal.TestServer.status;
import static io.github.sessiond.client.internal.TransportTest.SECRET;
import static io.github.sessiond.client.internal.TransportTest.client;
import static io.github.sessiond.client.internal.TransportTest.failure;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import io.github.sessiond.client.Applied;
import io.github.sessiond.client.InvalidArgumentException;
import io.github.sessiond.client.OverloadedException;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.ResolveOptions;
import io.github.sessiond.client.ResolveResult;
import io.github.sessiond.client.SessionState;
import io.github.sessiond.client.SessiondAdmin;
import io.github.sessiond.client.SessiondClient;
import io.github.sessiond.client.SessiondException;
import io.github.sessiond.client.SessiondListener;
import io.github.sessiond.client.UnavailableException;
import io.github.sessiond.client.WriteOptions;
import io.github.sessiond.client.internal.pb.DescribeResponse;
import io.github.sessiond.client.internal.pb.Limits;
import io.github.sessiond.client.internal.pb.PipelineResponse;
import io.github.sessiond.client.internal.pb.Session;
import io.github.sessiond.client.internal.pb.WriteResponse;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.parallel.Execution;
import org.junit.jupiter.api.parallel.ExecutionMode;

/** What a broken server, a broken listener and a hasty caller must not do to a client. */
@Execution(ExecutionMode.CONCURRENT)
@Timeout(60)
class RobustnessTest {
    /** What no Duration of Java can hold. */
    private static final com.google.protobuf.Duration ENDLESS =
            com.google.protobuf.Duration.newBuilder().setSeconds(Long.MAX_VALUE).setNanos(Integer.MAX_VALUE).build();

    @Test
    void anAnswerThatCannotBeReadFailsItsOperationAndNothingElse() throws Exception {
        TestServer.Script script = (stream, request) -> {
            if (request.hasWrite()) {
                Session session = Session.newBuilder().setId("AAAAAAAAAAAAAAAA").setDuration(ENDLESS).build();
                stream.send(PipelineResponse.newBuilder().setSequence(request.getSequence()).setWrite(WriteResponse.newBuilder().setSession(session)).build());
            } else {
                stream.answer(request);
            }
        };
        try (TestServer server = TestServer.start(script); SessiondClient client = client(server)) {
            SessiondException error = failure(SessiondException.class, client.writeAsync(null, new WriteOptions().setJson("{\"a\":1}")));
            assertThat(error.reason()).isEqualTo(Reason.PROTOCOL_ERROR);
            assertThat(error.applied()).as("it was sent").isEqualTo(Applied.UNKNOWN);
            assertThat(client.resolve(SECRET).state()).isEqualTo(SessionState.ACTIVE);
        }
    }

    @Test
    void aPauseThatNobodyCanWaitForIsNotWaitedFor() throws Exception {
        com.google.rpc.Status.Builder endless = status(8, "OVERLOADED", "no", null).toBuilder();
        endless.addDetails(com.google.protobuf.Any.pack(com.google.rpc.RetryInfo.newBuilder().setRetryDelay(ENDLESS).build()));
        try (TestServer server = TestServer.start((stream, request) -> stream.fail(request, endless.build())); SessiondClient client = client(server)) {
            OverloadedException error = failure(OverloadedException.class, client.resolveAsync(SECRET, new ResolveOptions()));
            assertThat(error.reason()).isEqualTo(Reason.OVERLOADED);
            assertThat(error.retryAfter()).isLessThanOrEqualTo(Duration.ofDays(2));
        }
    }

    @Test
    void aDescriptionThatCannotBeReadIsAFaultAndTheNextOneIsTaken() throws Exception {
        try (TestServer server = TestServer.answering(); SessiondClient client = client(server)) {
            DescribeResponse right = server.described;
            server.described = right.toBuilder().setLimits(Limits.newBuilder().setMaxDuration(ENDLESS)).build();
            assertThat(failure(SessiondException.class, client.resolveAsync(SECRET, new ResolveOptions())).reason()).isEqualTo(Reason.PROTOCOL_ERROR);
            server.described = right;
            assertThat(client.resolve(SECRET).state()).isEqualTo(SessionState.ACTIVE);
        }
    }

    @Test
    void aServerThatEndsEachStreamIsNotAskedWithoutAPause() throws Exception {
        TestServer.Script script = (stream, request) -> stream.end(status(14, "SHUTTING_DOWN", "no", null));
        try (TestServer server = TestServer.start(script); SessiondClient client = client(server.address(), Duration.ofSeconds(2))) {
            // A cold Java takes long to connect.
            while (client.describeAsync().handle((description, failed) -> failed != null).get()) {
                Thread.onSpinWait();
            }
            failure(UnavailableException.class, client.writeAsync(null, new WriteOptions()));
            // At least 50, 100, 200, 400 and 500 ms lie between them.
            assertThat(server.seen).hasSizeBetween(1, 8);
        }
    }

    @Test
    void aListenerThatThrowsAnErrorHoldsNobodyUp() throws Exception {
        SessiondListener broken = new SessiondListener() {
            @Override
            public void finished(Operation operation) {
                throw new NoSuchMethodError("as a library of another version would");
            }
        };
        try (TestServer server = TestServer.answering(); SessiondClient client = SessiondClient.builder(server.address()).listener(broken).build()) {
            assertThat(client.resolveAsync(SECRET, new ResolveOptions()).get(20, TimeUnit.SECONDS).state()).isEqualTo(SessionState.ACTIVE);
        }
    }

    @Test
    void whatWasCancelledBeforeItWasSentIsNotSent() throws Exception {
        List<String> told = Collections.synchronizedList(new ArrayList<>());
        CountDownLatch both = new CountDownLatch(2);
        SessiondListener listener = new SessiondListener() {
            @Override
            public void finished(Operation operation) {
                told.add(operation.name() + " " + (operation.error() == null ? "ok" : operation.error().code()));
                both.countDown();
            }
        };
        try (TestServer server = TestServer.answering(); Relay relay = new Relay(1);
                SessiondClient client = SessiondClient.builder(relay.address()).timeout(Duration.ofSeconds(20)).listener(listener).build()) {
            CompletableFuture<?> write = client.writeAsync(null, new WriteOptions().setJson("{\"a\":1}"));
            CompletableFuture<ResolveResult> resolve = client.resolveAsync(SECRET, new ResolveOptions());
            write.cancel(false);
            relay.target = server.port();
            assertThat(resolve.get(20, TimeUnit.SECONDS).state()).isEqualTo(SessionState.ACTIVE);
            assertThat(server.seen).singleElement().satisfies(seen -> assertThat(seen.request().hasResolve()).isTrue());
            assertThat(both.await(20, TimeUnit.SECONDS)).isTrue();
            assertThat(told).containsExactlyInAnyOrder("write CANCELLED", "resolve ok");
        }
    }

    @Test
    void afterCloseTheThreadOfTheClientHasEnded() throws Exception {
        try (TestServer server = TestServer.answering()) {
            SessiondClient client = client(server);
            client.resolve(SECRET);
            assertThat(threads(server.address())).isEqualTo(1);
            client.close();
            assertThat(threads(server.address())).isZero();
            client.close();
            SessiondAdmin admin = SessiondClient.builder(server.address()).buildAdmin();
            catchThrowableOfType(SessiondException.class, () -> admin.listSessions("", "ann"));
            admin.close();
            assertThat(threads(server.address())).isZero();
        }
    }

    private static long threads(String address) {
        return Thread.getAllStackTraces().keySet().stream().filter(thread -> thread.getName().equals("sessiond-" + address)).count();
    }

    @Test
    void theClientOfTheAdminServiceChecksItsOptionsAndSaysWhatIsWrong() throws Exception {
        assertThatThrownBy(() -> SessiondClient.builder("127.0.0.1:1").timeout(Duration.ZERO).buildAdmin()).isInstanceOf(InvalidArgumentException.class).hasMessageContaining("timeout");
        assertThatThrownBy(() -> SessiondClient.builder("127.0.0.1:1").token("a\nb").buildAdmin()).isInstanceOf(InvalidArgumentException.class).hasMessageContaining("token");
        try (TestServer frontend = TestServer.answering()) {
            SessiondAdmin admin = SessiondClient.builder(frontend.address()).timeout(Duration.ofSeconds(20)).buildAdmin();
            SessiondException other = catchThrowableOfType(SessiondException.class, () -> admin.listSessions("", "ann"));
            assertThat(other.reason()).as("another service is there, and a repetition does not help").isEqualTo(Reason.PROTOCOL_ERROR);
            assertThat(other).hasMessageContaining("listen.admin");
            admin.close();
            assertThat(catchThrowableOfType(UnavailableException.class, () -> admin.listSessions("", "ann")).reason()).isEqualTo(Reason.CLOSED);
        }
    }

    @Test
    void whatAClientIsMadeOfTellsNoToken() {
        PipelineClient.Options options =
                new PipelineClient.Options("127.0.0.1:1", "secret-token", null, null, Duration.ofSeconds(1), 1, "", SessiondListener.NONE);
        assertThat(options.toString()).contains("127.0.0.1:1").doesNotContain("secret");
    }
}
