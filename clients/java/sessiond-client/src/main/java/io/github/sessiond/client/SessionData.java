package io.github.sessiond.client;

import io.github.sessiond.client.internal.Json;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import tools.jackson.core.type.TypeReference;
import tools.jackson.databind.JavaType;
import tools.jackson.databind.json.JsonMapper;

/**
 * The data of a session: values by their top-level key. Each value is JSON; Jackson reads it as the type that is asked
 * for. What is changed inside of a value that was read is noticed, too. A value that nobody changes keeps its exact
 * octets, also a number that Java would write in another way.
 *
 * <p>Not safe for use by several threads at a time.
 */
public final class SessionData {
    private final JsonMapper mapper;
    private final Map<String, Value> values = new LinkedHashMap<>();

    SessionData(JsonMapper mapper, Map<String, String> texts) {
        this.mapper = mapper;
        texts.forEach((key, text) -> values.put(key, new Value(text)));
    }

    /**
     * Reads a value.
     *
     * @param <T> its type
     * @param key the key
     * @param type its class
     * @return the value; null if there is none, and for a JSON null
     * @throws InvalidArgumentException with reason {@code INVALID_DATA} if the value is not of the type
     */
    public <T> T get(String key, Class<T> type) {
        return get(key, mapper.constructType(type));
    }

    /**
     * Reads a value.
     *
     * @param <T> its type
     * @param key the key
     * @param type its type, such as {@code new TypeReference<List<String>>() {}}
     * @return the value; null if there is none, and for a JSON null
     * @throws InvalidArgumentException with reason {@code INVALID_DATA} if the value is not of the type
     */
    public <T> T get(String key, TypeReference<T> type) {
        return get(key, mapper.constructType(type));
    }

    /**
     * Reads a value.
     *
     * @param <T> its type
     * @param key the key
     * @param type its class
     * @param otherwise what to return if there is no value
     * @return the value
     * @throws InvalidArgumentException with reason {@code INVALID_DATA} if the value is not of the type
     */
    public <T> T get(String key, Class<T> type, T otherwise) {
        T value = get(key, type);
        return value == null ? otherwise : value;
    }

    /**
     * Reads a value.
     *
     * @param <T> its type
     * @param key the key
     * @param type its type
     * @return the value; null if there is none, and for a JSON null
     * @throws InvalidArgumentException with reason {@code INVALID_DATA} if the value is not of the type
     */
    @SuppressWarnings("unchecked")
    public <T> T get(String key, JavaType type) {
        Value value = values.get(key);
        if (value == null) {
            return null;
        }
        if (value.type == null || !value.type.equals(type) && !(value.object != null && type.getRawClass().isInstance(value.object) && !type.hasGenericTypes())) {
            value.text = text(key, value);
            value.object = Json.read(mapper, key, value.text, type);
            value.type = type;
            value.canChange = !isImmutable(value.object);
            // What is read as JSON's own types looks the same each time that it is read. An object of a class can have made
            // up what its text lacks.
            value.loaded = !value.canChange || type.isJavaLangObject() ? null : Json.value(mapper, key, value.object);
        }
        return (T) value.object;
    }

    /**
     * Sets a value.
     *
     * @param key the key
     * @param object what Jackson writes as JSON
     * @throws InvalidArgumentException with reason {@code INVALID_DATA} if it is not JSON
     */
    public void set(String key, Object object) {
        Objects.requireNonNull(key, "key");
        if (!Json.isWellFormed(key)) {
            Json.object(Map.of(key, "0")); // says what is wrong
        }
        Value value = new Value(Json.value(mapper, key, object));
        value.object = object;
        value.type = object == null ? null : mapper.constructType(object.getClass());
        value.canChange = !isImmutable(object);
        value.loaded = value.text;
        values.put(key, value);
    }

    /**
     * Sets a value.
     *
     * @param key the key
     * @param json its JSON text, which must be valid
     * @throws InvalidArgumentException with reason {@code INVALID_DATA} if it is not JSON
     */
    public void setJson(String key, String json) {
        set(key, Json.read(mapper, key, json, mapper.constructType(tools.jackson.databind.JsonNode.class)));
        values.put(key, new Value(Json.wellFormed(json)));
    }

    /**
     * Removes a value.
     *
     * @param key the key
     */
    public void remove(String key) {
        values.remove(key);
    }

    /** Removes all values. */
    public void clear() {
        values.clear();
    }

    /**
     * The keys that have a value.
     *
     * @return the keys
     */
    public Set<String> keys() {
        return Collections.unmodifiableSet(new LinkedHashSet<>(values.keySet()));
    }

    /**
     * A value as JSON text.
     *
     * @param key the key
     * @return the text; null if there is none
     * @throws InvalidArgumentException with reason {@code INVALID_DATA} if what was put into the value is not JSON
     */
    public String json(String key) {
        Value value = values.get(key);
        return value == null ? null : text(key, value);
    }

    /** The values' texts. */
    Map<String, String> texts() {
        Map<String, String> texts = new LinkedHashMap<>();
        values.forEach((key, value) -> texts.put(key, text(key, value)));
        return texts;
    }

    /** Takes a value's text, as it is stored. */
    void put(String key, String text) {
        Value value = values.get(key);
        // What a handler holds goes on being what it changes, if it is the same.
        if (value == null || !text(key, value).equals(text)) {
            values.put(key, new Value(text));
        }
    }

    private String text(String key, Value value) {
        if (!value.canChange) {
            return value.text;
        }
        String now = Json.value(mapper, key, value.object);
        if (value.loaded == null) {
            // Mostly it is stored as Jackson writes it.
            value.loaded = now.equals(value.text) ? now : Json.value(mapper, key, Json.read(mapper, key, value.text, value.type));
        }
        if (!now.equals(value.loaded)) {
            value.text = now;
            value.loaded = now;
        }
        return value.text;
    }

    private static boolean isImmutable(Object object) {
        return object == null || object instanceof String || object instanceof Boolean || object instanceof Number || object instanceof Enum;
    }

    private static final class Value {
        /** As it is stored, or will be. */
        private String text;
        /** What it was read as, or set to. */
        private Object object;
        private JavaType type;
        /** Whether the object can be changed inside. */
        private boolean canChange;
        /** How Jackson writes the object if nobody changes it; null: nobody has asked yet. */
        private String loaded;

        private Value(String text) {
            this.text = text;
        }
    }
}
