package io.github.sessiond.spring;

import io.github.sessiond.client.RequestSession;
import io.github.sessiond.client.Session;
import io.github.sessiond.client.SessionData;
import java.security.SecureRandom;
import java.time.Duration;
import java.util.Base64;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.springframework.session.FindByIndexNameSessionRepository;

/**
 * The session of the request. Its id for Spring is kept with the data: Spring makes ids, and changes them at a login, while
 * the daemon's public id stays. What the browser holds is the daemon's affair.
 */
final class OwnSession extends SessiondSession {
    static final String SECURITY_CONTEXT = "SPRING_SECURITY_CONTEXT";
    static final String PRINCIPAL_NAME = FindByIndexNameSessionRepository.PRINCIPAL_NAME_INDEX_NAME;
    /** The key in the data that has the id for Spring. */
    static final String ID = "spring.session.id";

    private static final SecureRandom RANDOM = new SecureRandom();

    private final RequestSession core;
    private final Attributes attributes;
    /** Objects that are not plain JSON: as they are held here, and as they were stored. */
    private final Map<String, Held> held = new HashMap<>();
    private String newId;
    /** Whom the session is to belong to; empty: nobody; null: as it was. */
    private String principal;
    private boolean rolls;

    private record Held(Object object, String text) {}

    OwnSession(RequestSession core, Attributes attributes) {
        this.core = core;
        this.attributes = attributes;
    }

    /** Whether the request has such a session. */
    boolean isLive() {
        return core.isLive();
    }

    RequestSession core() {
        return core;
    }

    @Override
    public String getPublicId() {
        return core.id();
    }

    @Override
    Session info() {
        return core.info();
    }

    @Override
    public String getId() {
        if (newId != null) {
            return newId;
        }
        String stored = core.data().get(ID, String.class);
        if (stored != null) {
            return stored;
        }
        if (core.isLive()) {
            return core.id();
        }
        newId = random();
        return newId;
    }

    private static String random() {
        byte[] octets = new byte[18];
        RANDOM.nextBytes(octets);
        return Base64.getUrlEncoder().encodeToString(octets);
    }

    /** The browser gets its new cookie when the session is saved. */
    @Override
    public String changeSessionId() {
        newId = random();
        rolls = true;
        return newId;
    }

    @Override
    @SuppressWarnings("unchecked")
    public <T> T getAttribute(String name) {
        if (name.equals(PRINCIPAL_NAME)) {
            return (T) (principal == null ? core.principal() : principal.isEmpty() ? null : principal);
        }
        SessionData data = core.data();
        if (held.containsKey(name) && data.keys().contains(name)) {
            return (T) held.get(name).object();
        }
        String text = data.json(name);
        if (text == null) {
            return name.equals(SECURITY_CONTEXT) ? (T) attributes.contextOf(core.principal()) : null;
        }
        if (!attributes.isTyped(text)) {
            return (T) data.get(name, Object.class);
        }
        Object object = attributes.read(name, text);
        held.put(name, new Held(object, text));
        return (T) object;
    }

    @Override
    public Set<String> getAttributeNames() {
        Set<String> names = new LinkedHashSet<>(core.data().keys());
        names.remove(ID);
        if (core.principal() != null && attributes.contextOf(core.principal()) != null) {
            names.add(SECURITY_CONTEXT);
        }
        return names;
    }

    @Override
    public void setAttribute(String name, Object value) {
        if (value == null) {
            removeAttribute(name);
            return;
        }
        if (name.equals(PRINCIPAL_NAME)) {
            principal = value.toString();
            return;
        }
        if (name.equals(SECURITY_CONTEXT)) {
            String named = attributes.nameOf(value);
            principal = named == null ? "" : named;
        }
        if (attributes.isPlain(value)) {
            held.remove(name);
            core.data().set(name, value);
        } else {
            String text = attributes.write(name, value);
            held.put(name, new Held(value, text));
            core.data().setJson(name, text);
        }
    }

    @Override
    public void removeAttribute(String name) {
        held.remove(name);
        core.data().remove(name);
        if (name.equals(SECURITY_CONTEXT) || name.equals(PRINCIPAL_NAME)) {
            principal = "";
        }
    }

    @Override
    public void setMaxInactiveInterval(Duration interval) {
        core.touch(interval.isNegative() || interval.isZero() ? Duration.ofDays(400) : interval);
    }

    @Override
    public Duration getMaxInactiveInterval() {
        return core.isLive() ? core.info().duration() : core.defaultDuration();
    }

    /** Writes what changed, in one write: the data, the new id, the principal. */
    void save() {
        if (!core.isLoaded()) {
            return;
        }
        // What fails is not tried again by the error page.
        String wanted = principal;
        boolean rolls = this.rolls;
        principal = null;
        this.rolls = false;
        SessionData data = core.data();
        held.replaceAll((name, one) -> {
            // An object can have changed inside.
            String now = data.keys().contains(name) ? attributes.write(name, one.object()) : one.text();
            if (!now.equals(one.text())) {
                data.setJson(name, now);
            }
            return new Held(one.object(), now);
        });
        boolean login = wanted != null && !wanted.isEmpty() && !wanted.equals(core.principal());
        boolean leaves = wanted != null && wanted.isEmpty() && core.principal() != null;
        if (newId != null && (core.isLive() || login || !data.keys().isEmpty())) {
            data.set(ID, newId);
        }
        if (login) {
            boolean foreign = core.principal() != null;
            String context = data.json(SECURITY_CONTEXT);
            core.login(wanted);
            if (foreign) {
                // What another user had is gone, and with it what was to be stored along.
                if (context != null) {
                    data.setJson(SECURITY_CONTEXT, context);
                }
                data.set(ID, Objects.requireNonNullElseGet(newId, OwnSession::random));
                core.save();
            }
        } else if (leaves) {
            core.disown();
        } else if (rolls && core.isLive()) {
            core.roll();
        } else {
            core.save();
        }
    }
}
