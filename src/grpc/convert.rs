//! Messages to the requests of `service`, and values of `session` and `service` to
//! messages.

use std::{sync::Arc, time::Duration};

use super::pb;
use crate::{
    service::{
        description::{Description, EngineDescription},
        fault::{Fault, Reason},
        input::{RawDuration, RawTime},
        operation::{
            Destroy, DestroyRequest, Operation, Resolve, ResolveRequest, Touch, TouchRequest,
            Write, WriteRequest,
        },
        own::{ListOwnRequest, OwnPage},
        status::{EngineStatus, ListenerStatus, State, Status},
        transfer::{ImportFormer, ImportRecord},
        watchers::{WatchedEvent, WatchedKind},
    },
    session::{
        Session,
        clock::{WallOffset, WallTime},
        cookie::CookieFormat,
        credential::{Absence, Credential},
        engine::ResolveOptions,
        event::Cause,
        principals::Scope,
        record::Former,
        transfer::{Entry, Kind},
    },
};

/// 9999-12-31T23:59:59.999Z, where timestamps end. An adoption mark may be for ever.
const LAST: WallTime = WallTime::from_unix_millis(253_402_300_799_999);

/// An operation that a message asks for.
pub(super) trait GrpcOperation: Operation {
    type Message: prost::Message + Default;

    /// The request of a message. It takes out of the message what it needs for itself, and
    /// borrows the rest.
    fn request(message: &mut Self::Message) -> Result<Self::Request<'_>, Fault>;
}

impl GrpcOperation for Resolve {
    type Message = pb::ResolveRequest;

    fn request(message: &mut pb::ResolveRequest) -> Result<ResolveRequest<'_>, Fault> {
        Ok(ResolveRequest {
            engine: &message.engine,
            credential: credential(message.credential.as_ref()),
            options: ResolveOptions { peek: message.peek, create: message.create },
        })
    }
}

impl GrpcOperation for Touch {
    type Message = pb::TouchRequest;

    fn request(message: &mut pb::TouchRequest) -> Result<TouchRequest<'_>, Fault> {
        Ok(TouchRequest {
            engine: &message.engine,
            credential: credential(message.credential.as_ref()),
            duration: message.duration.map(raw_duration),
        })
    }
}

impl GrpcOperation for Write {
    type Message = pb::WriteRequest;

    fn request(message: &mut pb::WriteRequest) -> Result<WriteRequest<'_>, Fault> {
        let set = std::mem::take(&mut message.set);
        let message = &*message;
        let given = message.credential.as_ref();
        Ok(WriteRequest {
            engine: &message.engine,
            credential: given.map(|given| credential(Some(given))),
            set,
            unset: &message.unset,
            replace: message.replace,
            if_version: message.if_version,
            roll: message.roll,
            principal: message.principal.as_deref(),
            duration: message.duration.map(raw_duration),
            persistent: message.persistent,
            label: message.label.as_deref(),
        })
    }
}

impl GrpcOperation for Destroy {
    type Message = pb::DestroyRequest;

    fn request(message: &mut pb::DestroyRequest) -> Result<DestroyRequest<'_>, Fault> {
        Ok(DestroyRequest {
            engine: &message.engine,
            credential: credential(message.credential.as_ref()),
            scope: scope(message.scope)?,
            session_ids: &message.session_ids,
        })
    }
}

fn credential(credential: Option<&pb::Credential>) -> Credential<'_> {
    match credential.and_then(|credential| credential.kind.as_ref()) {
        None => Credential::Absent,
        Some(pb::credential::Kind::CookieHeader(header)) => Credential::CookieHeader(header),
        Some(pb::credential::Kind::Token(token)) => Credential::Token(token),
    }
}

fn scope(scope: i32) -> Result<Scope, Fault> {
    match pb::DestroyScope::try_from(scope) {
        Ok(pb::DestroyScope::Unspecified | pb::DestroyScope::This) => Ok(Scope::This),
        Ok(pb::DestroyScope::Others) => Ok(Scope::Others),
        Ok(pb::DestroyScope::All) => Ok(Scope::All),
        Err(_) => {
            let problem = format!("expected a DestroyScope, found {scope}");
            Err(Fault::at(Reason::InvalidArgument, "scope", problem))
        }
    }
}

pub(super) fn absence(absence: Absence) -> pb::SessionState {
    match absence {
        Absence::None => pb::SessionState::None,
        Absence::Invalid => pb::SessionState::Invalid,
        Absence::NotFound => pb::SessionState::NotFound,
        Absence::Superseded | Absence::JustSuperseded => pb::SessionState::Superseded,
        Absence::Expired => pb::SessionState::Expired,
    }
}

pub(super) fn session_without_data(session: &Session) -> pb::Session {
    let record = &session.record;
    pb::Session {
        id: session.id.to_string(),
        data: Default::default(),
        version: record.version,
        principal: record.principal.as_bytes().clone(),
        create_time: Some(timestamp(session.create_time())),
        expire_time: Some(timestamp(session.expire_time())),
        duration: Some(duration(session.duration)),
        last_use_time: Some(timestamp(session.last_use_time())),
        label: record.extension.label.as_bytes().clone(),
    }
}

/// A session that was asked for by its id; `None`: there is none.
pub(super) fn found(session: Option<&Session>, with_data: bool) -> pb::GetSessionResponse {
    let Some(session) = session else { return pb::GetSessionResponse::default() };
    let text = session.record.data.text();
    let mut found = session_without_data(session);
    if with_data {
        found.data = text.clone();
    }
    pb::GetSessionResponse { session: Some(found), data_bytes: count(text.len()) }
}

/// How the daemon is.
pub(super) fn status(status: Status) -> pb::GetStatusResponse {
    let Status { version, start_time, time, state, store, engines, listeners, metrics } = status;
    let (state, reason) = match state {
        State::Serving => (pb::DaemonState::Serving, String::new()),
        State::Reading(reason) => (pb::DaemonState::Reading, reason),
        State::NotServing(reason) => (pb::DaemonState::NotServing, reason),
        State::Stopping => (pb::DaemonState::Stopping, "the daemon stops".to_owned()),
    };
    let engine = |EngineStatus { name, stored }| pb::EngineStatus { name, stored_count: stored };
    let listener =
        |ListenerStatus { kind, address }| pb::ListenerStatus { kind: kind.to_owned(), address };
    pb::GetStatusResponse {
        version: version.to_owned(),
        start_time: Some(timestamp(start_time)),
        status_time: Some(timestamp(time)),
        state: state.into(),
        reason,
        store: store.to_owned(),
        engines: engines.into_iter().map(engine).collect(),
        listeners: listeners.into_iter().map(listener).collect(),
        metrics,
    }
}

pub(super) fn list_own(request: &pb::SessionServiceListSessionsRequest) -> ListOwnRequest<'_> {
    ListOwnRequest {
        engine: &request.engine,
        credential: credential(request.credential.as_ref()),
        page_size: request.page_size,
        page_token: &request.page_token,
    }
}

pub(super) fn own_page(page: &OwnPage) -> pb::SessionServiceListSessionsResponse {
    match page {
        OwnPage::Absent(why) => pb::SessionServiceListSessionsResponse {
            state: absence(*why).into(),
            ..Default::default()
        },
        OwnPage::Live { current, sessions, next_page_token } => {
            pb::SessionServiceListSessionsResponse {
                state: pb::SessionState::Active.into(),
                sessions: sessions.iter().map(session_without_data).collect(),
                current_session_id: current.to_string(),
                next_page_token: next_page_token.clone().unwrap_or_default(),
            }
        }
    }
}

/// The limits of the protocol are not in it.
pub(super) fn description(description: Description) -> pb::DescribeResponse {
    let Description { version, limits, engines } = description;
    pb::DescribeResponse {
        version: version.to_owned(),
        limits: Some(pb::Limits {
            max_cookie_header_bytes: count(limits.max_cookie_header_bytes),
            max_principal_bytes: count(limits.max_principal_bytes),
            max_label_bytes: count(limits.max_label_bytes),
            max_keys: count(limits.max_keys),
            max_unset: count(limits.max_unset),
            max_session_ids: count(limits.max_session_ids),
            max_duration: Some(duration(limits.max_duration)),
            ..Default::default()
        }),
        engines: engines.into_iter().map(engine).collect(),
    }
}

fn engine(engine: EngineDescription) -> pb::Engine {
    pb::Engine {
        name: engine.name,
        cookie_name: engine.cookie_name,
        cookie_format: match engine.cookie_format {
            CookieFormat::Plain => pb::CookieFormat::Plain,
            CookieFormat::Express => pb::CookieFormat::Express,
        }
        .into(),
        persistent: engine.persistent,
        duration: Some(duration(engine.duration)),
        absolute_duration: engine.absolute_duration.map(duration),
        touch_granularity: Some(duration(engine.touch_granularity)),
        automatic_touch: engine.automatic_touch,
        max_data_bytes: count(engine.max_data_bytes),
    }
}

/// A number of a message. What is more than it can say is as good as no limit.
pub(super) fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// An event as it is sent to a watcher.
pub(super) fn event(event: &Arc<WatchedEvent>) -> pb::WatchSessionsResponse {
    let mut response = pb::WatchSessionsResponse {
        engine: event.engine.clone(),
        session_id: event.session.to_string(),
        principal: event.principal.as_bytes().clone(),
        event_time: Some(timestamp(event.time)),
        ..Default::default()
    };
    let kind = match &event.kind {
        WatchedKind::Created => pb::SessionEventKind::Created,
        WatchedKind::Rolled { former } => {
            response.former_principal = former.as_bytes().clone();
            pb::SessionEventKind::Rolled
        }
        WatchedKind::Destroyed(cause) => {
            response.cause = end_cause(*cause).into();
            pb::SessionEventKind::Destroyed
        }
        WatchedKind::Expired => pb::SessionEventKind::Expired,
    };
    response.kind = kind.into();
    response
}

fn end_cause(cause: Cause) -> pb::SessionEndCause {
    match cause {
        Cause::Owner => pb::SessionEndCause::Owner,
        Cause::Scope => pb::SessionEndCause::Scope,
        Cause::Revoked => pb::SessionEndCause::Revoked,
        Cause::Limit => pb::SessionEndCause::Limit,
    }
}

/// A record as an export sends it.
pub(super) fn exported(
    engine: &str,
    Entry { kind, id, record }: &Entry,
    offset: WallOffset,
) -> pb::SessionRecord {
    let time = |moment| Some(timestamp(offset.wall(moment).min(LAST)));
    pb::SessionRecord {
        engine: engine.to_owned(),
        id: id.to_string(),
        verifier_sha256: bytes::Bytes::copy_from_slice(record.verifier.as_bytes()),
        version: record.version,
        principal: record.principal.as_bytes().clone(),
        create_time: time(record.create_time),
        idle_deadline: time(record.deadline),
        duration: record.duration.map(duration),
        data: record.data.text().clone(),
        adoption_mark: *kind == Kind::Mark,
        former: record.extension.former.iter().map(|one| former(one, offset)).collect(),
        persistent: record.extension.persistent,
        label: record.extension.label.as_bytes().clone(),
    }
}

/// A record as an import brings it.
pub(super) fn imported(record: pb::SessionRecord) -> ImportRecord {
    ImportRecord {
        engine: record.engine,
        kind: if record.adoption_mark { Kind::Mark } else { Kind::Session },
        id: record.id,
        verifier_sha256: record.verifier_sha256,
        version: record.version,
        principal: record.principal,
        create_time: record.create_time.map(raw_time),
        idle_deadline: record.idle_deadline.map(raw_time),
        duration: record.duration.map(raw_duration),
        data: record.data,
        former: record
            .former
            .into_iter()
            .map(|former| ImportFormer {
                verifier_sha256: former.verifier_sha256,
                roll_time: former.roll_time.map(raw_time),
            })
            .collect(),
        persistent: record.persistent,
        label: record.label,
    }
}

fn former(former: &Former, offset: WallOffset) -> pb::FormerVerifier {
    pb::FormerVerifier {
        verifier_sha256: bytes::Bytes::copy_from_slice(former.verifier.as_bytes()),
        roll_time: Some(timestamp(offset.wall(former.rolled).min(LAST))),
    }
}

pub(super) fn raw_duration(
    prost_types::Duration { seconds, nanos }: prost_types::Duration,
) -> RawDuration {
    RawDuration { seconds, nanos }
}

fn raw_time(prost_types::Timestamp { seconds, nanos }: prost_types::Timestamp) -> RawTime {
    RawTime { seconds, nanos }
}

pub(super) fn timestamp(time: WallTime) -> prost_types::Timestamp {
    let (seconds, nanos) = seconds_and_nanos(time);
    prost_types::Timestamp { seconds: seconds as i64, nanos: nanos as i32 }
}

/// Since the Unix epoch. Both are in the range of a Timestamp's fields.
pub(super) fn seconds_and_nanos(time: WallTime) -> (u64, u32) {
    let millis = time.unix_millis();
    (millis / 1000, (millis % 1000) as u32 * 1_000_000)
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: duration.as_secs().try_into().unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos() as i32,
    }
}
