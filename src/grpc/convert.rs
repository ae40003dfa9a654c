//! Between wire messages and the session room's types.

use std::{num::NonZeroU64, time::Duration};

use crate::session::{
    self,
    clock::Moment,
    credential::{Absence, Credential},
    data::{Data, DataError},
    engine::WriteOptions,
    lifetime::MAX_DURATION,
    record::Principal,
};

use super::{
    fault::{Fault, Reason},
    wire,
};

pub fn credential(credential: Option<&wire::Credential>) -> Credential<'_> {
    match credential.and_then(|credential| credential.kind.as_ref()) {
        None => Credential::Absent,
        Some(wire::credential::Kind::CookieHeader(header)) => Credential::CookieHeader(header),
        Some(wire::credential::Kind::Token(token)) => Credential::Token(token),
    }
}

pub fn absence(absence: Absence) -> wire::SessionState {
    match absence {
        Absence::None => wire::SessionState::None,
        Absence::Invalid => wire::SessionState::Invalid,
        Absence::NotFound => wire::SessionState::NotFound,
        Absence::Superseded => wire::SessionState::Superseded,
        Absence::Expired => wire::SessionState::Expired,
    }
}

pub fn session_without_data(session: &session::Session) -> wire::Session {
    let record = &session.record;
    wire::Session {
        id: session.id.to_string(),
        data: Default::default(),
        version: record.version,
        principal: record.principal.as_bytes().clone(),
        create_time: Some(timestamp(record.create_time)),
        expire_time: Some(timestamp(session.expire_time)),
        duration: Some(duration(session.duration)),
    }
}

/// What a Write asks for, checked; its credential and engine aside.
pub fn write_options(request: &mut wire::WriteRequest) -> Result<WriteOptions, Fault> {
    let set = if request.set.is_empty() {
        Data::EMPTY
    } else {
        let invalid = |error: DataError| Fault::at(Reason::InvalidData, "set", error.to_string());
        Data::parse(std::mem::take(&mut request.set)).map_err(invalid)?
    };
    Ok(WriteOptions {
        set,
        unset: request.unset.iter().map(|key| unset(key)).collect::<Result<_, _>>()?,
        replace: request.replace,
        if_version: request.if_version.map(if_version).transpose()?,
        roll: request.roll,
        principal: request.principal.as_deref().map(principal).transpose()?,
        duration: request.duration.as_ref().map(own_duration).transpose()?,
    })
}

fn invalid(field: &'static str, problem: String) -> Fault {
    Fault::at(Reason::InvalidArgument, field, problem)
}

fn if_version(version: u64) -> Result<NonZeroU64, Fault> {
    NonZeroU64::new(version)
        .ok_or_else(|| invalid("if_version", "expected at least 1, the version at creation".into()))
}

pub fn principal(principal: &[u8]) -> Result<Principal, Fault> {
    Principal::new(principal).ok_or_else(|| {
        let (limit, len) = (Principal::MAX_LEN, principal.len());
        invalid("principal", format!("expected at most {limit} bytes of UTF-8, found {len} bytes"))
    })
}

fn unset(key: &[u8]) -> Result<String, Fault> {
    let key = std::str::from_utf8(key).map(str::to_owned);
    key.map_err(|_| invalid("unset", "expected keys in UTF-8".to_owned()))
}

pub fn own_duration(given: &prost_types::Duration) -> Result<Duration, Fault> {
    // A negative or a malformed one is no std::time::Duration.
    let valid = (0..1_000_000_000).contains(&given.nanos);
    let duration = Duration::try_from(*given)
        .ok()
        .filter(|duration| valid && !duration.is_zero() && *duration <= MAX_DURATION);
    duration.ok_or_else(|| {
        let problem = format!(
            "expected more than zero and at most {} s, found {} s and {} ns",
            MAX_DURATION.as_secs(),
            given.seconds,
            given.nanos
        );
        invalid("duration", problem)
    })
}

pub fn timestamp(moment: Moment) -> prost_types::Timestamp {
    let (seconds, nanos) = seconds_and_nanos(moment);
    prost_types::Timestamp { seconds: seconds as i64, nanos: nanos as i32 }
}

/// Since the Unix epoch. Both are in the range of a Timestamp's fields.
pub fn seconds_and_nanos(moment: Moment) -> (u64, u32) {
    let millis = moment.unix_millis();
    (millis / 1000, (millis % 1000) as u32 * 1_000_000)
}

pub fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: duration.as_secs().try_into().unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos() as i32,
    }
}
