package io.github.sessiond.testing;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import io.github.sessiond.client.Applied;
import io.github.sessiond.client.AuthenticationException;
import io.github.sessiond.client.Credential;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.RequestSession;
import io.github.sessiond.client.ResolveOptions;
import io.github.sessiond.client.ResolveResult;
import io.github.sessiond.client.SessionState;
import io.github.sessiond.client.SessiondAdmin;
import io.github.sessiond.client.SessiondClient;
import io.github.sessiond.client.SessiondClientBuilder;
import io.github.sessiond.client.TlsOptions;
import io.github.sessiond.client.UnavailableException;
import io.github.sessiond.client.WriteOptions;
import io.github.sessiond.client.WriteResult;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.condition.EnabledIf;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.api.parallel.Execution;
import org.junit.jupiter.api.parallel.ExecutionMode;

/** The client with a real daemon that restarts, stands still, asks for a token or speaks TLS. */
@EnabledIf(value = "io.github.sessiond.testing.DaemonProcess#exists", disabledReason = "no daemon: set SESSIOND_BIN")
@Execution(ExecutionMode.CONCURRENT)
@Timeout(120)
class DaemonClientTest {
    @TempDir
    Path folder;

    private static SessiondClient client(String address) {
        return client(address, Duration.ofSeconds(60));
    }

    /** A client that is connected: on a busy machine, a cold Java takes longer for that than a short timeout. */
    private static SessiondClient client(String address, Duration timeout) {
        SessiondClient client = SessiondClient.builder(address).timeout(timeout).build();
        while (client.describeAsync().handle((description, failed) -> failed != null).join()) {
            Thread.onSpinWait();
        }
        return client;
    }

    private static Path secret(Path file, String text) throws Exception {
        Files.writeString(file, text + "\n");
        return Files.setPosixFilePermissions(file, PosixFilePermissions.fromString("rw-------"));
    }

    @Test
    void overAUnixSocket() {
        Path socket = folder.resolve("a.sock");
        try (DaemonProcess daemon = DaemonProcess.launch("127.0.0.1:0,unix:" + socket);
                SessiondClient client = client("unix:" + socket)) {
            String token = client.write(null, new WriteOptions().setJson("{\"a\":1}")).token();
            assertThat(client.resolve(Credential.token(token)).session().json()).isEqualTo("{\"a\":1}");
        }
    }

    @Test
    void aRestartIsNotSeenAndNobodyIsLoggedOut() throws Exception {
        // A secret that outlives the daemon: --dev makes one for each start.
        String[] settings = {
            "engine.default.cookie.secret_file=" + secret(folder.resolve("secret"), "a secret of at least thirty-two bytes"),
            "store.backend=sled",
            "store.sled.path=" + folder.resolve("store"),
            "store.sled.min_free_bytes=none"
        };
        int port = DaemonProcess.ownPort();
        DaemonProcess daemon = DaemonProcess.start(port, settings);
        try (SessiondClient client = client(daemon.address())) {
            String token = client.write(null, new WriteOptions().setJson("{\"n\":0}").principal("ann")).token();
            byte[] header = ("session=" + token).getBytes(StandardCharsets.ISO_8859_1);
            AtomicBoolean running = new AtomicBoolean(true);
            AtomicInteger updates = new AtomicInteger();
            ConcurrentLinkedQueue<Throwable> errors = new ConcurrentLinkedQueue<>();
            List<CompletableFuture<Void>> workers = IntStream.range(0, 3).mapToObj(i -> CompletableFuture.runAsync(() -> {
                while (running.get() && errors.isEmpty()) {
                    try {
                        RequestSession session = new RequestSession(client, header);
                        assertThat(session.principal()).isEqualTo("ann");
                        session.update(data -> {
                            data.set("n", data.get("n", Integer.class) + 1);
                            return null;
                        });
                        updates.incrementAndGet();
                    } catch (Throwable error) {
                        errors.add(error);
                    }
                }
            }, task -> new Thread(task).start())).toList();
            for (int round = 0; round < 2; round++) {
                awaitMore(updates, errors);
                daemon.close();
                daemon = DaemonProcess.start(port, settings);
            }
            awaitMore(updates, errors);
            running.set(false);
            for (CompletableFuture<Void> worker : workers) {
                worker.get(60, TimeUnit.SECONDS);
            }
            assertThat(errors).isEmpty();
            assertThat(client.resolve(Credential.token(token)).session().json()).isEqualTo("{\"n\":" + updates + "}");
        } finally {
            daemon.close();
        }
    }

    private static void awaitMore(AtomicInteger updates, ConcurrentLinkedQueue<Throwable> errors) {
        int target = updates.get() + 20;
        while (updates.get() < target && errors.isEmpty()) {
            Thread.onSpinWait();
            Thread.yield();
        }
    }

    @Test
    void aDaemonThatWasKilledIsToldAndWhenItIsBackAllGoesOnWithinASecond() throws Exception {
        int port = DaemonProcess.ownPort();
        DaemonProcess daemon = DaemonProcess.start(port);
        try (SessiondClient client = client(daemon.address(), Duration.ofSeconds(3))) {
            client.write(null, new WriteOptions());
            daemon.kill();
            List<CompletableFuture<?>> away = new ArrayList<>();
            for (int i = 0; i < 50; i++) {
                away.add(i % 2 == 0 ? client.writeAsync(null, new WriteOptions()) : client.resolveAsync(Credential.token("x"), new ResolveOptions()));
            }
            for (CompletableFuture<?> one : away) {
                assertThat(failure(one).reason()).isEqualTo(Reason.CONNECTION_FAILED);
            }
            daemon = DaemonProcess.start(port);
            long started = System.nanoTime();
            while (client.writeAsync(null, new WriteOptions()).handle((result, failed) -> failed != null).get()) {
                assertThat(Duration.ofNanos(System.nanoTime() - started)).as("expected it to go on").isLessThan(Duration.ofSeconds(10));
            }
        } finally {
            daemon.close();
        }
    }

    private static UnavailableException failure(CompletableFuture<?> future) throws Exception {
        try {
            throw new AssertionError("expected an UnavailableException, got " + future.get(60, TimeUnit.SECONDS));
        } catch (ExecutionException failed) {
            assertThat(failed.getCause()).isInstanceOf(UnavailableException.class);
            return (UnavailableException) failed.getCause();
        }
    }

    @Test
    void aDaemonThatStandsStillCostsTheTimeAndWhenItGoesOnSoDoWe() throws Exception {
        try (DaemonProcess daemon = DaemonProcess.start(0); SessiondClient client = client(daemon.address(), Duration.ofSeconds(4))) {
            Credential token = Credential.token(client.write(null, new WriteOptions().setJson("{\"n\":1}")).token());
            daemon.pause();
            CompletableFuture<ResolveResult> resolve = client.resolveAsync(token, new ResolveOptions());
            CompletableFuture<WriteResult> write = client.writeAsync(token, new WriteOptions().setJson("{\"n\":2}"));
            CompletableFuture<?> list = client.listSessionsAsync(token, null);
            for (CompletableFuture<?> one : List.of(resolve, write, list)) {
                assertThat(failure(one).reason()).isIn(Reason.TIMEOUT, Reason.CONNECTION_FAILED);
            }
            assertThat(failure(write).applied()).isEqualTo(Applied.UNKNOWN);
            daemon.resume();
            long started = System.nanoTime();
            while (client.resolveAsync(token, new ResolveOptions()).handle((result, failed) -> failed != null).get()) {
                assertThat(Duration.ofNanos(System.nanoTime() - started)).as("expected it to go on").isLessThan(Duration.ofSeconds(20));
            }
        }
    }

    @Test
    void aTokenThatIsMissingOrWrongIsToldAtOnceAndATokenFileIsReadAgain() throws Exception {
        Path tokens = secret(folder.resolve("tokens"), "the-secret-token-of-the-shop");
        try (DaemonProcess daemon = DaemonProcess.start(0, "listen.auth.token_file=" + tokens)) {
            SessiondClientBuilder builder = SessiondClient.builder(daemon.address()).timeout(Duration.ofSeconds(60));
            try (SessiondClient none = builder.build(); SessiondClient wrong = builder.token("another-secret-token").build()) {
                refused(none, Reason.TOKEN_REQUIRED);
                refused(wrong, Reason.TOKEN_UNKNOWN);
            }
            Path file = folder.resolve("token");
            try (SessiondClient reading = SessiondClient.builder(daemon.address()).tokenFile(file).timeout(Duration.ofSeconds(60)).build()) {
                refused(reading, Reason.TOKEN_UNKNOWN);
                Files.writeString(file, "an-old-secret-token\n");
                refused(reading, Reason.TOKEN_UNKNOWN);
                Files.writeString(file, "the-secret-token-of-the-shop\n");
                assertThat(reading.resolve(null).state()).isEqualTo(SessionState.NONE);
                assertThat(reading.listSessions(null).state()).isEqualTo(SessionState.NONE);
            }
        }
    }

    private static void refused(SessiondClient client, Reason reason) {
        long started = System.nanoTime();
        AuthenticationException error = catchThrowableOfType(AuthenticationException.class, () -> client.resolve(null));
        assertThat(error).isNotNull();
        assertThat(error.reason()).isEqualTo(reason);
        assertThat(error.applied()).isEqualTo(Applied.NO);
        assertThat(error.getMessage()).doesNotContain("secret-token");
        assertThat(Duration.ofNanos(System.nanoTime() - started)).as("at once, not after the timeout").isLessThan(Duration.ofSeconds(45));
    }

    @Test
    void tlsWithTheAuthorityWorksAndEveryMismatchIsTold() throws Exception {
        Path ca = certificate("ca", null, null);
        Path server = certificate("server", "ca", "subjectAltName=DNS:localhost");
        Path own = certificate("client", "ca", "extendedKeyUsage=clientAuth");
        String[] tls = {"listen.tls.cert_file=" + server, "listen.tls.key_file=" + folder.resolve("server.key")};
        String[] asks = {tls[0], tls[1], "listen.tls.client_ca_file=" + ca};
        TlsOptions trusted = new TlsOptions(ca, null, null, "localhost");
        try (DaemonProcess daemon = DaemonProcess.start(0, tls); DaemonProcess mutual = DaemonProcess.start(0, asks); DaemonProcess plain = DaemonProcess.start(0)) {
            assertThat(resolve(daemon, trusted, 60).state()).isEqualTo(SessionState.NONE);
            TlsOptions both = new TlsOptions(ca, own, folder.resolve("client.key"), "localhost");
            assertThat(resolve(mutual, both, 60).state()).isEqualTo(SessionState.NONE);
            List<CompletableFuture<Void>> all = List.of(
                    CompletableFuture.runAsync(() -> told(daemon, TlsOptions.DEFAULT)),
                    CompletableFuture.runAsync(() -> told(daemon, new TlsOptions(ca, null, null, "other.example"))),
                    CompletableFuture.runAsync(() -> told(daemon, null)),
                    CompletableFuture.runAsync(() -> told(plain, trusted)),
                    CompletableFuture.runAsync(() -> told(mutual, trusted)));
            for (CompletableFuture<Void> one : all) {
                one.get(100, TimeUnit.SECONDS);
            }
        }
    }

    private static void told(DaemonProcess daemon, TlsOptions tls) {
        UnavailableException error = catchThrowableOfType(UnavailableException.class, () -> resolve(daemon, tls, 10));
        assertThat(error).as("expected no connection with %s", tls).isNotNull();
        assertThat(error.reason()).isEqualTo(Reason.CONNECTION_FAILED);
        assertThat(error).hasMessageContaining(daemon.address());
    }

    private static ResolveResult resolve(DaemonProcess daemon, TlsOptions tls, int seconds) {
        try (SessiondClient client = SessiondClient.builder(daemon.address()).tls(tls).timeout(Duration.ofSeconds(seconds)).build()) {
            return client.resolve(null);
        }
    }

    /** Makes a certificate and its key; {@code issuer}: null, if it is its own. */
    private Path certificate(String name, String issuer, String extension) throws Exception {
        Path certificate = folder.resolve(name + ".pem");
        List<String> command = new ArrayList<>(List.of("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", folder.resolve(name + ".key").toString(), "-out", certificate.toString(), "-days", "2", "-subj", "/CN=" + name));
        if (issuer != null) {
            command.addAll(List.of("-CA", folder.resolve(issuer + ".pem").toString(), "-CAkey", folder.resolve(issuer + ".key").toString(),
                    "-addext", extension, "-addext", "basicConstraints=critical,CA:FALSE"));
        }
        Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
        String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertThat(process.waitFor()).as(output).isZero();
        return certificate;
    }

    @Test
    void connectionsAreReplacedAndNoOperationFails() throws Exception {
        try (DaemonProcess daemon = DaemonProcess.start(0, "limits.max_connection_age=1s"); SessiondClient client = client(daemon.address())) {
            Credential token = Credential.token(client.write(null, new WriteOptions().setJson("{\"n\":1}")).token());
            long end = System.nanoTime() + Duration.ofMillis(3500).toNanos();
            int count = 0;
            while (System.nanoTime() < end) {
                CompletableFuture.allOf(IntStream.range(0, 8).mapToObj(i -> client.resolveAsync(token, new ResolveOptions())).toArray(CompletableFuture[]::new)).join();
                client.write(token, new WriteOptions().setJson("{\"n\":" + count++ + "}"));
                Thread.sleep(5);
            }
            assertThat(client.resolve(token).session().version()).as("each write was applied once").isEqualTo(count + 1);
        }
    }

    @Test
    void theAdminServiceFindsAndEndsTheSessionsOfAUser() {
        try (DaemonProcess daemon = DaemonProcess.start(0, "listen.admin=127.0.0.1:0")) {
            try (SessiondClient client = client(daemon.address());
                    SessiondAdmin admin = SessiondClient.builder(daemon.admin()).timeout(Duration.ofSeconds(60)).buildAdmin()) {
                WriteResult ann = client.write(null, new WriteOptions().principal("ann"));
                client.write(null, new WriteOptions().principal("bob"));
                assertThat(admin.listSessions("", "ann")).singleElement().satisfies(session -> assertThat(session.id()).isEqualTo(ann.session().id()));
                assertThat(admin.revokeSessions("", List.of(ann.session().id()))).isEqualTo(1);
                assertThat(client.resolve(Credential.token(ann.token())).state()).isEqualTo(SessionState.NOT_FOUND);
            }
        }
    }
}
