package io.github.sessiond.client;

import io.github.sessiond.client.internal.Json;
import java.time.Duration;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/** What a write changes. {@code replace} applies first, then {@code unset}, then {@code set}. */
public final class WriteOptions {
    private String engine;
    private String set = "";
    private List<String> unset = List.of();
    private boolean replace;
    private Long ifVersion;
    private boolean roll;
    private String principal;
    private Duration duration;
    private Boolean persistent;
    private String label;

    /** No option is set. */
    public WriteOptions() {}

    /**
     * Name of the engine. Default: that of the client.
     *
     * @param engine the name
     * @return this
     */
    public WriteOptions engine(String engine) {
        this.engine = Objects.requireNonNull(engine, "engine");
        return this;
    }

    /**
     * Top-level keys to set; the other keys stay as they are.
     *
     * @param data values that Jackson writes as JSON
     * @return this
     * @throws InvalidArgumentException with reason {@code INVALID_DATA} if a value is not JSON
     */
    public WriteOptions set(Map<String, ?> data) {
        this.set = Json.write(data);
        return this;
    }

    /**
     * Top-level keys to set; the other keys stay as they are.
     *
     * @param json the JSON text of an object; empty: nothing
     * @return this
     */
    public WriteOptions setJson(String json) {
        this.set = Objects.requireNonNull(json, "json");
        return this;
    }

    /**
     * Top-level keys to remove, at most 1000.
     *
     * @param keys the keys
     * @return this
     */
    public WriteOptions unset(Collection<String> keys) {
        this.unset = List.copyOf(keys);
        return this;
    }

    /**
     * Drop all data first.
     *
     * @param replace whether to
     * @return this
     */
    public WriteOptions replace(boolean replace) {
        this.replace = replace;
        return this;
    }

    /**
     * Change the session only at this version; otherwise {@link VersionMismatchException}. Not when creating.
     *
     * @param version the version that was read, at least 1
     * @return this
     */
    public WriteOptions ifVersion(long version) {
        this.ifVersion = version;
        return this;
    }

    /**
     * Give the browser a new id for the same session. Set it at every login.
     *
     * @param roll whether to
     * @return this
     */
    public WriteOptions roll(boolean roll) {
        this.roll = roll;
        return this;
    }

    /**
     * Whom the session belongs to.
     *
     * @param principal at most 256 bytes of UTF-8; empty: nobody; null: as it was
     * @return this
     */
    public WriteOptions principal(String principal) {
        this.principal = principal;
        return this;
    }

    /**
     * The session's own idle timeout: more than zero, at most 400 days, rounded up to milliseconds.
     *
     * @param duration the timeout; null: as it was
     * @return this
     */
    public WriteOptions duration(Duration duration) {
        this.duration = duration;
        return this;
    }

    /**
     * Whether the cookie outlives the browser ("remember me").
     *
     * @param persistent whether; null: as it was, or as the engine says
     * @return this
     */
    public WriteOptions persistent(Boolean persistent) {
        this.persistent = persistent;
        return this;
    }

    /**
     * A text for the user's list of devices, such as {@code Firefox on Linux}.
     *
     * @param label at most 256 bytes of UTF-8; empty removes it; null: as it was
     * @return this
     */
    public WriteOptions label(String label) {
        this.label = label;
        return this;
    }

    /**
     * Name of the engine.
     *
     * @return the name; null: that of the client
     */
    public String engine() {
        return engine;
    }

    /**
     * JSON text of the keys to set.
     *
     * @return the text; empty: nothing
     */
    public String set() {
        return set;
    }

    /**
     * Keys to remove.
     *
     * @return the keys
     */
    public List<String> unset() {
        return unset;
    }

    /**
     * Whether to drop all data first.
     *
     * @return whether
     */
    public boolean replace() {
        return replace;
    }

    /**
     * At which version to change the session.
     *
     * @return the version; null: at any
     */
    public Long ifVersion() {
        return ifVersion;
    }

    /**
     * Whether to give the browser a new id.
     *
     * @return whether
     */
    public boolean roll() {
        return roll;
    }

    /**
     * Whom the session belongs to.
     *
     * @return the principal; empty: nobody; null: as it was
     */
    public String principal() {
        return principal;
    }

    /**
     * The session's own idle timeout.
     *
     * @return the timeout; null: as it was
     */
    public Duration duration() {
        return duration;
    }

    /**
     * Whether the cookie outlives the browser.
     *
     * @return whether; null: as it was
     */
    public Boolean persistent() {
        return persistent;
    }

    /**
     * The text for the user's list of devices.
     *
     * @return the text; null: as it was
     */
    public String label() {
        return label;
    }
}
