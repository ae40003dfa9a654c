package io.github.sessiond.client.internal;

import static io.github.sessiond.client.internal.TestServer.status;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import io.github.sessiond.client.Applied;
import io.github.sessiond.client.AuthenticationException;
import io.github.sessiond.client.Credential;
import io.github.sessiond.client.DataTooLargeException;
import io.github.sessiond.client.InvalidArgumentException;
import io.github.sessiond.client.OverloadedException;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.ResolveOptions;
import io.github.sessiond.client.ResolveResult;
import io.github.sessiond.client.SessionState;
import io.github.sessiond.client.SessiondClient;
import io.github.sessiond.client.SessiondClientBuilder;
import io.github.sessiond.client.SessiondException;
import io.github.sessiond.client.SessiondListener;
import io.github.sessiond.client.TlsOptions;
import io.github.sessiond.client.TouchOptions;
import io.github.sessiond.client.UnavailableException;
import io.github.sessiond.client.VersionMismatchException;
import io.github.sessiond.client.WriteOptions;
import io.github.sessiond.client.WriteResult;
import io.github.sessiond.client.internal.pb.PipelineRequest;
import io.github.sessiond.client.internal.pb.PipelineResponse;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.api.parallel.Execution;
import org.junit.jupiter.api.parallel.ExecutionMode;

/** Bad luck on the way to the daemon: nothing hangs, nothing is done twice, and every error says what happened. */
@Execution(ExecutionMode.CONCURRENT)
@Timeout(60)
class TransportTest {
    static final Credential SECRET = Credential.token("secret-token");

    static SessiondClient client(String address, Duration timeout) {
        return SessiondClient.builder(address).timeout(timeout).build();
    }

    static SessiondClient client(TestServer server) {
        return client(server.address(), Duration.ofSeconds(10));
    }

    /** The exception of a future; it tells no secret. */
    static <T extends SessiondException> T failure(Class<T> type, CompletableFuture<?> future) throws Exception {
        try {
            Object result = future.get(30, TimeUnit.SECONDS);
            throw new AssertionError("expected a " + type.getSimpleName() + ", got " + result);
        } catch (ExecutionException failed) {
            assertThat(failed.getCause()).isInstanceOf(type);
            assertThat(failed.getCause().toString() + failed.getCause().getCause()).doesNotContain("secret");
            return type.cast(failed.getCause());
        }
    }

    /** Nobody listens there, and nobody is given this port by chance. */
    private static final int DEAD_PORT = 1;

    @Test
    void refusesAddressesAndOptionsThatCannotBeMeant() {
        for (String address : List.of("", "localhost", "http://localhost:1", "localhost:0", "localhost:65536", "unix:", "a b:1", "::1:5")) {
            InvalidArgumentException refused = catchThrowableOfType(InvalidArgumentException.class, () -> SessiondClient.create(address));
            assertThat(refused).as(address).isNotNull();
            assertThat(refused.field()).isEqualTo("address");
        }
        SessiondClientBuilder builder = SessiondClient.builder("127.0.0.1:1");
        assertThatThrownBy(() -> builder.timeout(Duration.ZERO).build()).hasMessageContaining("timeout");
        assertThatThrownBy(() -> SessiondClient.builder("127.0.0.1:1").maxInFlight(0).build()).hasMessageContaining("maxInFlight");
        assertThatThrownBy(() -> SessiondClient.builder("127.0.0.1:1").token("a\nb").build()).hasMessageContaining("token").hasMessageNotContaining("a\nb");
        assertThatThrownBy(() -> SessiondClient.builder("127.0.0.1:1").token("a").tokenFile(Path.of("b")).build()).hasMessageContaining("tokenFile");
        assertThatThrownBy(() -> SessiondClient.builder("unix:/a").tls(TlsOptions.DEFAULT).build()).hasMessageContaining("tls");
        for (String address : List.of("[::1]:5", "unix:/a/b", "host.example:443")) {
            SessiondClient.create(address).close();
        }
    }

    @Test
    void withoutADaemonAnOperationWaitsForItsTimeAndThenSaysWhy() throws Exception {
        try (SessiondClient client = client("127.0.0.1:" + DEAD_PORT, Duration.ofSeconds(10))) {
            long started = System.nanoTime();
            List<CompletableFuture<?>> all = List.of(
                    client.resolveAsync(SECRET, new ResolveOptions()),
                    client.writeAsync(null, new WriteOptions().setJson("{\"secret\":1}")),
                    client.listSessionsAsync(SECRET, null),
                    client.describeAsync());
            for (CompletableFuture<?> one : all) {
                UnavailableException error = failure(UnavailableException.class, one);
                assertThat(error.reason()).isEqualTo(Reason.CONNECTION_FAILED);
                assertThat(error.applied()).isEqualTo(Applied.NO);
                assertThat(error.retryable()).isTrue();
                assertThat(error.httpStatus()).isEqualTo(503);
                assertThat(error).hasMessageContaining("refused");
            }
            assertThat(Duration.ofNanos(System.nanoTime() - started)).isGreaterThan(Duration.ofMillis(9990));
        }
        try (SessiondClient unix = client("unix:/nonexistent/sock", Duration.ofSeconds(10))) {
            assertThat(failure(UnavailableException.class, unix.resolveAsync(SECRET, new ResolveOptions())).reason()).isEqualTo(Reason.CONNECTION_FAILED);
        }
    }

    @Test
    void anOperationWaitsForADaemonThatComesLate() throws Exception {
        try (TestServer server = TestServer.answering(); Relay relay = new Relay(DEAD_PORT)) {
            CountDownLatch failed = new CountDownLatch(1);
            try (SessiondClient client = SessiondClient.builder(relay.address()).timeout(Duration.ofSeconds(20)).listener(new SessiondListener() {
                @Override
                public void connectFailed(String address, SessiondException error) {
                    failed.countDown();
                }
            }).build()) {
                CompletableFuture<ResolveResult> waiting = client.resolveAsync(SECRET, new ResolveOptions());
                assertThat(failed.await(20, TimeUnit.SECONDS)).as("expected an attempt to fail").isTrue();
                relay.target = server.port();
                assertThat(waiting.get().state()).isEqualTo(SessionState.ACTIVE);
            }
        }
    }

    @Test
    void anOldDaemonIsToldClearlyAndAtOnce() throws Exception {
        try (TestServer server = TestServer.answering(); SessiondClient client = client(server)) {
            server.refuse = headers -> Status.UNIMPLEMENTED.asRuntimeException();
            SessiondException error = failure(SessiondException.class, client.resolveAsync(SECRET, new ResolveOptions()));
            assertThat(error.reason()).isEqualTo(Reason.DAEMON_TOO_OLD);
            assertThat(error.applied()).isEqualTo(Applied.NO);
            assertThat(error).hasMessageMatching(".* does not know Describe: it is older than this client \\(\\d+\\.\\d+\\.\\d+\\), or this is an address of listen.admin; update the daemon, or use an address of listen.grpc");
        }
    }

    @Test
    void aServerThatIsNoDaemonIsTold() throws Exception {
        try (ServerSocket web = new ServerSocket(0, 50, InetAddress.getLoopbackAddress())) {
            Thread thread = new Thread(() -> {
                try {
                    while (true) {
                        var socket = web.accept();
                        socket.getInputStream().read();
                        socket.getOutputStream().write("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".getBytes());
                        socket.getOutputStream().flush();
                    }
                } catch (java.io.IOException closed) {
                    // The test is over.
                }
            });
            thread.setDaemon(true);
            thread.start();
            try (SessiondClient client = client("127.0.0.1:" + web.getLocalPort(), Duration.ofSeconds(6))) {
                assertThat(failure(SessiondException.class, client.resolveAsync(SECRET, new ResolveOptions())).applied()).isEqualTo(Applied.NO);
            }
        }
    }

    @Test
    void tlsTowardsAServerWithoutItIsTold() throws Exception {
        try (TestServer plain = TestServer.answering()) {
            UnavailableException error = null;
            // A cold Java on a busy machine may not come to the end of a first attempt within 6 s.
            for (int seconds = 6; seconds <= 24 && (error == null || error.reason() == Reason.TIMEOUT); seconds += 18) {
                try (SessiondClient client = SessiondClient.builder(plain.address()).timeout(Duration.ofSeconds(seconds)).tls(TlsOptions.DEFAULT).build()) {
                    error = failure(UnavailableException.class, client.resolveAsync(SECRET, new ResolveOptions()));
                }
            }
            assertThat(error.reason()).isEqualTo(Reason.CONNECTION_FAILED);
            assertThat(error.applied()).isEqualTo(Applied.NO);
        }
    }

    @Test
    void answersMayComeInAnyOrder() throws Exception {
        List<PipelineRequest> held = new ArrayList<>();
        TestServer.Script script = (stream, request) -> {
            held.add(request);
            if (held.size() == 20) {
                Collections.reverse(held);
                held.forEach(stream::answer);
            }
        };
        try (TestServer server = TestServer.start(script); SessiondClient client = client(server)) {
            List<CompletableFuture<io.github.sessiond.client.DestroyResult>> all =
                    IntStream.range(0, 20).mapToObj(i -> client.destroyAsync(SECRET, new io.github.sessiond.client.DestroyOptions())).toList();
            for (int i = 0; i < 20; i++) {
                assertThat(all.get(i).get().destroyed()).isEqualTo(i + 1);
            }
        }
    }

    @Test
    void afterACutWhatIsSafeIsRepeatedAndOfTheRestTheOutcomeIsUnknown() throws Exception {
        try (TestServer server = TestServer.answering(); Relay relay = new Relay(server.port());
                SessiondClient client = client(relay.address(), Duration.ofSeconds(20))) {
            client.describe();
            CountDownLatch came = new CountDownLatch(5);
            server.script = (stream, request) -> {
                if (stream.number() > 1) {
                    stream.answer(request);
                    return;
                }
                came.countDown();
                if (came.getCount() == 0) {
                    // In the middle of the frame of an answer.
                    relay.cutAfter(7);
                    stream.answer(request);
                }
            };
            CompletableFuture<ResolveResult> resolve = client.resolveAsync(SECRET, new ResolveOptions());
            CompletableFuture<?> touch = client.touchAsync(SECRET, new TouchOptions());
            CompletableFuture<WriteResult> checked = client.writeAsync(SECRET, new WriteOptions().setJson("{\"a\":1}").ifVersion(3));
            CompletableFuture<WriteResult> write = client.writeAsync(null, new WriteOptions().setJson("{\"secret\":1}"));
            CompletableFuture<ResolveResult> create = client.resolveAsync(SECRET, new ResolveOptions().create(true));
            for (CompletableFuture<?> unsafe : List.of(write, create)) {
                UnavailableException error = failure(UnavailableException.class, unsafe);
                assertThat(error.reason()).isEqualTo(Reason.CONNECTION_FAILED);
                assertThat(error.applied()).isEqualTo(Applied.UNKNOWN);
                assertThat(error.retryable()).isFalse();
            }
            assertThat(resolve.get().state()).isEqualTo(SessionState.ACTIVE);
            touch.get();
            assertThat(checked.get().token()).isEqualTo("new");
            assertThat(server.seen.stream().filter(seen -> seen.stream() == 2).map(seen -> seen.request().getSequence())).containsExactly(2L, 3L, 4L);
        }
    }

    @Test
    void versionMismatchAndSessionGoneOfARepetitionMeanThatNobodyKnows() throws Exception {
        for (var status : List.of(status(10, "VERSION_MISMATCH", "no", null), status(5, "SESSION_GONE", "no", null))) {
            try (TestServer server = TestServer.answering(); Relay relay = new Relay(server.port());
                    SessiondClient client = client(relay.address(), Duration.ofSeconds(20))) {
                server.script = (stream, request) -> {
                    if (stream.number() == 1) {
                        relay.cutAfter(0);
                    } else {
                        stream.fail(request, status);
                    }
                };
                SessiondException repeated = failure(SessiondException.class, client.writeAsync(SECRET, new WriteOptions().ifVersion(3)));
                assertThat(repeated.applied()).isEqualTo(Applied.UNKNOWN);
                assertThat(repeated.retryable()).isFalse();
                assertThat(failure(SessiondException.class, client.writeAsync(SECRET, new WriteOptions().ifVersion(3))).applied()).isEqualTo(Applied.NO);
            }
        }
    }

    @Test
    void afterShuttingDownEverythingWithoutAnAnswerIsRepeatedInOrder() throws Exception {
        TestServer.Script script = (stream, request) -> {
            if (stream.number() > 1 || request.getSequence() == 1) {
                stream.answer(request);
            } else if (request.getSequence() == 4) {
                stream.end(status(14, "SHUTTING_DOWN", "no", null));
            }
        };
        try (TestServer server = TestServer.start(script); SessiondClient client = client(server)) {
            List<CompletableFuture<?>> all = List.of(
                    client.resolveAsync(SECRET, new ResolveOptions()),
                    client.writeAsync(null, new WriteOptions()),
                    client.resolveAsync(SECRET, new ResolveOptions().create(true)),
                    client.writeAsync(SECRET, new WriteOptions().setJson("{\"a\":1}")));
            for (CompletableFuture<?> one : all) {
                one.get(20, TimeUnit.SECONDS);
            }
            assertThat(server.seen.stream().filter(seen -> seen.stream() == 2).map(seen -> seen.request().getSequence())).containsExactly(2L, 3L, 4L);
        }
    }

    @Test
    void afterGoAwayNewOperationsTakeANewConnectionAndOldOnesAreAnsweredOnTheOldOne() throws Exception {
        BlockingQueue<Runnable> held = new LinkedBlockingQueue<>();
        TestServer.Script holds = (stream, request) -> held.add(() -> stream.answer(request));
        try (TestServer old = TestServer.start(holds); TestServer fresh = TestServer.answering(); Relay relay = new Relay(old.port());
                SessiondClient client = client(relay.address(), Duration.ofSeconds(20))) {
            CompletableFuture<WriteResult> slow = client.writeAsync(null, new WriteOptions().setJson("{\"a\":1}"));
            Runnable answer = held.poll(20, TimeUnit.SECONDS);
            assertThat(answer).as("expected the first operation").isNotNull();
            relay.target = fresh.port();
            old.goAway();
            // Until GOAWAY has arrived, operations go to the old one.
            boolean moved = false;
            while (!moved) {
                CompletableFuture<ResolveResult> one = client.resolveAsync(SECRET, new ResolveOptions());
                while (!one.isDone()) {
                    Runnable late = held.poll(20, TimeUnit.MILLISECONDS);
                    if (late != null) {
                        late.run();
                    }
                }
                one.get();
                moved = !fresh.seen.isEmpty();
            }
            answer.run();
            assertThat(slow.get(20, TimeUnit.SECONDS).token()).isEqualTo("new");
            assertThat(fresh.seen.stream().filter(seen -> seen.request().hasWrite())).as("not sent twice").isEmpty();
        }
    }

    @Test
    void overloadedAndStoreUnavailableAreRepeatedAfterTheRetryInfoWhereThatIsSafe() throws Exception {
        ArrayDeque<com.google.rpc.Status> errors = new ArrayDeque<>();
        TestServer.Script script = (stream, request) -> {
            com.google.rpc.Status error = errors.poll();
            if (error == null) {
                stream.answer(request);
            } else {
                stream.fail(request, error);
            }
        };
        var overloaded = status(8, "OVERLOADED", "no", Duration.ofMillis(20));
        var unavailable = status(14, "STORE_UNAVAILABLE", "unknown", Duration.ofMillis(20));
        try (TestServer server = TestServer.start(script); SessiondClient client = client(server)) {
            errors.addAll(List.of(overloaded, overloaded));
            client.write(null, new WriteOptions());
            errors.add(unavailable);
            client.resolve(SECRET);
            assertThat(server.seen).hasSize(5);
            errors.addAll(List.of(overloaded, overloaded, overloaded));
            OverloadedException refused = failure(OverloadedException.class, client.writeAsync(null, new WriteOptions()));
            assertThat(refused.retryAfter()).isEqualTo(Duration.ofMillis(20));
            assertThat(refused.applied()).isEqualTo(Applied.NO);
            errors.add(unavailable);
            assertThat(failure(UnavailableException.class, client.writeAsync(null, new WriteOptions())).reason()).isEqualTo(Reason.STORE_UNAVAILABLE);
            errors.add(status(8, "OVERLOADED", "no", Duration.ofMinutes(1)));
            failure(OverloadedException.class, client.resolveAsync(SECRET, new ResolveOptions()));
            errors.addAll(List.of(unavailable, status(10, "VERSION_MISMATCH", "no", null)));
            assertThat(failure(VersionMismatchException.class, client.writeAsync(SECRET, new WriteOptions().ifVersion(1))).applied()).isEqualTo(Applied.UNKNOWN);
        }
    }

    @Test
    void aSilentDaemonCostsTheTimeAndALateAnswerIsDropped() throws Exception {
        BlockingQueue<Runnable> held = new LinkedBlockingQueue<>();
        try (TestServer server = TestServer.start((stream, request) -> held.add(() -> stream.answer(request)));
                SessiondClient client = client(server.address(), Duration.ofMillis(400))) {
            // A cold Java takes longer than that to connect.
            while (client.describeAsync().handle((description, failed) -> failed != null).get()) {
                Thread.onSpinWait();
            }
            // On a busy machine its time may be over before it is sent.
            UnavailableException error;
            do {
                error = failure(UnavailableException.class, client.writeAsync(null, new WriteOptions()));
            } while (error.applied() == Applied.NO);
            assertThat(error.reason()).isEqualTo(Reason.TIMEOUT);
            assertThat(error.applied()).isEqualTo(Applied.UNKNOWN);
            held.take().run();
            server.script = TestServer.Stream::answer;
            while (client.resolveAsync(SECRET, new ResolveOptions()).handle((result, failed) -> failed != null).get()) {
                Thread.onSpinWait();
            }
            long timeout = server.seen.get(0).request().getTimeout().getNanos();
            assertThat(timeout).as("the daemon is told how long it may take").isBetween(1L, 400_000_000L);
        }
    }

    @Test
    void operationsUnderWayAreBounded() throws Exception {
        BlockingQueue<Runnable> held = new LinkedBlockingQueue<>();
        try (TestServer server = TestServer.start((stream, request) -> held.add(() -> stream.answer(request)));
                SessiondClient client = SessiondClient.builder(server.address()).maxInFlight(3).build()) {
            List<CompletableFuture<ResolveResult>> three = IntStream.range(0, 3).mapToObj(i -> client.resolveAsync(SECRET, new ResolveOptions())).toList();
            OverloadedException error = failure(OverloadedException.class, client.resolveAsync(SECRET, new ResolveOptions()));
            assertThat(error.reason()).isEqualTo(Reason.IN_FLIGHT_LIMIT);
            assertThat(error.applied()).isEqualTo(Applied.NO);
            for (int i = 0; i < 3; i++) {
                held.take().run();
            }
            for (CompletableFuture<ResolveResult> one : three) {
                one.get();
            }
            CompletableFuture<ResolveResult> again = client.resolveAsync(SECRET, new ResolveOptions());
            held.take().run();
            assertThat(again.get().state()).isEqualTo(SessionState.ACTIVE);
        }
    }

    @Test
    void aTokenFileIsReadAgainWhenTheTokenIsRefused(@TempDir Path folder) throws Exception {
        Path file = Files.writeString(folder.resolve("token"), "old\n");
        try (TestServer server = TestServer.answering();
                SessiondClient client = SessiondClient.builder(server.address()).tokenFile(file).timeout(Duration.ofSeconds(10)).build();
                SessiondClient wrong = SessiondClient.builder(server.address()).token("secret").build()) {
            server.refuse = headers -> {
                String token = headers.get(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER));
                if ("Bearer old".equals(token)) {
                    try {
                        Files.writeString(file, "new\n");
                    } catch (java.io.IOException failed) {
                        throw new java.io.UncheckedIOException(failed);
                    }
                }
                return "Bearer new".equals(token) ? null : StatusProto.toStatusRuntimeException(status(16, "TOKEN_UNKNOWN", "no", null));
            };
            assertThat(client.resolve(SECRET).state()).isEqualTo(SessionState.ACTIVE);
            AuthenticationException error = failure(AuthenticationException.class, wrong.resolveAsync(SECRET, new ResolveOptions()));
            assertThat(error.reason()).isEqualTo(Reason.TOKEN_UNKNOWN);
        }
        try (TestServer server = TestServer.answering();
                SessiondClient frontend = SessiondClient.builder(server.address()).token("of-a-frontend").build()) {
            server.refuse = headers -> StatusProto.toStatusRuntimeException(status(7, "ROLE_REQUIRED", "no", null));
            AuthenticationException error = failure(AuthenticationException.class, frontend.resolveAsync(SECRET, new ResolveOptions()));
            assertThat(error.reason()).isEqualTo(Reason.ROLE_REQUIRED);
            assertThat(error.code()).isEqualTo("PERMISSION_DENIED");
            assertThat(error.retryable()).isFalse();
        }
        try (SessiondClient missing = SessiondClient.builder("127.0.0.1:" + DEAD_PORT).tokenFile(folder.resolve("none")).build()) {
            assertThat(failure(AuthenticationException.class, missing.resolveAsync(SECRET, new ResolveOptions()))).hasMessageContaining("token file");
        }
    }

    @Test
    void whatIsTooLargeIsNotSent() throws Exception {
        try (TestServer server = TestServer.answering(); SessiondClient client = client(server)) {
            String large = "{\"a\":\"" + "x".repeat(70_000) + "\"}";
            assertThat(failure(DataTooLargeException.class, client.writeAsync(null, new WriteOptions().setJson(large))).reason()).isEqualTo(Reason.DATA_TOO_LARGE);
            byte[] header = new byte[2 << 20];
            assertThat(failure(DataTooLargeException.class, client.resolveAsync(Credential.cookieHeader(header), new ResolveOptions())).reason())
                    .isEqualTo(Reason.MESSAGE_TOO_LARGE);
            assertThat(server.seen).isEmpty();
        }
    }

    @Test
    void anAnswerToNoOperationEndsTheConnectionAndNothingElse() throws Exception {
        TestServer.Script script = (stream, request) -> {
            if (stream.number() == 1) {
                stream.send(PipelineResponse.newBuilder().setSequence(77).build());
            } else {
                stream.answer(request);
            }
        };
        try (TestServer server = TestServer.start(script); SessiondClient client = client(server)) {
            assertThat(client.resolve(SECRET).state()).as("repeated on another connection").isEqualTo(SessionState.ACTIVE);
        }
    }

    @Test
    void anAnswerOfAnotherKindIsAFault() throws Exception {
        TestServer.Script script = (stream, request) -> stream.send(PipelineResponse.newBuilder().setSequence(request.getSequence()).build());
        try (TestServer server = TestServer.start(script); SessiondClient client = client(server)) {
            assertThat(failure(SessiondException.class, client.resolveAsync(SECRET, new ResolveOptions())).reason()).isEqualTo(Reason.PROTOCOL_ERROR);
        }
    }

    @Test
    void closeWaitsForWhatIsUnderWayAndTakesNothingNew() throws Exception {
        BlockingQueue<Runnable> held = new LinkedBlockingQueue<>();
        try (TestServer server = TestServer.start((stream, request) -> held.add(() -> stream.answer(request)))) {
            SessiondClient client = client(server);
            CompletableFuture<ResolveResult> first = client.resolveAsync(SECRET, new ResolveOptions());
            Runnable answer = held.take();
            CompletableFuture<Void> closing = CompletableFuture.runAsync(client::close);
            while (!client.resolveAsync(SECRET, new ResolveOptions()).isCompletedExceptionally()) {
                held.take().run();
            }
            answer.run();
            while (!held.isEmpty()) {
                held.take().run();
            }
            assertThat(first.get(20, TimeUnit.SECONDS).state()).isEqualTo(SessionState.ACTIVE);
            closing.get(20, TimeUnit.SECONDS);
            assertThat(failure(UnavailableException.class, client.describeAsync()).reason()).isEqualTo(Reason.CLOSED);

            SessiondClient impatient = client(server);
            CompletableFuture<ResolveResult> never = impatient.resolveAsync(SECRET, new ResolveOptions());
            held.take();
            impatient.close(Duration.ofMillis(50));
            assertThat(failure(UnavailableException.class, never).applied()).isEqualTo(Applied.UNKNOWN);
        }
    }

    @Test
    void aBlockingCallOnTheClientsOwnThreadIsRefused() throws Exception {
        try (TestServer server = TestServer.answering(); SessiondClient client = client(server)) {
            CompletableFuture<ResolveResult> nested = new CompletableFuture<>();
            BlockingQueue<Runnable> held = new LinkedBlockingQueue<>();
            server.script = (stream, request) -> held.add(() -> stream.answer(request));
            client.resolveAsync(SECRET, new ResolveOptions()).thenRun(() -> {
                try {
                    nested.complete(client.resolve(SECRET));
                } catch (IllegalStateException refused) {
                    nested.completeExceptionally(refused);
                }
            });
            held.take().run();
            assertThatThrownBy(() -> nested.get(20, TimeUnit.SECONDS)).hasMessageContaining("thenApplyAsync");
        }
    }

    @Test
    void theListenerIsTold() throws Exception {
        BlockingQueue<String> told = new LinkedBlockingQueue<>();
        SessiondListener listener = new SessiondListener() {
            @Override
            public void connected(String address, String version) {
                told.add("connected " + version);
            }

            @Override
            public void finished(Operation operation) {
                told.add(operation.name() + " " + (operation.error() == null ? "ok" : operation.error().reason()));
            }

            @Override
            public void disconnected(String address, Reason reason, int unanswered) {
                told.add("disconnected");
                throw new IllegalStateException("a listener that throws harms nothing");
            }
        };
        try (TestServer server = TestServer.answering()) {
            SessiondClient client = SessiondClient.builder(server.address()).listener(listener).build();
            client.resolve(SECRET);
            client.listSessions(SECRET);
            client.close();
            assertThat(IntStream.range(0, 4).mapToObj(i -> take(told))).containsExactly("connected 0.1.0", "resolve ok", "list ok", "disconnected");
        }
    }

    private static String take(BlockingQueue<String> queue) {
        try {
            return queue.poll(20, TimeUnit.SECONDS);
        } catch (InterruptedException interrupted) {
            throw new CompletionException(interrupted);
        }
    }
}
