package io.github.sessiond.client.internal;

import com.google.protobuf.Message;
import io.github.sessiond.client.Applied;
import io.github.sessiond.client.AuthenticationException;
import io.github.sessiond.client.Description;
import io.github.sessiond.client.ListResult;
import io.github.sessiond.client.OverloadedException;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.SessiondException;
import io.github.sessiond.client.internal.pb.PipelineRequest;
import io.github.sessiond.client.internal.pb.PipelineResponse;
import io.github.sessiond.client.internal.pb.SessionServiceListSessionsRequest;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.ReentrantLock;

/** The operations of one client: their deadlines, the queue, the connections, and what may be repeated. */
final class Dispatcher implements Connection.Observer {
    /** A connection that is not ready by then is given up: the next attempt may reach a daemon that is back. */
    private static final long CONNECT_TIMEOUT = TimeUnit.SECONDS.toNanos(2);
    /** How often OVERLOADED and STORE_UNAVAILABLE are repeated, and how often what was cut off is. */
    private static final int MAX_RETRIES = 2;
    private static final int MAX_CUTS = 5;

    private final Address address;
    private final PipelineClient.Options options;
    private final long timeout;
    private final Loop loop;
    private final TokenSource tokens;
    private final Reports reports;
    private final ReentrantLock lock = new ReentrantLock();

    // All of these are guarded by the lock.
    /** What is to be done as soon as nobody holds the lock: futures and listeners run foreign code. */
    private final ArrayDeque<Runnable> after = new ArrayDeque<>();
    private final ArrayDeque<Operation> queue = new ArrayDeque<>();
    /** What was sent over each connection and has no answer. */
    private final Map<Connection, Map<Long, Operation>> sent = new HashMap<>();
    private final CompletableFuture<Void> drained = new CompletableFuture<>();
    private final InFlight under = new InFlight();
    private final Backoff backoff = new Backoff();
    private long sequence;
    private Connection current;
    /** A connection is being made: its object, or the attempt that reads the token first. */
    private boolean connecting;
    private Connection attempt;
    private boolean pausing;
    private boolean sweeping;
    private boolean closed;
    private SessiondException lastError;
    private volatile Description description;

    Dispatcher(Address address, PipelineClient.Options options) {
        this.address = address;
        this.options = options;
        this.timeout = options.timeout().toNanos();
        this.loop = new Loop(address.toString());
        this.tokens = new TokenSource(options);
        this.reports = new Reports(address.toString(), options.listener());
    }

    Optional<Description> description() {
        return Optional.ofNullable(description);
    }

    /** Runs one operation; {@code request}: null asks what the daemon is. */
    @SuppressWarnings("unchecked")
    <T> CompletableFuture<T> run(Message request, boolean safe) {
        lock.lock();
        try {
            if (closed) {
                return CompletableFuture.failedFuture(Failures.closed(Applied.NO));
            }
            if (request == null && current != null) {
                return CompletableFuture.completedFuture((T) description);
            }
            if (under.count() >= options.maxInFlight()) {
                return CompletableFuture.failedFuture(new OverloadedException(
                        under.count() + " operations are under way already (maxInFlight)",
                        new SessiondException.Details(Reason.IN_FLIGHT_LIMIT, "RESOURCE_EXHAUSTED").retryable(true).retryAfter(Duration.ofSeconds(1))));
            }
            long now = System.nanoTime();
            Operation operation = new Operation(request, safe, ++sequence, now, now + timeout);
            add(operation);
            if (current != null && queue.isEmpty() && current.isReady()) {
                send(current, operation);
            } else {
                queue.add(operation);
                connect();
            }
            return (CompletableFuture<T>) operation.future;
        } finally {
            unlock();
        }
    }

    /** Takes nothing new, waits for what is under way, and ends the client's thread. */
    void close(Duration patience) {
        locked(() -> {
            closed = true;
            if (under.count() == 0) {
                after.add(() -> drained.complete(null));
            }
        });
        // An answer, and the end of a connection, would have to come on this very thread.
        boolean waits = !(Thread.currentThread() instanceof Loop.ClientThread);
        if (waits) {
            try {
                drained.get(TimeUnit.NANOSECONDS.convert(patience), TimeUnit.NANOSECONDS);
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
            } catch (java.util.concurrent.TimeoutException | java.util.concurrent.ExecutionException late) {
                // What is left is told below.
            }
        }
        List<Connection> open = new ArrayList<>();
        locked(() -> {
            while (under.first() != null) {
                Operation left = under.first();
                fail(left, Failures.closed(left.connection != null || left.uncertain ? Applied.UNKNOWN : Applied.NO));
            }
            queue.clear();
            open.addAll(sent.keySet());
            current = null;
        });
        for (Connection connection : open) {
            loop.execute(() -> connection.destroy(Failures.closed(Applied.NO)));
        }
        loop.shutdown(waits && open.stream().allMatch(Connection::awaitEnd));
    }

    /** Runs what foreign code is to learn, without the lock. */
    private void unlock() {
        List<Runnable> runs = lock.getHoldCount() > 1 || after.isEmpty() ? List.of() : List.copyOf(after);
        if (!runs.isEmpty()) {
            after.clear();
        }
        lock.unlock();
        runs.forEach(Runnable::run);
    }

    // ---- sending

    private void flush() {
        Connection connection = current;
        if (connection == null) {
            connect();
            return;
        }
        while (!queue.isEmpty() && connection.isReady()) {
            Operation operation = queue.poll();
            if (operation.future.isDone()) {
                // Its caller has cancelled it, or given it an outcome, while it waited.
                fail(operation, Failures.cancelled(operation.uncertain ? Applied.UNKNOWN : Applied.NO));
            } else if (!operation.done) {
                send(connection, operation);
            }
        }
    }

    private void send(Connection connection, Operation operation) {
        long left = operation.deadline - System.nanoTime();
        if (left <= 0) {
            late(operation);
            return;
        }
        if (operation.request == null) {
            finish(operation, description);
            return;
        }
        operation.connection = connection;
        if (operation.request instanceof SessionServiceListSessionsRequest list) {
            sent.get(connection).put(operation.sequence, operation);
            after.add(() -> connection.list(list, operation.deadline).whenComplete((result, failure) -> listed(connection, operation, result, failure)));
            return;
        }
        PipelineRequest message = operation.message(left);
        SessiondException refusal = Refusals.of(message, description);
        if (refusal != null) {
            operation.connection = null;
            fail(operation, refusal);
            return;
        }
        sent.get(connection).put(operation.sequence, operation);
        connection.send(message);
    }

    // ---- answers

    @Override
    public void answer(Connection connection, PipelineResponse answer) {
        locked(() -> {
            Map<Long, Operation> waiting = sent.get(connection);
            Operation operation = waiting == null ? null : waiting.remove(answer.getSequence());
            if (operation == null) {
                // An answer to something that has timed out is dropped. One to something that was never sent is a fault.
                if (waiting != null && (answer.getSequence() <= 0 || answer.getSequence() > sequence)) {
                    after.add(() -> connection.destroy(Failures.protocol(address.toString(), "an answer to no operation", null)));
                }
                return;
            }
            connection.answered = true;
            backoff.succeeded();
            operation.connection = null;
            try {
                answered(operation, answer);
            } catch (RuntimeException unreadable) {
                fail(operation, Failures.protocol(address.toString(), "an answer that cannot be read", unreadable));
            }
            closeIfDrained(connection);
        });
    }

    private void answered(Operation operation, PipelineResponse answer) {
        if (answer.hasError()) {
            SessiondException error = Failures.of(answer.getError(), false);
            boolean maybeOurs = error.reason() == Reason.VERSION_MISMATCH || error.reason() == Reason.SESSION_GONE;
            failed(operation, operation.uncertain && maybeOurs ? Failures.of(answer.getError(), true) : error);
            return;
        }
        Object result = switch (answer.getResultCase()) {
            case RESOLVE -> operation.name().equals("resolve") ? Answers.resolve(answer.getResolve()) : null;
            case TOUCH -> operation.name().equals("touch") ? Answers.touch(answer.getTouch()) : null;
            case WRITE -> operation.name().equals("write") ? Answers.write(answer.getWrite()) : null;
            case DESTROY -> operation.name().equals("destroy") ? Answers.destroy(answer.getDestroy()) : null;
            case ERROR, RESULT_NOT_SET -> null;
        };
        if (result != null) {
            finish(operation, result);
        } else {
            fail(operation, Failures.protocol(address.toString(), "a " + operation.name() + " was answered with something else", null));
        }
    }

    private void listed(Connection connection, Operation operation, ListResult result, Throwable failure) {
        locked(() -> {
            Map<Long, Operation> waiting = sent.get(connection);
            boolean ours = operation.connection == connection;
            if (waiting != null) {
                waiting.remove(operation.sequence);
            }
            if (!operation.done && ours) {
                operation.connection = null;
                Throwable cause = failure instanceof CompletionException ? failure.getCause() : failure;
                if (cause == null) {
                    finish(operation, result);
                } else if (!(cause instanceof SessiondException error)) {
                    fail(operation, Failures.protocol(address.toString(), "a list that cannot be read", cause));
                } else if (error.reason() == Reason.CONNECTION_FAILED || error.reason() == Reason.SHUTTING_DOWN) {
                    // It changes nothing.
                    if (++operation.cuts > MAX_CUTS) {
                        fail(operation, error);
                    } else {
                        requeue(List.of(operation));
                    }
                } else {
                    failed(operation, error);
                }
            }
            closeIfDrained(connection);
        });
    }

    /** The daemon has answered with an error. */
    private void failed(Operation operation, SessiondException error) {
        boolean passing = error.reason() == Reason.OVERLOADED || error.reason() == Reason.STORE_UNAVAILABLE;
        boolean repeatable = error.applied() == Applied.NO || operation.safe;
        if (passing && repeatable && error.retryAfter() != null && operation.retries < MAX_RETRIES && !closed) {
            long pause = (long) (error.retryAfter().toNanos() * (1 + ThreadLocalRandom.current().nextDouble() / 4));
            if (System.nanoTime() + pause - operation.deadline < 0) {
                operation.retries++;
                operation.uncertain |= error.applied() != Applied.NO;
                loop.schedule(() -> locked(() -> requeue(List.of(operation))), pause);
                return;
            }
        }
        fail(operation, error);
    }

    private void locked(Runnable run) {
        lock.lock();
        try {
            run.run();
        } finally {
            unlock();
        }
    }

    private void finish(Operation operation, Object result) {
        over(operation, null, () -> operation.future.complete(result));
    }

    private void fail(Operation operation, SessiondException error) {
        over(operation, error, () -> operation.future.completeExceptionally(error));
    }

    private void over(Operation operation, SessiondException error, Runnable complete) {
        if (operation.done) {
            return;
        }
        under.remove(operation);
        if (under.count() == 0 && closed) {
            after.add(() -> drained.complete(null));
        }
        after.add(() -> {
            reports.finished(operation, error);
            complete.run();
        });
    }

    private void add(Operation operation) {
        under.add(operation);
        if (!sweeping) {
            sweeping = true;
            loop.schedule(this::sweep, operation.deadline - System.nanoTime());
        }
    }

    // ---- deadlines

    private void sweep() {
        locked(() -> {
            long now = System.nanoTime();
            while (under.first() != null && under.first().deadline - now <= 0) {
                late(under.first());
            }
            queue.removeIf(operation -> operation.done);
            sweeping = under.first() != null;
            if (sweeping) {
                loop.schedule(this::sweep, Math.max(under.first().deadline - now, 1_000_000));
            }
        });
    }

    private void late(Operation operation) {
        Connection connection = operation.connection;
        Applied applied = connection != null || operation.uncertain ? Applied.UNKNOWN : Applied.NO;
        String during = options.timeout().toMillis() + " ms";
        if (current == null && lastError != null) {
            fail(operation, Failures.unreachable(lastError.getMessage() + " (for " + during + ")", applied, lastError));
        } else {
            fail(operation, Failures.timeout("no answer within " + during + " from the daemon at " + address, applied));
        }
        if (connection != null) {
            sent.getOrDefault(connection, Map.of()).remove(operation.sequence);
            closeIfDrained(connection);
        }
    }

    // ---- connections

    private void connect() {
        if (current != null || connecting || pausing) {
            return;
        }
        long wait = backoff.left();
        if (wait > 0) {
            pausing = true;
            loop.schedule(() -> locked(() -> {
                pausing = false;
                // Nobody may wait any more.
                if (under.count() > 0) {
                    connect();
                }
            }), wait);
            return;
        }
        connecting = true;
        loop.execute(this::dial);
    }

    private void dial() {
        lock.lock();
        try {
            if (closed && under.count() == 0) {
                connecting = false;
                return;
            }
            Connection connection = new Connection(address, loop, tokens.read(), Math.min(timeout, CONNECT_TIMEOUT), this);
            attempt = connection;
            sent.put(connection, new HashMap<>());
            connection.start();
        } catch (IOException unreadable) {
            connecting = false;
            unreachable(new Connection.End(Applied.NO, new AuthenticationException(
                    "the token file cannot be read: " + unreadable.getClass().getSimpleName() + ": " + options.tokenFile(),
                    new SessiondException.Details(Reason.TOKEN_UNKNOWN, "UNAUTHENTICATED").cause(unreadable)), true));
        } catch (RuntimeException broken) {
            connecting = false;
            unreachable(new Connection.End(Applied.NO, Failures.unreachable(
                    "cannot make a connection to the daemon at " + address + ": " + broken.getMessage(), Applied.NO, broken), true));
        } finally {
            unlock();
        }
    }

    @Override
    public void ready(Connection connection, Description description) {
        locked(() -> {
            connecting = false;
            attempt = null;
            current = connection;
            this.description = description;
            boolean again = lastError != null;
            lastError = null;
            after.add(() -> reports.connected(description, again));
            flush();
        });
    }

    @Override
    public void writable(Connection connection) {
        locked(() -> {
            if (connection == current) {
                flush();
            }
        });
    }

    @Override
    public void draining(Connection connection) {
        locked(() -> {
            if (current == connection) {
                current = null;
                if (!queue.isEmpty()) {
                    connect();
                }
            }
            closeIfDrained(connection);
        });
    }

    /** Closes an old connection as soon as all is answered. */
    private void closeIfDrained(Connection connection) {
        if (connection.draining && connection != attempt && connection != current && sent.getOrDefault(connection, Map.of()).isEmpty()) {
            connection.end();
        }
    }

    @Override
    public void closed(Connection connection, Connection.End end) {
        locked(() -> {
            Map<Long, Operation> unanswered = sent.remove(connection);
            if (current == connection) {
                current = null;
            }
            if (attempt == connection) {
                attempt = null;
                connecting = false;
                unreachable(end);
                return;
            }
            int waiting = unanswered == null ? 0 : unanswered.size();
            after.add(() -> reports.disconnected(end.error().reason(), waiting));
            // The first attempt after a connection that worked comes at once. One that has answered nothing did not work.
            if (end.fatal() || !connection.answered && end.error().reason() != Reason.CLOSED) {
                backoff.failed();
            }
            List<Operation> again = new ArrayList<>();
            for (Operation operation : waiting == 0 ? List.<Operation>of() : unanswered.values()) {
                operation.connection = null;
                if (mayRepeat(operation, end.applied())) {
                    again.add(operation);
                } else {
                    fail(operation, Failures.cut(end.error(), end.applied()));
                }
            }
            requeue(again);
        });
    }

    private boolean mayRepeat(Operation operation, Applied applied) {
        if (applied == Applied.NO) {
            return true;
        }
        if (!operation.safe || ++operation.cuts > MAX_CUTS) {
            return false;
        }
        operation.uncertain = true;
        return true;
    }

    /** Puts operations before what is queued, in the order in which they were asked. */
    private void requeue(Collection<Operation> operations) {
        operations.stream()
                .filter(operation -> !operation.done)
                .sorted(Comparator.comparingLong((Operation operation) -> operation.sequence).reversed())
                .forEach(queue::addFirst);
        if (!queue.isEmpty()) {
            flush();
        }
    }

    /** An attempt to connect has failed. */
    private void unreachable(Connection.End end) {
        boolean first = lastError == null && !closed;
        lastError = end.error();
        after.add(() -> reports.connectFailed(end.error(), first));
        // A refused token that has just been read for the first time may have been replaced meanwhile: read it again.
        boolean retryToken = end.error() instanceof AuthenticationException && options.tokenFile() != null && tokens.isFresh();
        backoff.failed();
        if (end.fatal() && !retryToken) {
            for (Operation operation : List.copyOf(queue)) {
                fail(operation, operation.uncertain ? Failures.cut(end.error(), Applied.UNKNOWN) : Failures.again(end.error(), Applied.NO));
            }
            queue.clear();
            return;
        }
        if (under.count() > 0) {
            connect();
        }
    }
}
