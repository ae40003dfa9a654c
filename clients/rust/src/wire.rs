//! Messages of the API: made from the options, and read into the answers.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::{
    data::Data,
    error::{Error, Result},
    pb, status,
    types::{
        Credential, Description, DestroyOptions, Engine, Kind, Limits, Scope, SessionInfo, State,
        WriteOptions,
    },
};

const MAX_DURATION: Duration = Duration::from_secs(400 * 24 * 60 * 60);
const MAX_TEXT_BYTES: usize = 256;
pub(crate) const MAX_UNSET: usize = 1000;
const MAX_SESSION_IDS: usize = 1000;

pub(crate) fn credential(credential: &Credential) -> Option<pb::Credential> {
    use pb::credential::Kind as Wire;
    let kind = match &credential.0 {
        Kind::None => return None,
        Kind::CookieHeader(header) => Wire::CookieHeader(header.clone()),
        Kind::Token(token) => Wire::Token(token.clone()),
    };
    Some(pb::Credential { kind: Some(kind) })
}

pub(crate) fn duration(given: Option<Duration>) -> Result<Option<prost_types::Duration>> {
    let Some(given) = given else { return Ok(None) };
    if given.is_zero() || given > MAX_DURATION {
        return Err(Error::invalid("duration", "expected more than zero, at most 400 days"));
    }
    Ok(Some(on_wire(given)))
}

/// Shorter than what does not fit.
pub(crate) fn on_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: duration.as_secs().try_into().unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().try_into().unwrap_or_default(),
    }
}

pub(crate) fn write(
    engine: String,
    from: &Credential,
    options: WriteOptions,
) -> Result<pb::WriteRequest> {
    let WriteOptions { engine: _, set, unset, replace, if_version, roll, .. } = options;
    for (field, text) in [("principal", &options.principal), ("label", &options.label)] {
        if text.as_ref().is_some_and(|text| text.len() > MAX_TEXT_BYTES) {
            return Err(Error::invalid(field, "longer than 256 octets"));
        }
    }
    if unset.len() > MAX_UNSET {
        return Err(Error::invalid("unset", "more than 1000 keys"));
    }
    match if_version {
        Some(0) => return Err(Error::invalid("if_version", "expected at least 1")),
        Some(_) if from.is_none() => {
            return Err(Error::invalid("if_version", "not when creating"));
        }
        _ => {}
    }
    Ok(pb::WriteRequest {
        engine,
        credential: credential(from),
        set: if set.is_empty() { String::new() } else { set.to_json() },
        unset,
        replace,
        if_version,
        roll,
        principal: options.principal,
        duration: duration(options.duration)?,
        persistent: options.persistent,
        label: options.label,
    })
}

pub(crate) fn destroy(
    engine: String,
    from: &Credential,
    options: DestroyOptions,
) -> Result<pb::DestroyRequest> {
    use pb::DestroyScope as Wire;
    let (scope, session_ids) = match options.scope {
        Scope::This => (Wire::This, vec![]),
        Scope::Others => (Wire::Others, vec![]),
        Scope::All => (Wire::All, vec![]),
        // The daemon takes an empty list for no list, and would end the session itself.
        Scope::Ids(ids) if ids.is_empty() || ids.len() > MAX_SESSION_IDS => {
            let found = ids.len();
            return Err(Error::invalid(
                "session_ids",
                format_args!("expected 1 to {MAX_SESSION_IDS} ids, found {found}"),
            ));
        }
        Scope::Ids(ids) => (Wire::Unspecified, ids),
    };
    Ok(pb::DestroyRequest {
        engine,
        credential: credential(from),
        scope: scope.into(),
        session_ids,
    })
}

pub(crate) fn state(found: i32, has_session: bool, address: &str) -> Result<State> {
    use pb::SessionState as Wire;
    let state = match Wire::try_from(found) {
        Ok(Wire::Active) => State::Active,
        Ok(Wire::Created) => State::Created,
        Ok(Wire::None) => State::None,
        Ok(Wire::Invalid) => State::Invalid,
        Ok(Wire::NotFound) => State::NotFound,
        Ok(Wire::Expired) => State::Expired,
        Ok(Wire::Superseded) => State::Superseded,
        Ok(Wire::Unspecified) | Err(_) => {
            let what = format!("the unknown state {found} of a session");
            return Err(status::protocol(address, &what));
        }
    };
    // To take it for "no session" would log somebody out.
    if matches!(state, State::Active | State::Created) != has_session {
        let what = format!("the state {state:?}, session: {has_session}");
        return Err(status::protocol(address, &what));
    }
    Ok(state)
}

pub(crate) fn session(found: pb::Session) -> Result<SessionInfo> {
    Ok(SessionInfo {
        data: Data::from_json(&found.data)?,
        id: found.id,
        version: found.version,
        principal: found.principal,
        create_time: time(found.create_time),
        expire_time: time(found.expire_time),
        last_use_time: time(found.last_use_time),
        duration: length(found.duration),
        label: found.label,
    })
}

/// Empty: there is none.
pub(crate) fn token(found: String) -> Option<String> {
    Some(found).filter(|token| !token.is_empty())
}

pub(crate) fn description(found: pb::DescribeResponse) -> Description {
    let limits = found.limits.unwrap_or_default();
    let engine = |engine: pb::Engine| Engine {
        express_format: engine.cookie_format() == pb::CookieFormat::Express,
        name: engine.name,
        cookie_name: engine.cookie_name,
        persistent: engine.persistent,
        duration: length(engine.duration),
        absolute_duration: engine.absolute_duration.map(|found| length(Some(found))),
        touch_granularity: length(engine.touch_granularity),
        automatic_touch: engine.automatic_touch,
        max_data_bytes: engine.max_data_bytes as usize,
    };
    Description {
        version: found.version,
        limits: Limits {
            max_message_bytes: limits.max_message_bytes as usize,
            pipeline_in_flight: limits.pipeline_in_flight as usize,
            max_cookie_header_bytes: limits.max_cookie_header_bytes as usize,
            max_principal_bytes: limits.max_principal_bytes as usize,
            max_label_bytes: limits.max_label_bytes as usize,
            max_keys: limits.max_keys as usize,
            max_unset: limits.max_unset as usize,
            max_session_ids: limits.max_session_ids as usize,
            max_duration: length(limits.max_duration),
        },
        engines: found.engines.into_iter().map(engine).collect(),
    }
}

fn time(found: Option<prost_types::Timestamp>) -> SystemTime {
    found.and_then(|time| time.try_into().ok()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn length(found: Option<prost_types::Duration>) -> Duration {
    found.and_then(|length| length.try_into().ok()).unwrap_or_default()
}

/// Whether a Cookie header has a cookie of this name, octet by octet. Spaces and tabs around a
/// name do not count.
pub(crate) fn has_cookie(header: &[u8], name: &str) -> bool {
    header.split(|&octet| octet == b';').any(|pair| {
        let mut parts = pair.splitn(2, |&octet| octet == b'=');
        let found = parts.next().unwrap_or_default();
        parts.next().is_some() && trim(found) == name.as_bytes()
    })
}

/// Without spaces and tabs around.
pub(crate) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// What an operation is on the wire: a PipelineRequest without its sequence and timeout, which
/// can be added behind it.
pub(crate) fn encoded(operation: pb::pipeline_request::Operation) -> Bytes {
    use prost::Message;
    let request = pb::PipelineRequest { operation: Some(operation), ..Default::default() };
    request.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_exact_name() {
        for header in ["s=1", "a=b; s=", "a; \ts =x", ";;s=;", "a=\"; s=1", "s=1; s=2"] {
            assert!(has_cookie(header.as_bytes(), "s"), "expected a cookie in {header:?}");
        }
        for header in ["", "s", "S=1", "ss=1", "a=s", "a=;s", "a=s=1", "\u{a0}s=1"] {
            assert!(!has_cookie(header.as_bytes(), "s"), "expected no cookie in {header:?}");
        }
        assert!(has_cookie(b"\xff=\x00; s=\xff", "s"), "expected octets to break nothing");
    }
}
