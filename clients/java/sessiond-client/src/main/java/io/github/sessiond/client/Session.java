package io.github.sessiond.client;

import java.time.Duration;
import java.time.Instant;

/**
 * A session as the daemon tells it.
 *
 * @param id public id, 16 characters: stable for the session's life, not a credential, safe to log
 * @param json the data as JSON text, octet by octet as they are stored; empty in the answers of touch, write and list
 * @param version 1 at creation, one more with each write
 * @param principal whom the session belongs to; null: nobody
 * @param createTime when the session was created
 * @param expireTime when the session ends, unless it is used before
 * @param lastUseTime when the session was last used: exact to the engine's {@code touchGranularity}, and never later
 *     than the last use
 * @param duration the idle timeout in force
 * @param label the text for the user's list of devices; empty: none
 */
public record Session(
        String id,
        String json,
        long version,
        String principal,
        Instant createTime,
        Instant expireTime,
        Instant lastUseTime,
        Duration duration,
        String label) {

    /** Names the session, and nothing of what it holds. */
    @Override
    public String toString() {
        return "Session[id=" + id + ", version=" + version + "]";
    }
}
