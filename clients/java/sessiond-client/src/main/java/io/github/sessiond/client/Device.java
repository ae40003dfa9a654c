package io.github.sessiond.client;

import java.time.Instant;

/**
 * One of a user's sessions, as {@link RequestSession#devices()} lists them.
 *
 * @param id public id: pass it to {@link RequestSession#end}
 * @param current whether it is the session of this request
 * @param label the label that a login has set; empty: none
 * @param createTime when the session was created
 * @param lastUseTime when the session was last used
 * @param expireTime when the session ends, unless it is used before
 */
public record Device(String id, boolean current, String label, Instant createTime, Instant lastUseTime, Instant expireTime) {}
