package io.github.sessiond.testing;

import io.github.sessiond.client.Applied;
import io.github.sessiond.client.Credential;
import io.github.sessiond.client.Description;
import io.github.sessiond.client.DestroyOptions;
import io.github.sessiond.client.DestroyResult;
import io.github.sessiond.client.Limits;
import io.github.sessiond.client.ListResult;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.ResolveOptions;
import io.github.sessiond.client.ResolveResult;
import io.github.sessiond.client.Session;
import io.github.sessiond.client.SessiondClient;
import io.github.sessiond.client.SessiondException;
import io.github.sessiond.client.SessiondListener;
import io.github.sessiond.client.TouchOptions;
import io.github.sessiond.client.TouchResult;
import io.github.sessiond.client.WriteOptions;
import io.github.sessiond.client.WriteResult;
import io.github.sessiond.client.internal.Failures;
import io.github.sessiond.client.internal.Json;
import io.github.sessiond.client.internal.PipelineClient;
import io.github.sessiond.client.internal.Requests;
import java.time.Clock;
import java.time.Duration;
import java.time.Instant;
import java.util.Collection;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.function.Function;
import java.util.function.Supplier;

/**
 * A daemon in memory that is its own client. Nothing listens, nothing is stored outside of it. It has the behaviour of
 * the daemon: states, versions, rolls, principals, limits, lifetimes.
 */
public final class FakeSessiond implements SessiondClient {
    private final Map<String, Engines> engines = new TreeMap<>();
    private final Description description;
    private final Clock clock;
    private SessiondListener listener = SessiondListener.NONE;
    private Duration offset = Duration.ZERO;
    private Reason failing;
    private String failingOperation;
    private int failures;
    private boolean closed;

    private FakeSessiond(Map<String, FakeEngine> engines, Clock clock) {
        this.clock = clock;
        engines.forEach((name, engine) -> this.engines.put(name, new Engines(name, engine, this::now)));
        this.description = new Description(
                PipelineClient.VERSION,
                new Limits(1 << 20, 256, 64 << 10, 256, 256, 4096, 1000, Duration.ofDays(400), 1000),
                this.engines.values().stream().map(one -> one.described).toList());
    }

    /**
     * A fake with one engine, called {@code default}.
     *
     * @return the fake
     */
    public static FakeSessiond create() {
        return create(Map.of("default", new FakeEngine()));
    }

    /**
     * A fake with these engines.
     *
     * @param engines the engines by name
     * @return the fake
     */
    public static FakeSessiond create(Map<String, FakeEngine> engines) {
        return create(engines, Clock.systemUTC());
    }

    /**
     * A fake with these engines and this clock.
     *
     * @param engines the engines by name
     * @param clock the clock; {@link #advance} comes on top of it
     * @return the fake
     */
    public static FakeSessiond create(Map<String, FakeEngine> engines, Clock clock) {
        return new FakeSessiond(engines, clock);
    }

    /**
     * The time of the fake.
     *
     * @return the time
     */
    public synchronized Instant now() {
        return clock.instant().plus(offset).truncatedTo(java.time.temporal.ChronoUnit.MILLIS);
    }

    /**
     * Moves the clock forward: sessions expire, grace periods end.
     *
     * @param duration by how much
     */
    public synchronized void advance(Duration duration) {
        offset = offset.plus(duration);
    }

    /**
     * From now on all operations fail with this reason, and nothing is changed.
     *
     * @param reason the reason; null: no more
     */
    public void fail(Reason reason) {
        fail(reason, Integer.MAX_VALUE, null);
    }

    /**
     * From now on operations fail with this reason, and nothing is changed.
     *
     * @param reason the reason; null: no more
     * @param times how many operations
     * @param operation {@code resolve}, {@code touch}, {@code write}, {@code destroy} or {@code list}; null: all
     */
    public synchronized void fail(Reason reason, int times, String operation) {
        this.failing = reason;
        this.failures = times;
        this.failingOperation = operation;
    }

    /**
     * Is told what the fake does from now on.
     *
     * @param listener the listener
     */
    public synchronized void listen(SessiondListener listener) {
        this.listener = listener;
    }

    /**
     * Makes a session.
     *
     * @param principal whom it belongs to; empty: nobody
     * @param data its data
     * @return the Cookie header that a browser sends for it
     */
    public synchronized String cookie(String principal, Map<String, ?> data) {
        return engine("").make(Json.write(data), principal);
    }

    /**
     * The live sessions of the default engine, with their data.
     *
     * @return the sessions, ordered by id
     */
    public synchronized List<Session> sessions() {
        return engine("").live().stream()
                .map(stored -> engine("").session(stored, true))
                .sorted(Comparator.comparing(Session::id))
                .toList();
    }

    /**
     * Ends sessions of the default engine, as an operator can.
     *
     * @param sessionIds their public ids
     * @return how many were live
     */
    public synchronized int revoke(Collection<String> sessionIds) {
        return sessionIds.stream().mapToInt(engine("")::revoke).sum();
    }

    @Override
    public String address() {
        return "fake";
    }

    @Override
    public String engine() {
        return "";
    }

    @Override
    public synchronized SessiondListener listener() {
        return listener;
    }

    @Override
    public Optional<Description> description() {
        return Optional.of(description);
    }

    @Override
    public CompletableFuture<ResolveResult> resolveAsync(Credential credential, ResolveOptions options) {
        return run("resolve", () -> Requests.resolve(credential, options, ""), request -> engine(request.getEngine()).resolve(request));
    }

    @Override
    public CompletableFuture<TouchResult> touchAsync(Credential credential, TouchOptions options) {
        return run("touch", () -> Requests.touch(credential, options, ""), request -> engine(request.getEngine()).touch(request));
    }

    @Override
    public CompletableFuture<WriteResult> writeAsync(Credential credential, WriteOptions options) {
        return run("write", () -> Requests.write(credential, options, ""), request -> engine(request.getEngine()).write(request));
    }

    @Override
    public CompletableFuture<DestroyResult> destroyAsync(Credential credential, DestroyOptions options) {
        return run("destroy", () -> Requests.destroy(credential, options, ""), request -> engine(request.getEngine()).destroy(request));
    }

    @Override
    public CompletableFuture<ListResult> listSessionsAsync(Credential credential, String engine) {
        return run("list", () -> Requests.list(credential, engine == null ? "" : engine), request -> engine(request.getEngine()).list(request));
    }

    @Override
    public synchronized CompletableFuture<Description> describeAsync() {
        return closed ? CompletableFuture.failedFuture(Failures.closed(Applied.NO)) : CompletableFuture.completedFuture(description);
    }

    @Override
    public synchronized void close() {
        closed = true;
    }

    @Override
    public void close(Duration timeout) {
        close();
    }

    private <R, T> CompletableFuture<T> run(String operation, Supplier<R> read, Function<R, T> run) {
        long started = System.nanoTime();
        SessiondException error = null;
        T result = null;
        SessiondListener told;
        synchronized (this) {
            told = listener;
            try {
                R request = read.get();
                if (closed) {
                    throw Failures.closed(Applied.NO);
                }
                if (failing != null && failures > 0 && (failingOperation == null || failingOperation.equals(operation))) {
                    failures--;
                    throw failure(failing, null);
                }
                result = run.apply(request);
            } catch (SessiondException thrown) {
                error = thrown;
            }
        }
        told.finished(new SessiondListener.Operation(operation, "", Duration.ofNanos(System.nanoTime() - started), 0, error));
        return error == null ? CompletableFuture.completedFuture(result) : CompletableFuture.failedFuture(error);
    }

    private Engines engine(String name) {
        Engines engine = engines.get(name.isEmpty() ? "default" : name);
        if (engine == null) {
            throw failure(Reason.UNKNOWN_ENGINE, "engine");
        }
        return engine;
    }

    /** The exception that the daemon's answer would become. */
    static SessiondException failure(Reason reason, String field) {
        String code = switch (reason) {
            case SESSION_GONE -> "NOT_FOUND";
            case VERSION_MISMATCH -> "ABORTED";
            case TOO_MANY_SESSIONS -> "FAILED_PRECONDITION";
            case OVERLOADED, STORE_FULL -> "RESOURCE_EXHAUSTED";
            case STORE_UNAVAILABLE, SHUTTING_DOWN, CONNECTION_FAILED -> "UNAVAILABLE";
            case RECORD_UNREADABLE -> "DATA_LOSS";
            case TOKEN_REQUIRED, TOKEN_UNKNOWN -> "UNAUTHENTICATED";
            case ROLE_REQUIRED -> "PERMISSION_DENIED";
            case TIMEOUT -> "DEADLINE_EXCEEDED";
            default -> "INVALID_ARGUMENT";
        };
        boolean passing = switch (reason) {
            case OVERLOADED, STORE_UNAVAILABLE, SHUTTING_DOWN, TIMEOUT, CONNECTION_FAILED -> true;
            default -> false;
        };
        boolean unknown = reason == Reason.STORE_UNAVAILABLE || reason == Reason.TIMEOUT || reason == Reason.CONNECTION_FAILED;
        return Failures.make(reason, "the fake answers " + reason, new SessiondException.Details(reason, code)
                .applied(unknown ? Applied.UNKNOWN : Applied.NO)
                .retryable(passing || reason == Reason.STORE_FULL || reason == Reason.VERSION_MISMATCH)
                .retryAfter(passing ? Duration.ofSeconds(1) : null)
                .field(field));
    }
}
