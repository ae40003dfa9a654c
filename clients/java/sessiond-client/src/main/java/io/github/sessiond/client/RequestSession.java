package io.github.sessiond.client;

import io.github.sessiond.client.internal.Difference;
import io.github.sessiond.client.internal.Json;
import io.github.sessiond.client.internal.Requests;
import java.time.Duration;
import java.time.Instant;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.locks.LockSupport;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Function;
import java.util.function.Supplier;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * One request's view of its session: what every adapter gives to the handlers. The daemon is asked at the first use, and
 * not at all if the request has no cookie of the engine's name.
 *
 * <p>Every method can throw {@link UnavailableException}: answer 503 then, never "nobody". What changes the session
 * throws {@link SupersededException} if the id is from before a login: answer 409.
 */
public final class RequestSession {
    private static final Logger LOG = LoggerFactory.getLogger("io.github.sessiond.client");
    /** So often does an update read and write before it gives up. Each time, another request has succeeded. */
    private static final int MAX_ATTEMPTS = 20;

    private final ReentrantLock lock = new ReentrantLock();
    private final Draft draft;
    private final Link link;

    /**
     * A session that is found at its first use.
     *
     * @param client the client, or the fake of one
     * @param cookieHeader the octets of the request's Cookie header; null: there is none. Join several header lines with
     *     {@code "; "}.
     */
    public RequestSession(SessiondClient client, byte[] cookieHeader) {
        this(client, cookieHeader, null, DataMapper.DEFAULT);
    }

    /**
     * A session that is found at its first use.
     *
     * @param client the client, or the fake of one
     * @param cookieHeader the octets of the request's Cookie header; null: there is none
     * @param engine name of the engine; null: that of the client
     * @param mapper reads and writes the data
     */
    public RequestSession(SessiondClient client, byte[] cookieHeader, String engine, DataMapper mapper) {
        draft = new Draft(Objects.requireNonNull(mapper, "mapper").mapper);
        byte[] header = cookieHeader == null || cookieHeader.length == 0 ? null : cookieHeader.clone();
        link = new Link(Objects.requireNonNull(client, "client"), header, engine == null ? client.engine() : engine, draft);
    }

    /**
     * Finds the session, if that was not done yet. Every other method does so by itself.
     *
     * @return this
     */
    public RequestSession load() {
        return locked(() -> {
            link.load();
            return this;
        });
    }

    /**
     * Whether the session was found already, or that there is none.
     *
     * @return whether
     */
    public boolean isLoaded() {
        return link.loaded;
    }

    /**
     * What became of the credential. {@link SessionState#NONE} after a logout.
     *
     * @return the state
     */
    public SessionState state() {
        load();
        return link.state;
    }

    /**
     * The session without its data.
     *
     * @return the session; null: there is none
     */
    public Session info() {
        load();
        return link.info;
    }

    /**
     * Whether there is a session.
     *
     * @return whether
     */
    public boolean isLive() {
        return info() != null;
    }

    /**
     * Whether this request created the session.
     *
     * @return whether
     */
    public boolean isNew() {
        return link.isNew;
    }

    /**
     * Whether the id is from before a login: the request is nobody's, and every change throws
     * {@link SupersededException}.
     *
     * @return whether
     */
    public boolean isSuperseded() {
        return state() == SessionState.SUPERSEDED;
    }

    /**
     * Public id of the session.
     *
     * @return the id; null: there is no session
     */
    public String id() {
        Session info = info();
        return info == null ? null : info.id();
    }

    /**
     * Whom the session belongs to.
     *
     * @return the principal; null: nobody
     */
    public String principal() {
        Session info = info();
        return info == null ? null : info.principal();
    }

    /**
     * When the session ends, unless it is used before.
     *
     * @return the time; null: there is no session
     */
    public Instant expires() {
        Session info = info();
        return info == null ? null : info.expireTime();
    }

    /**
     * The value of the one Set-Cookie line to send. Ask for it when everything else is done.
     *
     * @return the value; null: none
     */
    public String setCookie() {
        return link.setCookie;
    }

    /**
     * The data: change them as you like; {@link #save} finds what changed. Empty if there is no session.
     *
     * @return the data; the same object each time
     */
    public SessionData data() {
        load();
        return locked(draft::data);
    }

    /**
     * Writes the top-level keys that changed, in one write, and only if something changed. Adapters call it before the
     * response head goes out. Creates a session if there is none and the data are not empty.
     *
     * @return false if the session ended during this request: then the change is dropped, because a logout must not be
     *     undone
     * @throws SupersededException if the id is from before a login
     */
    public boolean save() {
        return locked(() -> {
            for (int attempt = 1; ; attempt++) {
                Map<String, String> texts = draft.texts();
                Difference change = draft.difference(texts);
                if (change == null) {
                    return true;
                }
                link.requireCurrent();
                if (link.ended) {
                    return drop(change, null);
                }
                String id = id();
                try {
                    link.store(change, texts);
                    return true;
                } catch (SessionGoneException gone) {
                    link.becameOf();
                    link.requireCurrent();
                    if (link.info == null || attempt > 1) {
                        return drop(change, id);
                    }
                }
            }
        });
    }

    /**
     * Creates the session if there is none, also without data: for those who need its id at once. Other sessions are
     * created when they have data.
     *
     * @return public id of the session
     * @throws SupersededException if the id is from before a login
     * @throws SessionGoneException if the session ended during this request
     */
    public String create() {
        load();
        return locked(() -> {
            if (link.info == null) {
                link.requireCurrent();
                link.requireNotEnded();
                Map<String, String> texts = draft.texts();
                link.create(new WriteOptions().setJson(Json.object(texts)));
                draft.stored(texts);
            }
            return link.info.id();
        });
    }

    /**
     * The idle timeout that the engine gives to a session.
     *
     * @return the timeout
     */
    public Duration defaultDuration() {
        return link.described().duration();
    }

    /**
     * Reads, changes and writes the data so that parallel requests lose nothing: the way to count, append or take. The
     * function gets a copy of the stored data and changes it. It runs again, up to 20 times, while other requests write
     * first. Creates the session if there is none. Unsaved changes of {@link #data} stay as they are, but those of keys
     * that the function changes are overwritten.
     *
     * @param <T> what the function returns
     * @param change changes the data
     * @return what the function has returned
     * @throws SessionGoneException if the session ended during this request
     * @throws SupersededException if the id is from before a login
     * @throws VersionMismatchException if 20 parallel requests were faster
     */
    public <T> T update(Function<SessionData, T> change) {
        load();
        return locked(() -> {
            for (int attempt = 1; ; attempt++) {
                if (link.info != null && !link.exact) {
                    link.refresh();
                }
                link.requireCurrent();
                link.requireNotEnded();
                SessionData copy = draft.copy();
                T result = change.apply(copy);
                Map<String, String> after = copy.texts();
                Difference difference = draft.difference(after);
                if (difference == null) {
                    return result;
                }
                try {
                    WriteOptions write = new WriteOptions().setJson(Json.object(difference.set()));
                    if (link.info != null) {
                        link.write(write.unset(difference.unset()).ifVersion(link.info.version()));
                    } else {
                        link.create(write);
                    }
                } catch (SessionGoneException gone) {
                    link.becameOf();
                    link.requireCurrent();
                    throw gone;
                } catch (VersionMismatchException faster) {
                    // With an unknown outcome the change may be there already. Another attempt could count twice.
                    if (faster.applied() != Applied.NO || attempt == MAX_ATTEMPTS) {
                        throw faster;
                    }
                    link.exact = false;
                    pause(attempt);
                    continue;
                }
                draft.rebase(after, difference.keys());
                link.exact = true;
                return result;
            }
        });
    }

    private static void pause(int attempt) {
        double milliseconds = ThreadLocalRandom.current().nextDouble() * Math.min(50, 1 << Math.min(attempt, 10));
        LockSupport.parkNanos((long) (milliseconds * 1e6));
    }

    /**
     * Gives the session to a user, with everything as the engine says.
     *
     * @param principal whom the session belongs to from now on, such as a user id: 1 to 256 bytes of UTF-8
     * @see #login(String, LoginOptions)
     */
    public void login(String principal) {
        login(principal, LoginOptions.DEFAULT);
    }

    /**
     * Gives the session to a user, under a new id: somebody who knows the old one gains nothing. Creates a session if
     * there is none. What an anonymous visitor has stored stays; what another user has stored is dropped. Unsaved changes
     * are written with it.
     *
     * @param principal whom the session belongs to from now on, such as a user id: 1 to 256 bytes of UTF-8
     * @param options options
     * @throws SupersededException if the id is from before another login
     * @throws TooManySessionsException if the user has as many sessions as the daemon allows
     */
    public void login(String principal, LoginOptions options) {
        if (principal == null || principal.isEmpty()) {
            throw Requests.invalid("principal", "expected a text that is not empty");
        }
        load();
        locked(() -> {
            for (int attempt = 1; ; attempt++) {
                link.requireCurrent();
                boolean foreign = link.principal() != null && !link.principal().equals(principal);
                Map<String, String> texts = draft.texts();
                Difference change = foreign ? null : draft.difference(texts);
                WriteOptions write = new WriteOptions()
                        .principal(principal)
                        .persistent(options.persistent())
                        .label(options.label())
                        .duration(options.duration());
                if (foreign) {
                    Engine defaults = link.described();
                    write.persistent(options.persistent() == null ? Boolean.valueOf(defaults.persistent()) : options.persistent());
                    write.duration(options.duration() == null ? defaults.duration() : options.duration());
                    write.label(options.label() == null ? "" : options.label());
                }
                if (change != null) {
                    write.setJson(Json.object(change.set()));
                }
                if (link.info == null || attempt > 2) {
                    link.create(write);
                } else {
                    try {
                        link.write(write.unset(change == null ? List.of() : change.unset()).roll(true));
                    } catch (SessionGoneException gone) {
                        // Whoever logs in wants a session, also if the anonymous one has just ended.
                        link.becameOf();
                        continue;
                    }
                }
                link.ended = false;
                if (foreign) {
                    draft.clear();
                } else {
                    draft.stored(texts);
                }
                return null;
            }
        });
    }

    /**
     * Makes the session nobody's, under a new id; its data stay. Use {@link #logout} where the data may go: that leaves
     * nothing of the user behind. Does nothing if the session is nobody's.
     */
    public void disown() {
        load();
        locked(() -> {
            link.requireCurrent();
            if (link.principal() != null) {
                Map<String, String> texts = draft.texts();
                link.change(new WriteOptions().principal("").replace(true).label("").setJson(Json.object(texts)));
                draft.stored(texts);
            }
            return null;
        });
    }

    /**
     * Ends this session and deletes the cookie, also with an id from just before a login.
     *
     * @return whether there was a session
     */
    public boolean logout() {
        return locked(() -> link.destroy(new DestroyOptions()) > 0);
    }

    /**
     * Ends the user's other sessions.
     *
     * @return how many there were
     */
    public int logoutOthers() {
        load();
        return locked(() -> {
            link.requireCurrent();
            return link.info == null ? 0 : link.destroyOthers(new DestroyOptions().scope(DestroyScope.OTHERS));
        });
    }

    /**
     * Ends all of the user's sessions, this one too, and deletes the cookie.
     *
     * @return how many there were
     */
    public int logoutEverywhere() {
        load();
        return locked(() -> {
            link.requireCurrent();
            return link.destroy(new DestroyOptions().scope(DestroyScope.ALL));
        });
    }

    /**
     * Gives the browser a new id for the same session: do it at every change of privilege. Unsaved changes are written
     * with it. Does nothing if there is no session.
     */
    public void roll() {
        load();
        locked(() -> {
            link.requireCurrent();
            if (link.info != null) {
                Map<String, String> texts = draft.texts();
                Difference change = draft.difference(texts);
                WriteOptions write = new WriteOptions().roll(true);
                if (change != null) {
                    write.setJson(Json.object(change.set())).unset(change.unset());
                }
                link.change(write);
                draft.stored(texts);
            }
            return null;
        });
    }

    /**
     * The user's live sessions.
     *
     * @return the sessions, ordered by id; that of an anonymous visitor alone; none if there is no session
     */
    public List<Device> devices() {
        load();
        return locked(() -> {
            if (link.info == null) {
                return List.of();
            }
            ListResult list = link.list();
            return list.sessions().stream()
                    .map(one -> new Device(one.id(), one.id().equals(list.currentSessionId()), one.label(), one.createTime(), one.lastUseTime(), one.expireTime()))
                    .toList();
        });
    }

    /**
     * Ends sessions of the same user.
     *
     * @param ids their public ids; other ids are ignored
     * @return how many were live
     */
    public int end(Collection<String> ids) {
        load();
        return locked(() -> {
            link.requireCurrent();
            List<String> possible = ids.stream().filter(Requests::isSessionId).toList();
            if (link.info == null || possible.isEmpty()) {
                return 0;
            }
            DestroyOptions options = new DestroyOptions().sessionIds(possible);
            return possible.contains(link.info.id()) ? link.destroy(options) : link.destroyOthers(options);
        });
    }

    /**
     * Moves the deadline.
     *
     * @param duration the session's own idle timeout from now on; null: as it was. Without a session, it is kept for the
     *     one that this request creates.
     * @return whether there is a session
     */
    public boolean touch(Duration duration) {
        load();
        return locked(() -> {
            link.requireCurrent();
            if (link.info == null) {
                link.plannedDuration = duration == null ? link.plannedDuration : duration;
                return false;
            }
            return link.touch(duration);
        });
    }

    /**
     * Reads the session again. Unsaved changes are dropped.
     *
     * @return whether there is a session
     */
    public boolean reload() {
        load();
        return locked(() -> {
            link.resolve();
            draft.reset();
            return link.info != null;
        });
    }

    /**
     * Whether the cookie outlives the browser ("remember me"). Without a session, it is kept for the one that this
     * request creates.
     *
     * @param persistent whether
     */
    public void setPersistent(boolean persistent) {
        load();
        locked(() -> {
            link.requireCurrent();
            if (link.info == null) {
                link.plannedPersistent = persistent;
            } else {
                link.change(new WriteOptions().persistent(persistent));
            }
            return null;
        });
    }

    /**
     * Drops what is not stored, and asks and stores nothing from now on. Adapters do so when they answer a request that
     * has failed because of its session, so that an error page does not fail for the same reason.
     */
    public void discard() {
        locked(() -> {
            link.discard();
            return null;
        });
    }

    /**
     * Whether {@link #discard} was called.
     *
     * @return whether
     */
    public boolean isDiscarded() {
        return link.discarded;
    }

    private <T> T locked(Supplier<T> run) {
        lock.lock();
        try {
            return run.get();
        } finally {
            lock.unlock();
        }
    }

    private boolean drop(Difference change, String id) {
        Set<String> keys = new TreeSet<>(change.keys());
        LOG.info("a change of {} keys was dropped: the session {} has ended ({})", keys.size(), id, link.state);
        link.client.listener().dropped(id, keys);
        draft.clear();
        return false;
    }
}
