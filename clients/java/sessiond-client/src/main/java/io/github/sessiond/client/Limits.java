package io.github.sessiond.client;

import java.time.Duration;

/**
 * What the daemon accepts. It refuses what is more.
 *
 * @param maxMessageBytes length of a message, in bytes
 * @param pipelineInFlight operations of a Pipeline that run at the same time
 * @param maxCookieHeaderBytes length of a Cookie header, in bytes
 * @param maxPrincipalBytes length of a principal, in bytes of UTF-8
 * @param maxLabelBytes length of a label, in bytes of UTF-8
 * @param maxKeys number of top-level keys
 * @param maxUnset number of keys in {@code unset}
 * @param maxDuration longest idle timeout
 * @param maxSessionIds number of ids in {@code sessionIds}
 */
public record Limits(
        int maxMessageBytes,
        int pipelineInFlight,
        int maxCookieHeaderBytes,
        int maxPrincipalBytes,
        int maxLabelBytes,
        int maxKeys,
        int maxUnset,
        Duration maxDuration,
        int maxSessionIds) {}
