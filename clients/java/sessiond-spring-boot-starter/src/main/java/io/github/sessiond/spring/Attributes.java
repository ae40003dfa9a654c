package io.github.sessiond.spring;

import com.fasterxml.jackson.annotation.JsonTypeInfo;
import io.github.sessiond.client.InvalidArgumentException;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.SessiondException;
import java.util.List;
import java.util.function.Function;
import org.springframework.util.ClassUtils;
import tools.jackson.core.JacksonException;
import tools.jackson.databind.DefaultTyping;
import tools.jackson.databind.ObjectWriter;
import tools.jackson.databind.SerializationFeature;
import tools.jackson.databind.cfg.MapperBuilder;
import tools.jackson.databind.json.JsonMapper;
import tools.jackson.databind.jsontype.BasicPolymorphicTypeValidator;
import tools.jackson.databind.module.SimpleModule;

/**
 * Session attributes as JSON. What comes back from JSON as it is, is stored plainly, for the other languages to read. All
 * else is stored as {@code {"@java": ...}} with the names of its classes, which must be in packages that are trusted.
 */
final class Attributes {
    private static final String PREFIX = "{\"@java\":";

    private final JsonMapper plain = JsonMapper.builder().build();
    private final JsonMapper typed;
    private final ObjectWriter writer;
    private final SecuritySupport security;

    /** {@code authentication}: what a principal is to Spring Security whom another language has logged in; or null. */
    Attributes(List<String> trustedPackages, ClassLoader loader, Function<String, Object> authentication) {
        BasicPolymorphicTypeValidator.Builder ofSecurity = BasicPolymorphicTypeValidator.builder();
        boolean secured = ClassUtils.isPresent("org.springframework.security.jackson.SecurityJacksonModules", loader);
        // An object without properties would come back as another one.
        JsonMapper.Builder mapper = JsonMapper.builder().enable(SerializationFeature.FAIL_ON_EMPTY_BEANS);
        if (secured) {
            mapper.addModules(SecuritySupport.modules(loader, ofSecurity));
        }
        if (ClassUtils.isPresent("org.springframework.web.servlet.FlashMap", loader)) {
            mapper.addModule(FlashMaps.module());
        }
        // A module, because those of Spring Security set a validator of their own. The last one counts.
        mapper.addModule(new TypesModule(new TrustedTypes(trustedPackages, ofSecurity.build())));
        this.typed = mapper.build();
        this.writer = typed.writerFor(Object.class);
        this.security = secured ? new SecuritySupport(authentication) : null;
    }

    private static final class TypesModule extends SimpleModule {
        private static final long serialVersionUID = 1;
        private final TrustedTypes types;

        TypesModule(TrustedTypes types) {
            super("sessiond-types");
            this.types = types;
        }

        @Override
        public void setupModule(SetupContext context) {
            ((MapperBuilder<?, ?>) context.getOwner()).activateDefaultTyping(types, DefaultTyping.NON_FINAL, JsonTypeInfo.As.PROPERTY);
        }
    }

    /** Whether the next request gets an equal value of the same class, so that its casts succeed. */
    boolean isPlain(Object value) {
        if (value instanceof String || value instanceof Boolean || value instanceof Integer) {
            return true;
        }
        try {
            String text = plain.writeValueAsString(value);
            return !isTyped(text) && value.equals(plain.readValue(text, Object.class));
        } catch (JacksonException | StackOverflowError notJson) {
            return false;
        }
    }

    boolean isTyped(String text) {
        return text.startsWith(PREFIX);
    }

    String write(String name, Object value) {
        String text;
        try {
            text = PREFIX + writer.writeValueAsString(value) + "}";
        } catch (JacksonException | StackOverflowError cause) {
            throw refused(name, value.getClass().getName(), "cannot be written as JSON by Jackson");
        }
        read(name, text, value.getClass().getName());
        return text;
    }

    Object read(String name, String text) {
        return read(name, text, "value");
    }

    private Object read(String name, String text, String what) {
        try {
            // Not as a tree, which would make a double of each number with a point.
            return typed.readValue(text.substring(PREFIX.length(), text.length() - 1), Object.class);
        } catch (JacksonException | ClassCastException cause) {
            // Without Jackson's text, which can quote the value.
            throw refused(name, what, "does not come back from JSON: its class needs a constructor or setters that Jackson can use,"
                    + " and its package must be named in the property sessiond.trusted-packages");
        }
    }

    private static InvalidArgumentException refused(String name, String what, String problem) {
        return new InvalidArgumentException(
                "session attribute \"" + name + "\": " + what + " " + problem,
                new SessiondException.Details(Reason.INVALID_DATA, "INVALID_ARGUMENT").field(name));
    }

    /** The name of the user of a SecurityContext; null: nobody. */
    String nameOf(Object context) {
        return security == null ? null : security.nameOf(context);
    }

    /** The SecurityContext of a user whom another language has logged in; null: none. */
    Object contextOf(String principal) {
        return security == null || principal == null ? null : security.contextOf(principal);
    }
}
