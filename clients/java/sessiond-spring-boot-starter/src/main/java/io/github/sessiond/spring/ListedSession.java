package io.github.sessiond.spring;

import io.github.sessiond.client.Session;
import java.time.Duration;
import java.util.Set;
import org.springframework.session.FindByIndexNameSessionRepository;

/** Another session of a user, as a list shows it: without its data. It can be ended, and not be changed. */
final class ListedSession extends SessiondSession {
    /** What Spring Security's registry marks a session with that is to end. */
    private static final String EXPIRED = "org.springframework.session.security.SpringSessionBackedSessionInformation.EXPIRED";

    private final Session info;
    private boolean ended;

    ListedSession(Session info) {
        this.info = info;
    }

    /** Whether it is to end. */
    boolean isEnded() {
        return ended;
    }

    @Override
    public String getPublicId() {
        return info.id();
    }

    @Override
    Session info() {
        return info;
    }

    @Override
    public String getId() {
        return info.id();
    }

    @Override
    public String changeSessionId() {
        throw readOnly();
    }

    @Override
    @SuppressWarnings("unchecked")
    public <T> T getAttribute(String name) {
        return name.equals(FindByIndexNameSessionRepository.PRINCIPAL_NAME_INDEX_NAME) ? (T) info.principal() : null;
    }

    @Override
    public Set<String> getAttributeNames() {
        return Set.of();
    }

    @Override
    public void setAttribute(String name, Object value) {
        if (!name.equals(EXPIRED)) {
            throw readOnly();
        }
        ended = Boolean.TRUE.equals(value);
    }

    @Override
    public void removeAttribute(String name) {
        throw readOnly();
    }

    @Override
    public void setMaxInactiveInterval(Duration interval) {
        throw readOnly();
    }

    private static UnsupportedOperationException readOnly() {
        return new UnsupportedOperationException("only the browser of a session can change it; end it with deleteById");
    }
}
