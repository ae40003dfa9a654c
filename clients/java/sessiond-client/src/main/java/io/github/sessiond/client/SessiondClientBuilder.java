package io.github.sessiond.client;

import io.github.sessiond.client.internal.AdminClient;
import io.github.sessiond.client.internal.PipelineClient;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Objects;

/** Makes a {@link SessiondClient}. */
public final class SessiondClientBuilder {
    private final String address;
    private String token;
    private Path tokenFile;
    private TlsOptions tls;
    private Duration timeout = Duration.ofSeconds(5);
    private int maxInFlight = 10_000;
    private String engine = "";
    private SessiondListener listener = SessiondListener.NONE;

    SessiondClientBuilder(String address) {
        this.address = Objects.requireNonNull(address, "address");
    }

    /**
     * The bearer token, if the daemon asks for one.
     *
     * @param token visible ASCII
     * @return this
     */
    public SessiondClientBuilder token(String token) {
        this.token = token;
        return this;
    }

    /**
     * A file with the bearer token on its first line. It is read again when the daemon refuses the token.
     *
     * @param tokenFile the file
     * @return this
     */
    public SessiondClientBuilder tokenFile(Path tokenFile) {
        this.tokenFile = tokenFile;
        return this;
    }

    /**
     * TLS. Default: none.
     *
     * @param tls the options
     * @return this
     */
    public SessiondClientBuilder tls(TlsOptions tls) {
        this.tls = tls;
        return this;
    }

    /**
     * How long an operation may take. Default: 5 s.
     *
     * @param timeout at least a millisecond
     * @return this
     */
    public SessiondClientBuilder timeout(Duration timeout) {
        this.timeout = timeout;
        return this;
    }

    /**
     * Operations under way at a time. One more fails with {@link OverloadedException} at once. Default: 10,000.
     *
     * @param maxInFlight at least 1
     * @return this
     */
    public SessiondClientBuilder maxInFlight(int maxInFlight) {
        this.maxInFlight = maxInFlight;
        return this;
    }

    /**
     * Name of the engine for operations that name none. Default: the daemon's {@code default}.
     *
     * @param engine the name
     * @return this
     */
    public SessiondClientBuilder engine(String engine) {
        this.engine = Objects.requireNonNull(engine, "engine");
        return this;
    }

    /**
     * Is told what the client does, for metrics and traces.
     *
     * @param listener the listener
     * @return this
     */
    public SessiondClientBuilder listener(SessiondListener listener) {
        this.listener = Objects.requireNonNull(listener, "listener");
        return this;
    }

    /**
     * Makes a client of the admin service instead. The address is that of {@code listen.admin}.
     *
     * @return the client
     * @throws InvalidArgumentException if the address or an option is not allowed
     */
    public SessiondAdmin buildAdmin() {
        return new AdminClient(options());
    }

    /**
     * Makes the client. It connects at the first operation.
     *
     * @return the client
     * @throws InvalidArgumentException if the address or an option is not allowed
     */
    public SessiondClient build() {
        return new PipelineClient(options());
    }

    private PipelineClient.Options options() {
        return new PipelineClient.Options(address, token, tokenFile, tls, timeout, maxInFlight, engine, listener);
    }
}
