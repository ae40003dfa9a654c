package io.github.sessiond.servlet;

import io.github.sessiond.client.Session;
import jakarta.servlet.ServletContext;
import jakarta.servlet.http.HttpSession;
import java.time.Duration;
import java.util.Collections;
import java.util.Enumeration;

/**
 * An HttpSession over the request's session. It is stored at the end of the request, and only if it holds something, or
 * if somebody asks for its id.
 */
final class SessiondHttpSession implements HttpSession {
    private static final Duration LONGEST = Duration.ofDays(400);

    private final Exchange exchange;
    private final ServletContext context;
    private final long now = System.currentTimeMillis();
    private Duration interval;
    private boolean invalid;

    SessiondHttpSession(Exchange exchange, ServletContext context) {
        this.exchange = exchange;
        this.context = context;
    }

    boolean isInvalid() {
        return invalid;
    }

    private Session info() {
        valid();
        return exchange.session.info();
    }

    private void valid() {
        if (invalid) {
            throw new IllegalStateException("the session was invalidated");
        }
    }

    /** The public id. A session that is not stored yet is stored: only the daemon makes ids. */
    @Override
    public String getId() {
        valid();
        return exchange.session.create();
    }

    @Override
    public long getCreationTime() {
        Session info = info();
        return info == null ? now : info.createTime().toEpochMilli();
    }

    @Override
    public long getLastAccessedTime() {
        Session info = info();
        return info == null ? now : info.lastUseTime().toEpochMilli();
    }

    @Override
    public ServletContext getServletContext() {
        return context;
    }

    /** Zero or less: for as long as the daemon allows. */
    @Override
    public void setMaxInactiveInterval(int seconds) {
        valid();
        interval = seconds <= 0 ? LONGEST : Duration.ofSeconds(seconds);
        exchange.session.touch(interval);
    }

    @Override
    public int getMaxInactiveInterval() {
        Session info = info();
        Duration duration = info != null ? info.duration() : interval != null ? interval : exchange.session.defaultDuration();
        return (int) Math.min(Integer.MAX_VALUE, duration.toSeconds());
    }

    @Override
    public Object getAttribute(String name) {
        valid();
        return exchange.attribute(name);
    }

    @Override
    public Enumeration<String> getAttributeNames() {
        valid();
        return Collections.enumeration(exchange.session.data().keys());
    }

    @Override
    public void setAttribute(String name, Object value) {
        valid();
        if (value == null) {
            removeAttribute(name);
        } else {
            exchange.attribute(name, value);
        }
    }

    @Override
    public void removeAttribute(String name) {
        valid();
        exchange.session.data().remove(name);
    }

    @Override
    public void invalidate() {
        valid();
        exchange.session.logout();
        exchange.session.data().clear();
        invalid = true;
    }

    @Override
    public boolean isNew() {
        valid();
        return exchange.session.isNew() || !exchange.session.isLive();
    }
}
