package io.github.sessiond.client;

import java.time.Duration;

/**
 * Options of {@link RequestSession#login(String, LoginOptions)}.
 *
 * @param persistent whether the cookie outlives the browser ("remember me"); null: as the engine says
 * @param label a text for the user's list of devices, such as {@code Firefox on Linux}, at most 256 bytes of UTF-8;
 *     null: none
 * @param duration the session's own idle timeout; null: as the engine says
 */
public record LoginOptions(Boolean persistent, String label, Duration duration) {
    /** Everything as the engine says. */
    public static final LoginOptions DEFAULT = new LoginOptions(null, null, null);
}
