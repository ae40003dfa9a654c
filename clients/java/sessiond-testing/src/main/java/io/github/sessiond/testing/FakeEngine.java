package io.github.sessiond.testing;

import io.github.sessiond.client.CookieFormat;
import java.time.Duration;

/** How an engine of a {@link FakeSessiond} is configured. The defaults are those of the daemon in development. */
public final class FakeEngine {
    String cookieName = "session";
    CookieFormat cookieFormat = CookieFormat.PLAIN;
    boolean persistent = true;
    Duration duration = Duration.ofMinutes(30);
    Duration absoluteDuration;
    Duration touchGranularity;
    boolean automaticTouch = true;
    int maxDataBytes = 64 << 10;
    Duration rollGrace = Duration.ofMinutes(1);
    int maxSessionsPerPrincipal;
    boolean endIdlest;

    /** With the defaults. */
    public FakeEngine() {}

    /**
     * Name of the cookie. Default: {@code session}.
     *
     * @param cookieName the name
     * @return this
     */
    public FakeEngine cookieName(String cookieName) {
        this.cookieName = cookieName;
        return this;
    }

    /**
     * How a session id stands in the cookie. Default: plain.
     *
     * @param cookieFormat the format
     * @return this
     */
    public FakeEngine cookieFormat(CookieFormat cookieFormat) {
        this.cookieFormat = cookieFormat;
        return this;
    }

    /**
     * Whether cookies outlive the browser. Default: true.
     *
     * @param persistent whether
     * @return this
     */
    public FakeEngine persistent(boolean persistent) {
        this.persistent = persistent;
        return this;
    }

    /**
     * Idle timeout. Default: 30 minutes.
     *
     * @param duration the timeout
     * @return this
     */
    public FakeEngine duration(Duration duration) {
        this.duration = duration;
        return this;
    }

    /**
     * The longest life of a session. Default: no limit.
     *
     * @param absoluteDuration the time; null: no limit
     * @return this
     */
    public FakeEngine absoluteDuration(Duration absoluteDuration) {
        this.absoluteDuration = absoluteDuration;
        return this;
    }

    /**
     * By how much a deadline must move before it is stored. Default: a 64th of the idle timeout, at most a minute.
     *
     * @param touchGranularity the time
     * @return this
     */
    public FakeEngine touchGranularity(Duration touchGranularity) {
        this.touchGranularity = touchGranularity;
        return this;
    }

    /**
     * Whether a resolve moves the deadline. Default: true.
     *
     * @param automaticTouch whether
     * @return this
     */
    public FakeEngine automaticTouch(boolean automaticTouch) {
        this.automaticTouch = automaticTouch;
        return this;
    }

    /**
     * Length of a session's data as JSON text. Default: 64 KiB.
     *
     * @param maxDataBytes the length, in bytes
     * @return this
     */
    public FakeEngine maxDataBytes(int maxDataBytes) {
        this.maxDataBytes = maxDataBytes;
        return this;
    }

    /**
     * How long a rolled id can still end its session. Default: a minute.
     *
     * @param rollGrace the time
     * @return this
     */
    public FakeEngine rollGrace(Duration rollGrace) {
        this.rollGrace = rollGrace;
        return this;
    }

    /**
     * Live sessions of one principal. Default: any number.
     *
     * @param limit how many; 0: any number
     * @param endIdlest what happens to one more: it ends the session that was idle for longest, or it is refused
     * @return this
     */
    public FakeEngine maxSessionsPerPrincipal(int limit, boolean endIdlest) {
        this.maxSessionsPerPrincipal = limit;
        this.endIdlest = endIdlest;
        return this;
    }
}
