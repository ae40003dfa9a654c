package io.github.sessiond.testing;

import io.github.sessiond.client.DestroyResult;
import io.github.sessiond.client.Engine;
import io.github.sessiond.client.ListResult;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.ResolveResult;
import io.github.sessiond.client.Session;
import io.github.sessiond.client.SessionState;
import io.github.sessiond.client.TouchResult;
import io.github.sessiond.client.WriteResult;
import io.github.sessiond.client.internal.Json;
import io.github.sessiond.client.internal.pb.DestroyRequest;
import io.github.sessiond.client.internal.pb.DestroyScope;
import io.github.sessiond.client.internal.pb.ResolveRequest;
import io.github.sessiond.client.internal.pb.SessionServiceListSessionsRequest;
import io.github.sessiond.client.internal.pb.TouchRequest;
import io.github.sessiond.client.internal.pb.WriteRequest;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Supplier;
import tools.jackson.core.JacksonException;
import tools.jackson.databind.JsonNode;

/** One engine of the fake: the rules of the daemon over a map. The caller holds a lock. */
final class Engines {
    private static final int MAX_KEYS = 4096;
    private static final int MAX_LEVELS = 64;
    private static final int ALWAYS_ACCEPTED = 4096;
    private static final int FORMER = 4;

    /** A secret half from before a roll, and when it was rolled. */
    private record Former(String verifier, Instant time) {}

    /** What is stored of a session. */
    static final class Stored {
        final String id;
        private final Instant createTime;
        private String verifier;
        private List<Former> former = List.of();
        long version = 1;
        private Instant deadline;
        private Duration duration;
        String principal = "";
        Map<String, String> data = Map.of();
        private Boolean persistent;
        String label = "";

        private Stored(Tokens.Id id, Instant createTime) {
            this.id = id.id();
            this.verifier = Tokens.hash(id.secret());
            this.createTime = createTime;
        }
    }

    /** A live session and the id that proves it; or why there is none. */
    private record Found(Stored stored, Tokens.Id id, SessionState state, boolean justRolled) {}

    final Engine described;
    private final FakeEngine engine;
    private final Tokens tokens;
    private final Supplier<Instant> clock;
    private final Map<String, Stored> records = new HashMap<>();

    Engines(String name, FakeEngine engine, Supplier<Instant> clock) {
        this.engine = engine;
        this.tokens = new Tokens(engine);
        this.clock = clock;
        this.described = new Engine(
                name,
                engine.cookieName,
                engine.cookieFormat,
                engine.persistent,
                engine.duration,
                engine.absoluteDuration,
                granularity(engine.duration),
                engine.automaticTouch,
                engine.maxDataBytes);
    }

    ResolveResult resolve(ResolveRequest request) {
        Found found = find(tokens.present(request.hasCredential(), request.getCredential()));
        if (found.stored != null) {
            boolean moved = engine.automaticTouch && !request.getPeek() && slide(found.stored);
            return new ResolveResult(SessionState.ACTIVE, session(found.stored, true), renewal(found, moved), "");
        }
        if (!request.getCreate() || found.justRolled) {
            return new ResolveResult(found.justRolled ? SessionState.SUPERSEDED : found.state, null, List.of(), "");
        }
        Tokens.Id id = Tokens.newId(null);
        Stored created = create(id, WriteRequest.getDefaultInstance());
        return new ResolveResult(SessionState.CREATED, session(created, true), List.of(cookie(created, id)), tokens.sign(id));
    }

    TouchResult touch(TouchRequest request) {
        Found found = find(tokens.present(request.hasCredential(), request.getCredential()));
        if (found.stored == null) {
            return new TouchResult(found.justRolled ? SessionState.SUPERSEDED : found.state, null, List.of());
        }
        boolean moved = use(found.stored, request.hasDuration() ? rounded(request.getDuration()) : null);
        return new TouchResult(SessionState.ACTIVE, session(found.stored, false), renewal(found, moved));
    }

    WriteResult write(WriteRequest request) {
        if (request.getSetBytes().size() > Math.max(engine.maxDataBytes, ALWAYS_ACCEPTED)) {
            throw FakeSessiond.failure(Reason.DATA_TOO_LARGE, "set");
        }
        if (!request.hasCredential()) {
            Tokens.Id id = Tokens.newId(null);
            Stored created = create(id, request);
            return new WriteResult(session(created, false), List.of(cookie(created, id)), tokens.sign(id));
        }
        Found found = find(tokens.present(true, request.getCredential()));
        if (found.stored == null) {
            throw FakeSessiond.failure(Reason.SESSION_GONE, null);
        }
        Stored stored = found.stored;
        boolean changesPrincipal = request.hasPrincipal() && !request.getPrincipal().equals(stored.principal);
        if (changesPrincipal) {
            refuseNewest(request.getPrincipal());
        }
        if (request.hasIfVersion() && request.getIfVersion() != stored.version) {
            throw FakeSessiond.failure(Reason.VERSION_MISMATCH, null);
        }
        boolean fresh = request.getReplace() || (changesPrincipal && !stored.principal.isEmpty());
        stored.data = edited(fresh ? Map.of() : stored.data, request);
        stored.version++;
        Tokens.Id id = found.id;
        boolean rolls = request.getRoll() || changesPrincipal;
        if (rolls) {
            id = Tokens.newId(stored.id);
            List<Former> former = new ArrayList<>(List.of(new Former(stored.verifier, clock.get())));
            former.addAll(stored.former);
            stored.former = List.copyOf(former.subList(0, Math.min(FORMER, former.size())));
            stored.verifier = Tokens.hash(id.secret());
        }
        if (request.hasPrincipal()) {
            stored.principal = request.getPrincipal();
        }
        if (request.hasLabel()) {
            stored.label = request.getLabel();
        }
        boolean before = isPersistent(stored);
        if (request.hasPersistent()) {
            stored.persistent = request.getPersistent();
        }
        boolean moved = use(stored, request.hasDuration() ? rounded(request.getDuration()) : null);
        if (changesPrincipal) {
            endIdlest(stored);
        }
        boolean news = rolls || isPersistent(stored) != before || (moved && isPersistent(stored));
        return new WriteResult(session(stored, false), news ? List.of(cookie(stored, id)) : List.of(), rolls ? tokens.sign(id) : "");
    }

    DestroyResult destroy(DestroyRequest request) {
        Tokens.Presented presented = tokens.present(request.hasCredential(), request.getCredential());
        List<Stored> own = presented.ids().stream().map(this::live).filter(stored -> stored != null).toList();
        boolean byList = request.getSessionIdsCount() > 0;
        boolean others = request.getScope() == DestroyScope.DESTROY_SCOPE_OTHERS;
        int[] destroyed = {0};
        if (byList || others || request.getScope() == DestroyScope.DESTROY_SCOPE_ALL) {
            Set<String> principals = new HashSet<>();
            own.forEach(stored -> principals.add(stored.principal));
            principals.remove("");
            for (Stored stored : List.copyOf(records.values())) {
                boolean mine = own.contains(stored);
                boolean theirs = principals.contains(stored.principal) || (byList && mine);
                boolean meant = byList ? request.getSessionIdsList().contains(stored.id) : !mine;
                if (theirs && meant) {
                    destroyed[0] += end(stored);
                }
            }
            if (others) {
                return new DestroyResult(destroyed[0], List.of());
            }
            if (byList) {
                boolean named = !own.isEmpty() && own.stream().allMatch(stored -> request.getSessionIdsList().contains(stored.id));
                return new DestroyResult(destroyed[0], named ? List.of(tokens.deletion()) : List.of());
            }
        }
        for (Tokens.Id id : presented.ids()) {
            Stored stored = records.get(id.id());
            String verifier = Tokens.hash(id.secret());
            if (stored != null && (stored.verifier.equals(verifier) || justRolled(stored, verifier))) {
                destroyed[0] += end(stored);
            }
        }
        return new DestroyResult(destroyed[0], presented.absence() == SessionState.NONE ? List.of() : List.of(tokens.deletion()));
    }

    ListResult list(SessionServiceListSessionsRequest request) {
        Found found = find(tokens.present(request.hasCredential(), request.getCredential()));
        if (found.stored == null) {
            return new ListResult(found.justRolled ? SessionState.SUPERSEDED : found.state, List.of(), null);
        }
        List<Stored> all = found.stored.principal.isEmpty() ? List.of(found.stored) : of(found.stored.principal);
        List<Session> sessions = all.stream()
                .sorted(Comparator.comparing(stored -> Base64.getUrlDecoder().decode(stored.id), java.util.Arrays::compareUnsigned))
                .map(stored -> session(stored, false))
                .toList();
        return new ListResult(SessionState.ACTIVE, sessions, found.stored.id);
    }

    /** A session for a test; returns the cookie that a browser has. */
    String make(String set, String principal) {
        Tokens.Id id = Tokens.newId(null);
        Stored stored = create(id, WriteRequest.newBuilder().setSet(set).setPrincipal(principal).build());
        String line = cookie(stored, id);
        return line.substring(0, line.indexOf(';'));
    }

    /** The live sessions. */
    List<Stored> live() {
        return records.values().stream().filter(stored -> !isExpired(stored)).toList();
    }

    /** Ends a session; returns how many were live. */
    int revoke(String id) {
        Stored stored = records.get(id);
        return stored == null ? 0 : end(stored);
    }

    Session session(Stored stored, boolean withData) {
        return new Session(
                stored.id,
                withData ? text(stored.data) : "",
                stored.version,
                stored.principal.isEmpty() ? null : stored.principal,
                stored.createTime,
                expireTime(stored),
                lastUse(stored),
                duration(stored),
                stored.label);
    }

    private static String text(Map<String, String> data) {
        return data.isEmpty() ? "{}" : Json.object(data);
    }

    private Found find(Tokens.Presented presented) {
        SessionState state = presented.absence();
        boolean just = false;
        for (Tokens.Id id : presented.ids()) {
            Stored stored = records.get(id.id());
            if (stored == null) {
                continue;
            }
            String verifier = Tokens.hash(id.secret());
            if (stored.verifier.equals(verifier)) {
                if (!isExpired(stored)) {
                    return new Found(stored, id, SessionState.ACTIVE, false);
                }
                state = SessionState.EXPIRED;
            } else {
                just |= justRolled(stored, verifier) || (!isExpired(stored) && stored.former.stream().anyMatch(this::isRecent));
                state = state == SessionState.EXPIRED ? state : SessionState.SUPERSEDED;
            }
        }
        return new Found(null, null, state, just);
    }

    private Stored live(Tokens.Id id) {
        Stored stored = records.get(id.id());
        return stored != null && stored.verifier.equals(Tokens.hash(id.secret())) && !isExpired(stored) ? stored : null;
    }

    private boolean isRecent(Former former) {
        return former.time.isAfter(clock.get().minus(engine.rollGrace));
    }

    private boolean justRolled(Stored stored, String verifier) {
        return stored.former.stream().anyMatch(former -> former.verifier.equals(verifier) && isRecent(former));
    }

    private int end(Stored stored) {
        return records.remove(stored.id) != null && !isExpired(stored) ? 1 : 0;
    }

    private Stored create(Tokens.Id id, WriteRequest request) {
        Map<String, String> data = edited(Map.of(), request);
        refuseNewest(request.getPrincipal());
        Stored stored = new Stored(id, clock.get());
        stored.duration = request.hasDuration() ? rounded(request.getDuration()) : null;
        stored.principal = request.getPrincipal();
        stored.data = data;
        stored.persistent = request.hasPersistent() ? Boolean.valueOf(request.getPersistent()) : null;
        stored.label = request.getLabel();
        stored.deadline = deadline(stored);
        records.put(stored.id, stored);
        endIdlest(stored);
        return stored;
    }

    private Map<String, String> edited(Map<String, String> before, WriteRequest request) {
        Map<String, String> data = new LinkedHashMap<>(before);
        request.getUnsetList().forEach(data::remove);
        data.putAll(members(request.getSet()));
        if (data.size() > MAX_KEYS) {
            throw FakeSessiond.failure(Reason.INVALID_DATA, "set");
        }
        if (text(data).getBytes(StandardCharsets.UTF_8).length > engine.maxDataBytes) {
            throw FakeSessiond.failure(Reason.DATA_TOO_LARGE, "set");
        }
        return data;
    }

    private static Map<String, String> members(String json) {
        if (json.isEmpty()) {
            return Map.of();
        }
        try {
            JsonNode node = Json.MAPPER.readTree(json);
            if (!node.isObject() || Json.levels(json) > MAX_LEVELS) {
                throw FakeSessiond.failure(Reason.INVALID_DATA, "set");
            }
        } catch (JacksonException invalid) {
            throw FakeSessiond.failure(Reason.INVALID_DATA, "set");
        }
        return Json.members(json);
    }

    private List<Stored> of(String principal) {
        return live().stream().filter(stored -> stored.principal.equals(principal)).toList();
    }

    private void refuseNewest(String principal) {
        int limit = engine.maxSessionsPerPrincipal;
        if (!principal.isEmpty() && limit > 0 && !engine.endIdlest && of(principal).size() >= limit) {
            throw FakeSessiond.failure(Reason.TOO_MANY_SESSIONS, null);
        }
    }

    private void endIdlest(Stored newest) {
        int limit = engine.maxSessionsPerPrincipal;
        if (newest.principal.isEmpty() || limit == 0 || !engine.endIdlest) {
            return;
        }
        List<Stored> others = of(newest.principal).stream()
                .filter(stored -> stored != newest)
                .sorted(Comparator.comparing(this::lastUse))
                .toList();
        others.stream().limit(Math.max(0, others.size() + 1 - limit)).forEach(this::end);
    }

    // ---- lifetimes

    private Duration duration(Stored stored) {
        return stored.duration == null ? engine.duration : stored.duration;
    }

    private Duration granularity(Duration duration) {
        if (engine.touchGranularity != null) {
            return min(engine.touchGranularity, duration);
        }
        return min(duration.dividedBy(64), Duration.ofMinutes(1));
    }

    private Instant end(Stored stored, Instant otherwise) {
        Instant end = engine.absoluteDuration == null ? Instant.MAX : stored.createTime.plus(engine.absoluteDuration);
        return end.isBefore(otherwise) ? end : otherwise;
    }

    private Instant deadline(Stored stored) {
        return end(stored, clock.get().plus(duration(stored)).plus(granularity(duration(stored))));
    }

    private Instant expireTime(Stored stored) {
        return end(stored, stored.deadline);
    }

    private boolean isExpired(Stored stored) {
        return !clock.get().isBefore(expireTime(stored));
    }

    private Instant lastUse(Stored stored) {
        Instant use = stored.deadline.minus(duration(stored)).minus(granularity(duration(stored)));
        return use.isBefore(stored.createTime) ? stored.createTime : use;
    }

    /** Moves the deadline if the stored one does not give the session its idle timeout from now. */
    private boolean slide(Stored stored) {
        if (!stored.deadline.isBefore(end(stored, clock.get().plus(duration(stored))))) {
            return false;
        }
        stored.deadline = deadline(stored);
        return true;
    }

    private boolean use(Stored stored, Duration duration) {
        if (duration == null || duration.equals(stored.duration)) {
            return slide(stored);
        }
        Instant before = stored.deadline;
        stored.duration = duration;
        stored.deadline = deadline(stored);
        return !stored.deadline.equals(before);
    }

    /** Durations are rounded up to milliseconds, once, where they enter. */
    private static Duration rounded(com.google.protobuf.Duration duration) {
        return Duration.ofMillis(duration.getSeconds() * 1000 + (duration.getNanos() + 999_999) / 1_000_000);
    }

    private static Duration min(Duration one, Duration other) {
        return one.compareTo(other) < 0 ? one : other;
    }

    // ---- answers

    private boolean isPersistent(Stored stored) {
        return stored.persistent == null ? engine.persistent : stored.persistent;
    }

    private String cookie(Stored stored, Tokens.Id id) {
        Instant now = clock.get();
        return tokens.setCookie(id, isPersistent(stored) ? Duration.between(now, expireTime(stored)) : null, now);
    }

    private List<String> renewal(Found found, boolean moved) {
        return moved && isPersistent(found.stored) ? List.of(cookie(found.stored, found.id)) : List.of();
    }
}
