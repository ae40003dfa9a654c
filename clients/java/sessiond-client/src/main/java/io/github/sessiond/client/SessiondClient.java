package io.github.sessiond.client;

import io.github.sessiond.client.internal.Waiting;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;

/**
 * A client of the daemon, made by {@link #create} or {@link #builder}, or a fake of one, made by {@code FakeSessiond} of
 * {@code sessiond-testing}. Make one for each process and share it: all threads use one connection.
 *
 * <p>Every operation comes twice: it waits for its answer and throws {@link SessiondException}, or it returns a future
 * that fails with that exception; never later than the client's timeout. A future is completed on the client's own
 * thread: whatever depends on it must not block. Use {@code thenApplyAsync} and the like for work. If you cancel a future
 * before its operation was sent, it is not sent any more; later, the operation takes effect all the same.
 */
public interface SessiondClient extends AutoCloseable {
    /**
     * Makes a client with the defaults.
     *
     * @param address {@code host:port}, or {@code unix:/path}
     * @return a client; it connects at the first operation, and again by itself
     */
    static SessiondClient create(String address) {
        return builder(address).build();
    }

    /**
     * Makes a client with options.
     *
     * @param address {@code host:port}, or {@code unix:/path}
     * @return a builder
     */
    static SessiondClientBuilder builder(String address) {
        return new SessiondClientBuilder(address);
    }

    /**
     * Where the daemon is.
     *
     * @return the address
     */
    String address();

    /**
     * Name of the engine for operations that name none.
     *
     * @return the name; empty: the daemon's {@code default}
     */
    String engine();

    /**
     * Is told what the client does.
     *
     * @return the listener
     */
    SessiondListener listener();

    /**
     * What the daemon has said of itself, as soon as it has. It is kept while the daemon is away.
     *
     * @return the description
     */
    Optional<Description> description();

    /**
     * Finds the session of a request.
     *
     * @param credential what the request presents; null: nothing
     * @param options options
     * @return the answer
     */
    CompletableFuture<ResolveResult> resolveAsync(Credential credential, ResolveOptions options);

    /**
     * Moves the session's deadline.
     *
     * @param credential what the request presents; null: nothing
     * @param options options
     * @return the answer
     */
    CompletableFuture<TouchResult> touchAsync(Credential credential, TouchOptions options);

    /**
     * Changes the session of the credential, or creates one.
     *
     * @param credential what the request presents; null: create a session
     * @param options what to change
     * @return the answer
     */
    CompletableFuture<WriteResult> writeAsync(Credential credential, WriteOptions options);

    /**
     * Ends sessions.
     *
     * @param credential what the request presents; null: nothing
     * @param options which sessions
     * @return the answer
     */
    CompletableFuture<DestroyResult> destroyAsync(Credential credential, DestroyOptions options);

    /**
     * Lists the live sessions of the credential's principal: all pages.
     *
     * @param credential what the request presents; null: nothing
     * @param engine name of the engine; null: that of the client
     * @return the answer
     */
    CompletableFuture<ListResult> listSessionsAsync(Credential credential, String engine);

    /**
     * What the daemon is: asked once for each connection.
     *
     * @return the answer
     */
    CompletableFuture<Description> describeAsync();

    /**
     * Finds the session of a request.
     *
     * @param credential what the request presents; null: nothing
     * @return the answer
     */
    default ResolveResult resolve(Credential credential) {
        return resolve(credential, new ResolveOptions());
    }

    /**
     * Finds the session of a request.
     *
     * @param credential what the request presents; null: nothing
     * @param options options
     * @return the answer
     */
    default ResolveResult resolve(Credential credential, ResolveOptions options) {
        return Waiting.on(resolveAsync(credential, options));
    }

    /**
     * Moves the session's deadline.
     *
     * @param credential what the request presents; null: nothing
     * @param options options
     * @return the answer
     */
    default TouchResult touch(Credential credential, TouchOptions options) {
        return Waiting.on(touchAsync(credential, options));
    }

    /**
     * Changes the session of the credential, or creates one.
     *
     * @param credential what the request presents; null: create a session
     * @param options what to change
     * @return the answer
     */
    default WriteResult write(Credential credential, WriteOptions options) {
        return Waiting.on(writeAsync(credential, options));
    }

    /**
     * Ends the session of the credential.
     *
     * @param credential what the request presents; null: nothing
     * @return the answer
     */
    default DestroyResult destroy(Credential credential) {
        return destroy(credential, new DestroyOptions());
    }

    /**
     * Ends sessions.
     *
     * @param credential what the request presents; null: nothing
     * @param options which sessions
     * @return the answer
     */
    default DestroyResult destroy(Credential credential, DestroyOptions options) {
        return Waiting.on(destroyAsync(credential, options));
    }

    /**
     * Lists the live sessions of the credential's principal: all pages.
     *
     * @param credential what the request presents; null: nothing
     * @return the answer
     */
    default ListResult listSessions(Credential credential) {
        return Waiting.on(listSessionsAsync(credential, null));
    }

    /**
     * Lists the live sessions of the credential's principal: all pages.
     *
     * @param credential what the request presents; null: nothing
     * @param engine name of the engine; null: that of the client
     * @return the answer
     */
    default ListResult listSessions(Credential credential, String engine) {
        return Waiting.on(listSessionsAsync(credential, engine));
    }

    /**
     * What the daemon is: asked once for each connection.
     *
     * @return the answer
     */
    default Description describe() {
        return Waiting.on(describeAsync());
    }

    /**
     * Takes nothing new, waits for what is under way at most as long as the client's timeout, and closes the connection. The
     * client's thread has ended then. Only if you call it on that thread, it waits for nothing.
     */
    @Override
    void close();

    /**
     * The same as {@link #close()}, with a time of its own. What takes longer fails with reason {@code CLOSED}.
     *
     * @param timeout how long to wait
     */
    void close(Duration timeout);
}
