package io.github.sessiond.servlet;

import jakarta.servlet.AsyncContext;
import jakarta.servlet.ServletException;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletResponse;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletRequestWrapper;
import jakarta.servlet.http.HttpSession;
import java.security.Principal;

/** A request whose session is the daemon's. */
final class SessiondRequest extends HttpServletRequestWrapper {
    private final Exchange exchange;
    private final SessiondResponse response;

    SessiondRequest(HttpServletRequest request, Exchange exchange, SessiondResponse response) {
        super(request);
        this.exchange = exchange;
        this.response = response;
    }

    @Override
    public HttpSession getSession() {
        return getSession(true);
    }

    @Override
    public HttpSession getSession(boolean create) {
        return exchange.facade(this, create);
    }

    /** The public id: it stays; what the browser holds is new. */
    @Override
    public String changeSessionId() {
        if (!exchange.session.isLive()) {
            throw new IllegalStateException("there is no session");
        }
        exchange.session.roll();
        return exchange.session.id();
    }

    @Override
    public String getRequestedSessionId() {
        return exchange.session.isNew() ? null : exchange.session.id();
    }

    @Override
    public boolean isRequestedSessionIdValid() {
        return getRequestedSessionId() != null;
    }

    @Override
    public boolean isRequestedSessionIdFromCookie() {
        return getRequestedSessionId() != null;
    }

    @Override
    public boolean isRequestedSessionIdFromURL() {
        return false;
    }

    @Override
    public Principal getUserPrincipal() {
        Principal ofContainer = super.getUserPrincipal();
        String ofSession = ofContainer == null ? exchange.session.principal() : null;
        return ofSession == null ? ofContainer : () -> ofSession;
    }

    @Override
    public String getRemoteUser() {
        Principal principal = getUserPrincipal();
        return principal == null ? null : principal.getName();
    }

    @Override
    public void logout() throws ServletException {
        super.logout();
        exchange.session.logout();
    }

    @Override
    public AsyncContext startAsync() {
        return startAsync(this, response);
    }

    @Override
    public AsyncContext startAsync(ServletRequest request, ServletResponse answer) {
        return new SessiondAsyncContext(super.startAsync(request, answer), exchange, response);
    }

    @Override
    public AsyncContext getAsyncContext() {
        return new SessiondAsyncContext(super.getAsyncContext(), exchange, response);
    }
}
