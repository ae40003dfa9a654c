package io.github.sessiond.client.internal;

import io.github.sessiond.client.CookieFormat;
import io.github.sessiond.client.Description;
import io.github.sessiond.client.DestroyResult;
import io.github.sessiond.client.Engine;
import io.github.sessiond.client.Limits;
import io.github.sessiond.client.ResolveResult;
import io.github.sessiond.client.Session;
import io.github.sessiond.client.SessionState;
import io.github.sessiond.client.TouchResult;
import io.github.sessiond.client.WriteResult;
import io.github.sessiond.client.internal.pb.DescribeResponse;
import io.github.sessiond.client.internal.pb.DestroyResponse;
import io.github.sessiond.client.internal.pb.ResolveResponse;
import io.github.sessiond.client.internal.pb.TouchResponse;
import io.github.sessiond.client.internal.pb.WriteResponse;
import java.time.Duration;
import java.time.Instant;
import java.util.List;

/** Results from answers of the protocol. */
final class Answers {
    private Answers() {}

    static ResolveResult resolve(ResolveResponse answer) {
        Session session = answer.hasSession() ? session(answer.getSession()) : null;
        return new ResolveResult(state(answer.getState()), session, List.copyOf(answer.getSetCookieList()), answer.getToken());
    }

    static TouchResult touch(TouchResponse answer) {
        Session session = answer.hasSession() ? session(answer.getSession()) : null;
        return new TouchResult(state(answer.getState()), session, List.copyOf(answer.getSetCookieList()));
    }

    static WriteResult write(WriteResponse answer) {
        return new WriteResult(session(answer.getSession()), List.copyOf(answer.getSetCookieList()), answer.getToken());
    }

    static DestroyResult destroy(DestroyResponse answer) {
        return new DestroyResult(answer.getDestroyed(), List.copyOf(answer.getSetCookieList()));
    }

    static Session session(io.github.sessiond.client.internal.pb.Session session) {
        return new Session(
                session.getId(),
                session.getData(),
                session.getVersion(),
                session.getPrincipal().isEmpty() ? null : session.getPrincipal(),
                instant(session.getCreateTime()),
                instant(session.getExpireTime()),
                instant(session.getLastUseTime()),
                duration(session.getDuration()),
                session.getLabel());
    }

    /** A state that is newer than this client has no session, and no cookie is touched: as good as INVALID. */
    static SessionState state(io.github.sessiond.client.internal.pb.SessionState state) {
        return switch (state) {
            case SESSION_STATE_ACTIVE -> SessionState.ACTIVE;
            case SESSION_STATE_CREATED -> SessionState.CREATED;
            case SESSION_STATE_NONE -> SessionState.NONE;
            case SESSION_STATE_NOT_FOUND -> SessionState.NOT_FOUND;
            case SESSION_STATE_EXPIRED -> SessionState.EXPIRED;
            case SESSION_STATE_SUPERSEDED -> SessionState.SUPERSEDED;
            case SESSION_STATE_INVALID, SESSION_STATE_UNSPECIFIED, UNRECOGNIZED -> SessionState.INVALID;
        };
    }

    static Description description(DescribeResponse answer) {
        var limits = answer.getLimits();
        return new Description(
                answer.getVersion(),
                new Limits(
                        limits.getMaxMessageBytes(),
                        limits.getPipelineInFlight(),
                        limits.getMaxCookieHeaderBytes(),
                        limits.getMaxPrincipalBytes(),
                        limits.getMaxLabelBytes(),
                        limits.getMaxKeys(),
                        limits.getMaxUnset(),
                        duration(limits.getMaxDuration()),
                        limits.getMaxSessionIds()),
                answer.getEnginesList().stream().map(Answers::engine).toList());
    }

    private static Engine engine(io.github.sessiond.client.internal.pb.Engine engine) {
        boolean express = engine.getCookieFormat() == io.github.sessiond.client.internal.pb.CookieFormat.COOKIE_FORMAT_EXPRESS;
        return new Engine(
                engine.getName(),
                engine.getCookieName(),
                express ? CookieFormat.EXPRESS : CookieFormat.PLAIN,
                engine.getPersistent(),
                duration(engine.getDuration()),
                engine.hasAbsoluteDuration() ? duration(engine.getAbsoluteDuration()) : null,
                duration(engine.getTouchGranularity()),
                engine.getAutomaticTouch(),
                engine.getMaxDataBytes());
    }

    private static Instant instant(com.google.protobuf.Timestamp time) {
        return Instant.ofEpochSecond(time.getSeconds(), time.getNanos());
    }

    private static Duration duration(com.google.protobuf.Duration duration) {
        return Duration.ofSeconds(duration.getSeconds(), duration.getNanos());
    }
}
