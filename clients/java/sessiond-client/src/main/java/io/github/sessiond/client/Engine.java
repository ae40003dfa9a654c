package io.github.sessiond.client;

import java.time.Duration;

/**
 * A kind of session, as the daemon is configured.
 *
 * @param name its name
 * @param cookieName name of its cookie, octet by octet
 * @param cookieFormat how the session id stands in the cookie
 * @param persistent whether its cookies outlive the browser, unless a write says otherwise
 * @param duration idle timeout, unless a session has its own
 * @param absoluteDuration the longest life of a session; null: no limit
 * @param touchGranularity by how much a deadline must move before it is stored
 * @param automaticTouch whether a resolve moves the deadline
 * @param maxDataBytes length of a session's data as JSON text, in bytes
 */
public record Engine(
        String name,
        String cookieName,
        CookieFormat cookieFormat,
        boolean persistent,
        Duration duration,
        Duration absoluteDuration,
        Duration touchGranularity,
        boolean automaticTouch,
        int maxDataBytes) {}
