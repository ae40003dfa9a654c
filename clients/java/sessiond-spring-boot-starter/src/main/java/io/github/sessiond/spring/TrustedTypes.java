package io.github.sessiond.spring;

import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Set;
import tools.jackson.databind.DatabindContext;
import tools.jackson.databind.JavaType;
import tools.jackson.databind.jsontype.BasicPolymorphicTypeValidator;
import tools.jackson.databind.jsontype.PolymorphicTypeValidator;

/**
 * Which classes stored values may name. Whoever can write into a session, in any language, chooses those names, so only
 * classes are made that hold values and do nothing when they are made. A name alone is not enough: an array and type
 * arguments name classes, too.
 */
final class TrustedTypes extends PolymorphicTypeValidator.Base {
    private static final long serialVersionUID = 1;
    private static final Set<String> NAMES = Set.of(
            "java.lang.Object", "java.lang.String", "java.lang.Boolean", "java.lang.Character",
            "java.net.URI", "java.util.BitSet", "java.util.Calendar", "java.util.Currency", "java.util.Date", "java.util.GregorianCalendar",
            "java.util.Locale", "java.util.Optional", "java.util.OptionalDouble", "java.util.OptionalInt", "java.util.OptionalLong",
            "java.util.SimpleTimeZone", "java.util.TimeZone", "java.util.UUID", "sun.util.calendar.ZoneInfo");

    private final List<String> packages;
    private final transient BasicPolymorphicTypeValidator others;

    /** {@code packages}: of classes of the application; {@code others}: what the modules of Spring Security need. */
    TrustedTypes(List<String> packages, BasicPolymorphicTypeValidator others) {
        this.packages = packages.stream().map(name -> name.endsWith(".") ? name : name + ".").toList();
        this.others = others;
    }

    /** Says nothing, so that {@link #validateSubType} is asked. */
    @Override
    public Validity validateSubClassName(DatabindContext context, JavaType base, String name) {
        return Validity.INDETERMINATE;
    }

    @Override
    public Validity validateSubType(DatabindContext context, JavaType base, JavaType type) {
        return isTrusted(context, base, type) ? Validity.ALLOWED : Validity.DENIED;
    }

    private boolean isTrusted(DatabindContext context, JavaType base, JavaType type) {
        if (type.isArrayType()) {
            return isTrusted(context, base, type.getContentType());
        }
        List<JavaType> declared = base.getBindings().getTypeParameters();
        for (JavaType argument : type.getBindings().getTypeParameters()) {
            // What the class that has the property says is no choice of the stored value.
            if (!declared.contains(argument) && !isTrusted(context, base, argument)) {
                return false;
            }
        }
        Class<?> raw = type.getRawClass();
        return holdsValues(raw)
                || packages.stream().anyMatch(raw.getName()::startsWith)
                || others.validateSubClassName(context, base, raw.getName()) == Validity.ALLOWED
                || others.validateSubType(context, base, type) == Validity.ALLOWED;
    }

    private static boolean holdsValues(Class<?> type) {
        String name = type.getName();
        boolean container = Collection.class.isAssignableFrom(type) || Map.class.isAssignableFrom(type);
        return type.isPrimitive()
                || NAMES.contains(name)
                || name.startsWith("java.time.")
                || name.startsWith("java.math.")
                || Number.class.isAssignableFrom(type) && name.startsWith("java.")
                // Among them FlashMap, and what a request's parameters are kept in.
                || container && (name.startsWith("java.util.") || name.startsWith("org.springframework."));
    }
}
