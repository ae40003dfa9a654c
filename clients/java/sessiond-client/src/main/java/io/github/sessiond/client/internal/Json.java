package io.github.sessiond.client.internal;

import io.github.sessiond.client.InvalidArgumentException;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.SessiondException;
import java.util.LinkedHashMap;
import java.util.Map;
import tools.jackson.core.JacksonException;
import tools.jackson.core.JsonGenerator;
import tools.jackson.databind.DeserializationFeature;
import tools.jackson.databind.JavaType;
import tools.jackson.databind.SerializationContext;
import tools.jackson.databind.SerializationFeature;
import tools.jackson.databind.ValueSerializer;
import tools.jackson.databind.json.JsonMapper;
import tools.jackson.databind.module.SimpleModule;

/** Session data as JSON: strictly, because what is dropped or changed without a word would be lost. */
public final class Json {
    /** The mapper of a client that has none of its own. */
    public static final JsonMapper MAPPER = strict(JsonMapper.builder().build());

    /** Compares numbers as they are written, to the last digit. */
    private static final JsonMapper EXACT = JsonMapper.builder().enable(DeserializationFeature.USE_BIG_DECIMAL_FOR_FLOATS).build();

    /** The levels of a session's data; the object that holds the values is one of them. */
    private static final int MAX_LEVELS = 64;

    private Json() {}

    /** A mapper that refuses what others turn into something else: an object without properties, NaN, Infinity. */
    public static JsonMapper strict(JsonMapper mapper) {
        SimpleModule finite = new SimpleModule("sessiond-finite-numbers");
        finite.addSerializer(Double.class, new Finite<>());
        finite.addSerializer(Double.TYPE, new Finite<>());
        finite.addSerializer(Float.class, new Finite<>());
        finite.addSerializer(Float.TYPE, new Finite<>());
        return mapper.rebuild().enable(SerializationFeature.FAIL_ON_EMPTY_BEANS).addModule(finite).build();
    }

    /** The JSON text of an object with these members. */
    public static String write(Map<String, ?> data) {
        Map<String, String> members = new LinkedHashMap<>();
        data.forEach((key, value) -> members.put(key, value(MAPPER, key, value)));
        return object(members);
    }

    /** The JSON text of one value; {@code key}: the top-level key, for the message. */
    public static String value(JsonMapper mapper, String key, Object value) {
        String text;
        if (value != null && value.getClass().isHidden()) {
            // Jackson makes {} of it.
            throw invalid(key, "a lambda expression, which is not JSON");
        }
        try {
            text = mapper.writeValueAsString(value);
        } catch (RuntimeException | StackOverflowError cause) {
            // Also what a getter of the object throws.
            throw invalid(key, problem(value, cause));
        }
        if (levels(text) + 1 > MAX_LEVELS) {
            throw invalid(key, "more than " + MAX_LEVELS + " levels");
        }
        return wellFormed(text);
    }

    /** What Jackson says of an error can hold data; the class cannot. */
    private static String problem(Object value, Throwable cause) {
        for (Throwable at = cause; at != null; at = at.getCause()) {
            if (at instanceof NotFinite) {
                return "NaN or an infinity, which is not JSON";
            }
        }
        String name = value.getClass().getName();
        if (cause instanceof tools.jackson.databind.exc.InvalidDefinitionException definition && definition.getType() != null) {
            name = definition.getType().getRawClass().getName();
        } else if (cause instanceof StackOverflowError || cause instanceof tools.jackson.core.exc.StreamConstraintsException) {
            return "too many levels, or a cycle";
        }
        return "an object of the class " + name + ", which is not JSON";
    }

    private static InvalidArgumentException invalid(String key, String what) {
        return new InvalidArgumentException(
                "session data: the value of \"" + key + "\" holds " + what,
                new SessiondException.Details(Reason.INVALID_DATA, "INVALID_ARGUMENT").field("set"));
    }

    /** Reads a value. */
    public static Object read(JsonMapper mapper, String key, String text, JavaType type) {
        try {
            return mapper.readValue(text, type);
        } catch (JacksonException cause) {
            // Without Jackson's text, which can quote the value.
            throw new InvalidArgumentException(
                    "session data: the value of \"" + key + "\" is no " + type.getRawClass().getName(),
                    new SessiondException.Details(Reason.INVALID_DATA, "INVALID_ARGUMENT").field(key));
        }
    }

    /** Whether two texts hold the same JSON value. */
    public static boolean same(String one, String other) {
        return one.equals(other) || EXACT.readTree(one).equals(EXACT.readTree(other));
    }

    /** The JSON text of an object, from the texts of its values; empty if there are none. */
    public static String object(Map<String, String> members) {
        if (members.isEmpty()) {
            return "";
        }
        StringBuilder text = new StringBuilder("{");
        members.forEach((key, value) -> {
            if (!isWellFormed(key)) {
                throw invalid(key, "a key with half a surrogate pair");
            }
            text.append(text.length() > 1 ? "," : "").append(MAPPER.writeValueAsString(key)).append(':').append(value);
        });
        return text.append('}').toString();
    }

    /**
     * The members of a JSON object, each value as it is written: what nobody changes keeps its octets. The text must be
     * valid JSON.
     */
    public static Map<String, String> members(String json) {
        Map<String, String> found = new LinkedHashMap<>();
        int level = 0;
        int start = 0;
        String key = null;
        for (int at = 0; at < json.length(); at++) {
            char mark = json.charAt(at);
            switch (mark) {
                case '"' -> {
                    int from = at;
                    at = endOfString(json, at);
                    if (level == 1 && key == null) {
                        String text = json.substring(from + 1, at);
                        key = text.indexOf('\\') < 0 ? text : MAPPER.readValue(json.substring(from, at + 1), String.class);
                    }
                }
                case ':' -> start = level == 1 ? at + 1 : start;
                case '{', '[' -> level++;
                case '}', ']', ',' -> {
                    if (level == 1 && key != null) {
                        found.put(key, json.substring(start, at).strip());
                        key = null;
                    }
                    level -= mark == ',' ? 0 : 1;
                }
                default -> { }
            }
        }
        return found;
    }

    private static int endOfString(String json, int at) {
        for (at++; json.charAt(at) != '"'; at++) {
            at += json.charAt(at) == '\\' ? 1 : 0;
        }
        return at;
    }

    /** How deep a valid JSON text is. */
    public static int levels(String json) {
        int level = 0;
        int deepest = 0;
        for (int at = 0; at < json.length(); at++) {
            switch (json.charAt(at)) {
                case '"' -> at = endOfString(json, at);
                case '{', '[' -> deepest = Math.max(deepest, ++level);
                case '}', ']' -> level--;
                default -> { }
            }
        }
        return deepest;
    }

    /** Whether text can be sent as UTF-8 without loss. */
    public static boolean isWellFormed(String text) {
        return halfPair(text, 0) < 0;
    }

    /** Where the first half pair is, from here on; -1: nowhere. */
    private static int halfPair(String text, int from) {
        for (int at = from; at < text.length(); at++) {
            char unit = text.charAt(at);
            if (!Character.isSurrogate(unit)) {
                continue;
            }
            if (Character.isHighSurrogate(unit) && at + 1 < text.length() && Character.isLowSurrogate(text.charAt(at + 1))) {
                at++;
            } else {
                return at;
            }
        }
        return -1;
    }

    /** JSON text that can be sent as UTF-8: half a surrogate pair is escaped. */
    public static String wellFormed(String json) {
        int at = halfPair(json, 0);
        if (at < 0) {
            return json;
        }
        StringBuilder text = new StringBuilder(json.length() + 8);
        int from = 0;
        for (; at >= 0; at = halfPair(json, from)) {
            text.append(json, from, at).append("\\u").append(Integer.toHexString(json.charAt(at)));
            from = at + 1;
        }
        return text.append(json, from, json.length()).toString();
    }

    private static final class NotFinite extends RuntimeException {
        private static final long serialVersionUID = 1;
    }

    private static final class Finite<T extends Number> extends ValueSerializer<T> {
        @Override
        public void serialize(T value, JsonGenerator generator, SerializationContext context) {
            if (!Double.isFinite(value.doubleValue())) {
                throw new NotFinite();
            }
            if (value instanceof Float) {
                generator.writeNumber(value.floatValue());
            } else {
                generator.writeNumber(value.doubleValue());
            }
        }
    }
}
