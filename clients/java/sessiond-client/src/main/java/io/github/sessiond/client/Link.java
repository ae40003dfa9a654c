package io.github.sessiond.client;

import io.github.sessiond.client.internal.CookieHeader;
import io.github.sessiond.client.internal.Difference;
import io.github.sessiond.client.internal.Json;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** A request's way to the daemon: its credential, and what it knows of its session. The caller holds a lock. */
final class Link {
    /** Keys that one write removes at most. */
    private static final int MAX_UNSET = 1000;

    private static final long AGAIN = 1_000_000_000;

    final SessiondClient client;
    final String engine;
    final Draft draft;
    private final byte[] header;
    private Credential credential;
    boolean loaded;
    private UnavailableException failure;
    private long failedAt;
    SessionState state = SessionState.NONE;
    Session info;
    /** Whether the draft's base is exactly what is stored at the version of {@code info}. */
    boolean exact;
    boolean isNew;
    /** The session ended during this request. What is changed from now on is dropped: a logout must not be undone. */
    boolean ended;
    /** The request has failed because of its session. No session is made any more, not even by a login. */
    boolean discarded;
    String setCookie;
    // What a session that this request creates will have.
    Duration plannedDuration;
    Boolean plannedPersistent;

    Link(SessiondClient client, byte[] header, String engine, Draft draft) {
        this.client = client;
        this.engine = engine;
        this.draft = draft;
        this.header = header;
        this.credential = header == null ? null : Credential.cookieHeader(header);
    }

    /**
     * Finds the session, once. A request without a cookie of the name has none: no call is needed to know it. Within a
     * second of a failure it fails at once: frameworks ask several times on their way to an error page.
     */
    void load() {
        if (loaded) {
            return;
        }
        if (failure != null && System.nanoTime() - failedAt < AGAIN) {
            throw failure;
        }
        try {
            if (credential != null) {
                if (CookieHeader.has(header, described().cookieName())) {
                    resolve();
                } else {
                    credential = null;
                }
            }
        } catch (UnavailableException unavailable) {
            failure = unavailable;
            failedAt = System.nanoTime();
            throw unavailable;
        }
        loaded = true;
    }

    Engine described() {
        Description description = client.description().orElseGet(client::describe);
        return description.engine(engine).orElseThrow(() -> new InvalidArgumentException(
                "the daemon has no engine \"" + (engine.isEmpty() ? "default" : engine) + "\"",
                new SessiondException.Details(Reason.UNKNOWN_ENGINE, "INVALID_ARGUMENT").field("engine")));
    }

    void requireCurrent() {
        if (state == SessionState.SUPERSEDED) {
            throw new SupersededException();
        }
    }

    void requireNotEnded() {
        if (ended) {
            throw new SessionGoneException(
                    "the session ended during this request", new SessiondException.Details(Reason.SESSION_GONE, "NOT_FOUND"));
        }
    }

    String principal() {
        return info == null ? null : info.principal();
    }

    private void took(List<String> lines) {
        if (!lines.isEmpty()) {
            setCookie = lines.get(lines.size() - 1);
        }
    }

    void resolve() {
        if (credential == null) {
            return;
        }
        ResolveResult found = client.resolve(credential, new ResolveOptions().engine(engine));
        if (found.session() == null) {
            over(found.state());
            took(found.setCookie());
            return;
        }
        took(found.setCookie());
        if (!found.token().isEmpty()) {
            credential = Credential.token(found.token());
        }
        state = found.state();
        info = found.session();
        draft.stored(Json.members(info.json()));
        exact = true;
    }

    /** Reads the stored data again; unsaved changes stay. */
    void refresh() {
        Map<String, String> before = draft.base();
        resolve();
        if (info == null) {
            ended = state != SessionState.SUPERSEDED;
            return;
        }
        Map<String, String> stored = draft.base();
        draft.stored(before);
        draft.rebase(stored, Set.of());
    }

    /** Creates the session. */
    void create(WriteOptions options) {
        if (discarded) {
            requireNotEnded();
        }
        options.duration(options.duration() == null ? plannedDuration : options.duration());
        options.persistent(options.persistent() == null ? plannedPersistent : options.persistent());
        wrote(client.write(null, options.engine(engine)));
        state = SessionState.CREATED;
        isNew = true;
        exact = true;
    }

    /** Changes the live session. */
    void write(WriteOptions options) {
        long version = info.version();
        wrote(client.write(credential, options.engine(engine)));
        exact &= info.version() == version + 1;
    }

    private void wrote(WriteResult written) {
        took(written.setCookie());
        if (!written.token().isEmpty()) {
            credential = Credential.token(written.token());
        }
        info = written.session();
    }

    /** Stores the texts, which differ so from what is stored; creates the session if there is none. */
    void store(Difference change, Map<String, String> texts) {
        if (info == null) {
            create(new WriteOptions().setJson(Json.object(change.set())));
        } else {
            List<String> unset = change.unset();
            // The daemon removes so many keys in one write.
            for (; unset.size() > MAX_UNSET; unset = unset.subList(MAX_UNSET, unset.size())) {
                write(new WriteOptions().unset(unset.subList(0, MAX_UNSET)));
            }
            write(new WriteOptions().setJson(Json.object(change.set())).unset(unset));
        }
        draft.stored(texts);
    }

    /** A change of the live session that is no change of its data by itself. */
    void change(WriteOptions options) {
        try {
            write(options);
        } catch (SessionGoneException gone) {
            becameOf();
            requireCurrent();
            throw gone;
        }
    }

    /** Ends sessions with this one among them, and forgets it. */
    int destroy(DestroyOptions options) {
        if (credential == null) {
            loaded = true;
            over(SessionState.NONE);
            return 0;
        }
        DestroyResult result = client.destroy(credential, options.engine(engine));
        // Not before: if it fails, the session is still to be found.
        loaded = true;
        over(SessionState.NONE);
        took(result.setCookie());
        credential = null;
        return result.destroyed();
    }

    /** Ends other sessions. */
    int destroyOthers(DestroyOptions options) {
        return client.destroy(credential, options.engine(engine)).destroyed();
    }

    ListResult list() {
        return client.listSessions(credential, engine);
    }

    boolean touch(Duration duration) {
        TouchResult touched = client.touch(credential, new TouchOptions().engine(engine).duration(duration));
        took(touched.setCookie());
        if (touched.session() == null) {
            over(touched.state());
            ended = touched.state() != SessionState.SUPERSEDED;
        } else {
            exact &= touched.session().version() == info.version();
            info = touched.session();
        }
        return info != null;
    }

    /** There is no session any more. A cookie that would have renewed it does not go out. */
    private void over(SessionState now) {
        state = now;
        info = null;
        draft.clear();
        exact = false;
        isNew = false;
        setCookie = null;
    }

    /** From now on there is no session, and none is made. */
    void discard() {
        credential = null;
        loaded = true;
        ended = true;
        discarded = true;
        over(SessionState.NONE);
    }

    /** The credential was not live: what became of it? */
    void becameOf() {
        resolve();
        ended = info == null && state != SessionState.SUPERSEDED;
    }
}
