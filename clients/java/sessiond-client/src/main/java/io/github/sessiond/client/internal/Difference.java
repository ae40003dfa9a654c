package io.github.sessiond.client.internal;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** What a write has to send: the difference of top-level keys. */
public record Difference(Map<String, String> set, List<String> unset) {

    /** What makes {@code after} of {@code before}; null: nothing. */
    public static Difference between(Map<String, String> before, Map<String, String> after) {
        Map<String, String> set = new LinkedHashMap<>();
        List<String> unset = new ArrayList<>();
        after.forEach((key, text) -> {
            if (!before.containsKey(key) || !Json.same(before.get(key), text)) {
                set.put(key, text);
            }
        });
        for (String key : before.keySet()) {
            if (!after.containsKey(key)) {
                unset.add(key);
            }
        }
        return set.isEmpty() && unset.isEmpty() ? null : new Difference(set, unset);
    }

    /** The keys of both. */
    public Set<String> keys() {
        Set<String> keys = new LinkedHashSet<>(set.keySet());
        keys.addAll(unset);
        return keys;
    }
}
