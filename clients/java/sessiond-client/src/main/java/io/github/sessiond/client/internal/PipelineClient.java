package io.github.sessiond.client.internal;

import com.google.protobuf.Message;
import io.github.sessiond.client.Credential;
import io.github.sessiond.client.Description;
import io.github.sessiond.client.DestroyOptions;
import io.github.sessiond.client.DestroyResult;
import io.github.sessiond.client.ListResult;
import io.github.sessiond.client.ResolveOptions;
import io.github.sessiond.client.ResolveResult;
import io.github.sessiond.client.SessiondClient;
import io.github.sessiond.client.SessiondException;
import io.github.sessiond.client.SessiondListener;
import io.github.sessiond.client.TlsOptions;
import io.github.sessiond.client.TouchOptions;
import io.github.sessiond.client.TouchResult;
import io.github.sessiond.client.WriteOptions;
import io.github.sessiond.client.WriteResult;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.function.Function;
import java.util.function.Supplier;

/** The client over one Pipeline. */
public final class PipelineClient implements SessiondClient {
    /** Version of this client. */
    public static final String VERSION = "0.1.0";

    /** What a client is made of. */
    public record Options(
            String address,
            String token,
            Path tokenFile,
            TlsOptions tls,
            Duration timeout,
            int maxInFlight,
            String engine,
            SessiondListener listener) {

        /** Refuses what cannot be meant. */
        void check() {
            if (timeout == null || timeout.compareTo(Duration.ofMillis(1)) < 0 || timeout.compareTo(Duration.ofDays(1)) > 0) {
                throw Requests.invalid("timeout", "expected a millisecond to a day");
            }
            if (maxInFlight < 1) {
                throw Requests.invalid("maxInFlight", "expected at least 1");
            }
            if (token != null && tokenFile != null) {
                throw Requests.invalid("tokenFile", "not together with token");
            }
            if (token != null && !isToken(token)) {
                throw Requests.invalid("token", "expected visible ASCII without spaces");
            }
            if (tls != null && (tls.cert() == null) != (tls.key() == null)) {
                throw Requests.invalid("tls", "cert and key belong together");
            }
        }

        /** Leaves out the token. */
        @Override
        public String toString() {
            return "Options[address=" + address + "]";
        }
    }

    private final Options options;
    private final Dispatcher dispatcher;

    /** Checks the options. */
    public PipelineClient(Options options) {
        Address address = new Address(options.address(), options.tls());
        options.check();
        this.options = options;
        this.dispatcher = new Dispatcher(address, options);
    }

    static boolean isToken(String text) {
        return !text.isEmpty() && text.chars().allMatch(character -> character > 0x20 && character < 0x7f);
    }

    @Override
    public String address() {
        return options.address();
    }

    @Override
    public String engine() {
        return options.engine();
    }

    @Override
    public SessiondListener listener() {
        return options.listener();
    }

    @Override
    public Optional<Description> description() {
        return dispatcher.description();
    }

    @Override
    public CompletableFuture<ResolveResult> resolveAsync(Credential credential, ResolveOptions options) {
        return run(() -> Requests.resolve(credential, options, engine()), request -> !request.getCreate());
    }

    @Override
    public CompletableFuture<TouchResult> touchAsync(Credential credential, TouchOptions options) {
        return run(() -> Requests.touch(credential, options, engine()), request -> true);
    }

    @Override
    public CompletableFuture<WriteResult> writeAsync(Credential credential, WriteOptions options) {
        // With ifVersion it is never applied twice.
        return run(() -> Requests.write(credential, options, engine()), request -> request.hasIfVersion());
    }

    @Override
    public CompletableFuture<DestroyResult> destroyAsync(Credential credential, DestroyOptions options) {
        return run(() -> Requests.destroy(credential, options, engine()), request -> true);
    }

    @Override
    public CompletableFuture<ListResult> listSessionsAsync(Credential credential, String engine) {
        return run(() -> Requests.list(credential, engine == null ? engine() : engine), request -> true);
    }

    @Override
    public CompletableFuture<Description> describeAsync() {
        return dispatcher.run(null, true);
    }

    @Override
    public void close() {
        close(options.timeout());
    }

    @Override
    public void close(Duration timeout) {
        dispatcher.close(timeout);
    }

    /** An argument that is not allowed fails the future like every other error. */
    private <R extends Message, T> CompletableFuture<T> run(Supplier<R> read, Function<R, Boolean> safe) {
        R request;
        try {
            request = read.get();
        } catch (SessiondException refused) {
            return CompletableFuture.failedFuture(refused);
        }
        return dispatcher.run(request, safe.apply(request));
    }
}
