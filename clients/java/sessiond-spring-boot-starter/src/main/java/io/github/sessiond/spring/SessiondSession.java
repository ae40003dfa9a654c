package io.github.sessiond.spring;

import java.time.Duration;
import java.time.Instant;
import org.springframework.session.Session;

/** A session of Spring Session that the daemon keeps. */
public abstract sealed class SessiondSession implements Session permits OwnSession, ListedSession {
    SessiondSession() {}

    /**
     * Public id of the session, as the daemon and the other languages know it.
     *
     * @return the id; null: it is not stored yet
     */
    public abstract String getPublicId();

    abstract io.github.sessiond.client.Session info();

    @Override
    public Instant getCreationTime() {
        return info() == null ? Instant.now() : info().createTime();
    }

    @Override
    public Instant getLastAccessedTime() {
        return info() == null ? Instant.now() : info().lastUseTime();
    }

    /** The daemon knows when a session was last used. */
    @Override
    public void setLastAccessedTime(Instant lastAccessedTime) {}

    @Override
    public Duration getMaxInactiveInterval() {
        return info() == null ? Duration.ofMinutes(30) : info().duration();
    }

    /** The daemon tells of no session that has expired. */
    @Override
    public boolean isExpired() {
        return false;
    }
}
