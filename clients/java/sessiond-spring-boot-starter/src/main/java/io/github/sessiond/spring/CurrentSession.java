package io.github.sessiond.spring;

import io.github.sessiond.client.RequestSession;
import io.github.sessiond.servlet.SessiondFilter;
import jakarta.servlet.Filter;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletResponse;
import java.io.IOException;
import java.util.HashMap;
import java.util.Map;

/** Tells the repository, which knows no requests, which one its thread works for. */
final class CurrentSession implements Filter {
    private static final String ATTRIBUTE = CurrentSession.class.getName();
    private static final ThreadLocal<CurrentSession.Of> CURRENT = new ThreadLocal<>();

    /** A request's session as Spring sees it, and the others that it has listed. */
    static final class Of {
        final RequestSession core;
        final Map<String, ListedSession> listed = new HashMap<>();
        OwnSession own;

        Of(RequestSession core) {
            this.core = core;
        }
    }


    /** That of this thread; null: it works for no request. */
    static Of get() {
        return CURRENT.get();
    }

    @Override
    public void doFilter(ServletRequest request, ServletResponse response, FilterChain chain) throws IOException, ServletException {
        Of before = CURRENT.get();
        Of mine = request.getAttribute(ATTRIBUTE) instanceof Of known ? known : new Of(SessiondFilter.session(request));
        request.setAttribute(ATTRIBUTE, mine);
        CURRENT.set(mine);
        try {
            chain.doFilter(request, response);
        } finally {
            if (before == null) {
                CURRENT.remove();
            } else {
                CURRENT.set(before);
            }
        }
    }
}
