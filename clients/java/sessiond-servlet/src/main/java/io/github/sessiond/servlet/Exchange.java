package io.github.sessiond.servlet;

import io.github.sessiond.client.InvalidArgumentException;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.RequestSession;
import io.github.sessiond.client.SessiondException;
import jakarta.servlet.http.HttpServletResponse;
import java.util.Map;
import java.util.concurrent.locks.ReentrantLock;
import tools.jackson.core.JacksonException;
import tools.jackson.databind.JavaType;
import tools.jackson.databind.json.JsonMapper;

/** A request, its session, and what its response has to say of it. */
final class Exchange {
    final RequestSession session;
    // Held while the daemon is asked: a monitor would hold the thread of a virtual one, too.
    private final ReentrantLock lock = new ReentrantLock();
    private final JsonMapper mapper;
    private final Map<String, JavaType> types;
    private final JavaType anything;
    private SessiondHttpSession facade;
    private String sent;
    private volatile boolean abandoned;

    Exchange(RequestSession session, JsonMapper mapper, Map<String, JavaType> types) {
        this.session = session;
        this.mapper = mapper;
        this.types = types;
        this.anything = mapper.constructType(Object.class);
    }

    /** The HttpSession of this request; null: there is none, and none is wanted. */
    SessiondHttpSession facade(SessiondRequest request, boolean create) {
        lock.lock();
        try {
            if (facade != null && facade.isInvalid()) {
                facade = null;
            }
            if (facade == null && (create || session.isLive())) {
                facade = new SessiondHttpSession(this, request.getServletContext());
            }
            return facade;
        } finally {
            lock.unlock();
        }
    }

    /** Writes what changed, and tells the browser. It can be called again: for what changes later. */
    void finish(HttpServletResponse response) {
        if (abandoned) {
            return;
        }
        session.save();
        tell(response);
    }

    /** The request has failed because of its session: an error page neither stores nor tells anything. */
    void abandon() {
        abandoned = true;
        session.discard();
    }

    private void tell(HttpServletResponse response) {
        String line = session.setCookie();
        lock.lock();
        try {
            // A reset of the response takes the line away again.
            boolean told = line == null || line.equals(sent) && (response.isCommitted() || response.getHeaders("Set-Cookie").contains(line));
            if (!told) {
                Responses.setCookie(response, line);
                sent = line;
            }
        } finally {
            lock.unlock();
        }
    }

    Object attribute(String name) {
        return session.data().get(name, types.getOrDefault(name, anything));
    }

    void attribute(String name, Object value) {
        JavaType type = types.get(name);
        if (type == null && !comesBack(value)) {
            throw new InvalidArgumentException(
                    "attribute \"" + name + "\": a " + value.getClass().getName()
                            + " does not come back from JSON as it is; name its type: SessiondFilter.builder(client).attribute(\"" + name
                            + "\", " + value.getClass().getSimpleName() + ".class)",
                    new SessiondException.Details(Reason.INVALID_DATA, "INVALID_ARGUMENT").field(name));
        }
        if (type != null && !type.getRawClass().isInstance(value)) {
            throw new InvalidArgumentException(
                    "attribute \"" + name + "\": expected a " + type.getRawClass().getName() + ", found a " + value.getClass().getName(),
                    new SessiondException.Details(Reason.INVALID_DATA, "INVALID_ARGUMENT").field(name));
        }
        session.data().set(name, value);
    }

    /** Whether the next request gets an equal value of the same class, so that its casts succeed. */
    private boolean comesBack(Object value) {
        if (value instanceof String || value instanceof Boolean || value instanceof Integer) {
            return true;
        }
        try {
            return value.equals(mapper.readValue(mapper.writeValueAsString(value), Object.class));
        } catch (JacksonException | StackOverflowError notJson) {
            return false;
        }
    }
}
