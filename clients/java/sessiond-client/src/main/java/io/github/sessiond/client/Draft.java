package io.github.sessiond.client;

import io.github.sessiond.client.internal.Difference;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.function.Predicate;
import tools.jackson.databind.json.JsonMapper;

/** Session data as handlers change them, beside what is stored. */
final class Draft {
    private final JsonMapper mapper;
    /** What is stored, as far as this request knows. */
    private Map<String, String> base = Map.of();
    /** As handlers change it; null: nobody has looked, so nothing has changed. */
    private SessionData data;

    Draft(JsonMapper mapper) {
        this.mapper = mapper;
    }

    Map<String, String> base() {
        return base;
    }

    SessionData data() {
        if (data == null) {
            data = copy();
        }
        return data;
    }

    /** What is stored, to be changed by itself. */
    SessionData copy() {
        return new SessionData(mapper, base);
    }

    /** The texts of the values as they are now. */
    Map<String, String> texts() {
        return data == null ? base : data.texts();
    }

    /** What a write has to send so that {@code texts} are stored; null: nothing. */
    Difference difference(Map<String, String> texts) {
        return texts == base ? null : Difference.between(base, texts);
    }

    /** Takes what is stored, and leaves the data as they are. */
    void stored(Map<String, String> stored) {
        base = stored;
    }

    /** Drops what is not stored. */
    void reset() {
        refill(key -> true);
    }

    /** There are no data any more. */
    void clear() {
        base = Map.of();
        reset();
    }

    /** Takes what is stored. Unsaved changes stay, except those of the keys {@code overwritten}. */
    void rebase(Map<String, String> stored, Set<String> overwritten) {
        Map<String, String> before = base;
        base = stored;
        refill(key -> overwritten.contains(key) || Objects.equals(before.get(key), data.json(key)));
    }

    private void refill(Predicate<String> takes) {
        if (data == null) {
            return;
        }
        Set<String> keys = new TreeSet<>(data.keys());
        keys.addAll(base.keySet());
        for (String key : keys) {
            if (!takes.test(key)) {
                continue;
            }
            if (base.containsKey(key)) {
                data.put(key, base.get(key));
            } else {
                data.remove(key);
            }
        }
    }
}
