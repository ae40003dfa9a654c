package io.github.sessiond.servlet;

import io.github.sessiond.client.DataMapper;
import io.github.sessiond.client.RequestSession;
import io.github.sessiond.client.SessiondClient;
import io.github.sessiond.client.SessiondException;
import jakarta.servlet.Filter;
import jakarta.servlet.FilterChain;
import jakarta.servlet.FilterConfig;
import jakarta.servlet.ServletException;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletRequestWrapper;
import jakarta.servlet.ServletResponse;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.HashMap;
import java.util.Map;
import java.util.Objects;
import tools.jackson.core.type.TypeReference;
import tools.jackson.databind.JavaType;
import tools.jackson.databind.json.JsonMapper;

/**
 * Takes the place of the container's sessions: {@code request.getSession()} is the daemon's session, and {@link #session}
 * gives what {@code HttpSession} cannot say: {@code update}, {@code login}, {@code logoutEverywhere}, {@code devices}.
 *
 * <p>Map it before everything that uses sessions, and let it support asynchronous requests. What changed is written once,
 * before the head of the response goes out. When the daemon or its store is away, it answers 503 with
 * {@code Retry-After}; a change with an id from before a login is answered with 409. An exception of this kind passes
 * through an application that does not catch it.
 */
public final class SessiondFilter implements Filter {
    private static final String EXCHANGE = SessiondFilter.class.getName() + ".exchange";

    private final SessiondClient client;
    private final String engine;
    private final JsonMapper mapper;
    private final DataMapper dataMapper;
    private final Map<String, JavaType> types;

    /**
     * A filter with the defaults.
     *
     * @param client the client, or the fake of one; it is not closed by this filter
     */
    public SessiondFilter(SessiondClient client) {
        this(builder(client));
    }

    private SessiondFilter(Builder builder) {
        this.client = builder.client;
        this.engine = builder.engine;
        this.mapper = builder.mapper;
        this.dataMapper = DataMapper.of(builder.mapper);
        this.types = Map.copyOf(builder.types);
    }

    /**
     * A filter with options.
     *
     * @param client the client, or the fake of one
     * @return a builder
     */
    public static Builder builder(SessiondClient client) {
        return new Builder(client);
    }

    /**
     * The session of a request that came through the filter.
     *
     * @param request the request
     * @return its session
     * @throws IllegalStateException if the request did not come through the filter
     */
    public static RequestSession session(ServletRequest request) {
        if (request.getAttribute(EXCHANGE) instanceof Exchange exchange) {
            return exchange.session;
        }
        throw new IllegalStateException("the request did not come through the SessiondFilter: map the filter to this path");
    }

    /** Connects before the first request comes. */
    @Override
    public void init(FilterConfig config) {
        client.describeAsync();
    }

    @Override
    public void doFilter(ServletRequest request, ServletResponse response, FilterChain chain) throws IOException, ServletException {
        if (!(request instanceof HttpServletRequest http) || !(response instanceof HttpServletResponse answer)) {
            chain.doFilter(request, response);
            return;
        }
        Exchange exchange = request.getAttribute(EXCHANGE) instanceof Exchange known ? known : new Exchange(
                new RequestSession(client, Responses.cookieHeader(http), engine, dataMapper), mapper, types);
        request.setAttribute(EXCHANGE, exchange);
        // A dispatch of an asynchronous request brings the request that we have wrapped.
        boolean wrapped = isWrapped(request);
        SessiondResponse out = wrapped ? null : new SessiondResponse(answer, exchange);
        HttpServletRequest in = wrapped ? http : new SessiondRequest(http, exchange, out);
        try {
            try {
                chain.doFilter(in, wrapped ? response : out);
            } catch (Throwable thrown) {
                // What was changed before an exception is stored, as in a container.
                if (!request.isAsyncStarted()) {
                    try {
                        exchange.finish(answer);
                    } catch (SessiondException second) {
                        if (second != thrown) {
                            thrown.addSuppressed(second);
                        }
                    }
                }
                throw thrown;
            }
            if (!request.isAsyncStarted()) {
                exchange.finish(answer);
            }
        } catch (IOException | ServletException | RuntimeException thrown) {
            SessiondException cause = Responses.find(thrown);
            if (cause != null) {
                exchange.abandon();
            }
            if (cause == null || !Responses.answer(answer, cause)) {
                throw thrown;
            }
        }
    }

    private static boolean isWrapped(ServletRequest request) {
        for (ServletRequest at = request; ; at = ((ServletRequestWrapper) at).getRequest()) {
            if (at instanceof SessiondRequest) {
                return true;
            }
            if (!(at instanceof ServletRequestWrapper)) {
                return false;
            }
        }
    }

    /** Makes a {@link SessiondFilter}. */
    public static final class Builder {
        private final SessiondClient client;
        private final Map<String, JavaType> types = new HashMap<>();
        private String engine;
        private JsonMapper mapper = JsonMapper.builder().build();

        private Builder(SessiondClient client) {
            this.client = Objects.requireNonNull(client, "client");
        }

        /**
         * Name of the engine. Default: that of the client.
         *
         * @param engine the name
         * @return this
         */
        public Builder engine(String engine) {
            this.engine = Objects.requireNonNull(engine, "engine");
            return this;
        }

        /**
         * Reads and writes attributes. Default: Jackson with its defaults. Call it before {@code attribute}.
         *
         * @param mapper the mapper
         * @return this
         */
        public Builder jsonMapper(JsonMapper mapper) {
            this.mapper = Objects.requireNonNull(mapper, "mapper");
            return this;
        }

        /**
         * Names the type of an attribute that does not come back from JSON by itself: a class of your own, a
         * {@code Long}, a {@code Set}.
         *
         * @param name the attribute's name
         * @param type its class
         * @return this
         */
        public Builder attribute(String name, Class<?> type) {
            types.put(name, mapper.constructType(type));
            return this;
        }

        /**
         * Names the type of an attribute that does not come back from JSON by itself.
         *
         * @param name the attribute's name
         * @param type its type, such as {@code new TypeReference<List<Item>>() {}}
         * @return this
         */
        public Builder attribute(String name, TypeReference<?> type) {
            types.put(name, mapper.constructType(type));
            return this;
        }

        /**
         * Makes the filter.
         *
         * @return the filter
         */
        public SessiondFilter build() {
            return new SessiondFilter(this);
        }
    }
}
