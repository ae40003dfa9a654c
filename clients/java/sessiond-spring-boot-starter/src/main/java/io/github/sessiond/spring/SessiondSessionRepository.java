package io.github.sessiond.spring;

import io.github.sessiond.client.Device;
import io.github.sessiond.client.RequestSession;
import io.github.sessiond.client.Session;
import io.github.sessiond.client.SessiondAdmin;
import io.github.sessiond.client.SessiondClient;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Pattern;
import org.springframework.session.FindByIndexNameSessionRepository;

/**
 * The repository of Spring Session. The session of the request is found by the request's Cookie header, which the daemon
 * reads; all others by their public id. Without the admin service only the sessions of the user are found who is logged
 * in.
 */
public final class SessiondSessionRepository implements FindByIndexNameSessionRepository<SessiondSession> {
    /** Stands for the request's Cookie header, which the daemon reads as a whole. */
    static final String OF_REQUEST = "cookie";

    private static final Pattern PUBLIC_ID = Pattern.compile("[A-Za-z0-9_-]{16}");

    private final SessiondClient client;
    private final SessiondAdmin admin;
    private final Attributes attributes;

    SessiondSessionRepository(SessiondClient client, SessiondAdmin admin, Attributes attributes) {
        this.client = client;
        this.admin = admin;
        this.attributes = attributes;
    }

    /** Nothing is stored before it is saved with an attribute. */
    @Override
    public SessiondSession createSession() {
        CurrentSession.Of current = CurrentSession.get();
        if (current == null) {
            return new OwnSession(new RequestSession(client, null), attributes);
        }
        current.own = new OwnSession(current.core, attributes);
        return current.own;
    }

    @Override
    public void save(SessiondSession session) {
        if (session instanceof OwnSession own) {
            own.save();
        } else if (session instanceof ListedSession listed && listed.isEnded()) {
            deleteById(listed.getId());
        }
    }

    @Override
    public SessiondSession findById(String id) {
        CurrentSession.Of current = CurrentSession.get();
        if (current == null) {
            return null;
        }
        OwnSession own = own(current);
        return isOwn(own, id) ? own : current.listed.get(id);
    }

    @Override
    public void deleteById(String id) {
        CurrentSession.Of current = CurrentSession.get();
        OwnSession own = current == null ? null : own(current);
        if (isOwn(own, id)) {
            own.core().logout();
            current.own = null;
        } else if (!PUBLIC_ID.matcher(id).matches()) {
            // Spring asks once more for the session that has ended in this request, by its own id for it.
            return;
        } else if (own != null && own.core().principal() != null && own.core().end(List.of(id)) > 0) {
            current.listed.remove(id);
        } else if (admin != null) {
            admin.revokeSessions(client.engine(), List.of(id));
        }
    }

    @Override
    public Map<String, SessiondSession> findByIndexNameAndIndexValue(String indexName, String indexValue) {
        Map<String, SessiondSession> found = new LinkedHashMap<>();
        if (!indexName.equals(PRINCIPAL_NAME_INDEX_NAME) || indexValue == null || indexValue.isEmpty()) {
            return found;
        }
        CurrentSession.Of current = CurrentSession.get();
        OwnSession own = current == null ? null : own(current);
        for (Session session : list(own, indexValue)) {
            if (own != null && session.id().equals(own.getPublicId())) {
                found.put(own.getId(), own);
            } else {
                ListedSession listed = new ListedSession(session);
                found.put(listed.getId(), listed);
                if (current != null) {
                    current.listed.put(listed.getId(), listed);
                }
            }
        }
        return found;
    }

    private List<Session> list(OwnSession own, String principal) {
        if (own != null && principal.equals(own.core().principal())) {
            return own.core().devices().stream().map(device -> session(device, principal)).toList();
        }
        if (admin == null) {
            throw new IllegalStateException("the sessions of a user who is not logged in here are found by the daemon's admin service: "
                    + "set the property sessiond.admin-address");
        }
        return admin.listSessions(client.engine(), principal);
    }

    private static Session session(Device device, String principal) {
        Duration unknown = Duration.between(device.lastUseTime(), device.expireTime());
        return new Session(
                device.id(), "", 0, principal, device.createTime(), device.expireTime(), device.lastUseTime(), unknown, device.label());
    }

    private OwnSession own(CurrentSession.Of current) {
        if (current.own == null && current.core.isLive()) {
            current.own = new OwnSession(current.core, attributes);
        }
        return current.own != null && current.own.isLive() ? current.own : null;
    }

    private static boolean isOwn(OwnSession own, String id) {
        return own != null && (id.equals(OF_REQUEST) || id.equals(own.getId()) || id.equals(own.getPublicId()));
    }
}
