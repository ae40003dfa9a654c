//! The checks of values that callers give. The faults name the field, and never quote
//! session data.

use std::{num::NonZeroU64, time::Duration};

use bytes::Bytes;

use super::fault::{Fault, Reason};
use crate::session::{
    clock::{WallTime, whole_millis},
    data::{Data, DataError, LARGE_BYTES},
    error::Error,
    id::PublicId,
    lifetime::MAX_DURATION,
    record::{Label, Principal},
    store::run_blocking,
};

/// A duration as a caller gives it: any numbers may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawDuration {
    /// May be negative or too large for a [`Duration`].
    pub seconds: i64,
    /// May be negative, or a second and more.
    pub nanos: i32,
}

/// A time since the Unix epoch as a caller gives it: any numbers may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawTime {
    /// Negative: before the epoch.
    pub seconds: i64,
    /// May be negative, or a second and more.
    pub nanos: i32,
}

const NANOS_PER_SECOND: u32 = 1_000_000_000;

pub(super) fn invalid(field: &'static str, problem: String) -> Fault {
    Fault::at(Reason::InvalidArgument, field, problem)
}

/// The most keys that one Write removes.
pub const MAX_UNSET: usize = 1000;
/// The most sessions that one Destroy or one revocation names.
pub const MAX_IDS: usize = 1000;
/// A `set` of this many bytes is always read, whatever `max_data_bytes` is. Merging drops
/// white space and keys that are there twice, so what is sent may be longer than what is
/// kept.
const SMALL_SET_BYTES: usize = 4 << 10;

/// `set` of a Write.
pub(super) enum Set {
    Checked(Data),
    /// So long that it is not checked on a thread that serves others.
    Large(Bytes),
}

/// `set` of a Write to an engine that keeps `max_data_bytes`. Empty: nothing to set.
pub(super) fn set(json: Bytes, max_data_bytes: usize) -> Result<Set, Fault> {
    let most = max_data_bytes.max(SMALL_SET_BYTES);
    match json.len() {
        0 => Ok(Set::Checked(Data::EMPTY)),
        len if len > most => {
            let problem = format!(
                "expected at most {most} bytes, because the engine keeps at most \
                 {max_data_bytes}, found {len} bytes"
            );
            Err(Fault::at(Reason::DataTooLarge, "set", problem))
        }
        len if len > LARGE_BYTES => Ok(Set::Large(json)),
        _ => {
            let invalid =
                |error: DataError| Fault::at(Reason::InvalidData, "set", error.to_string());
            Data::parse(json).map(Set::Checked).map_err(invalid)
        }
    }
}

impl Set {
    /// The data, once it is checked.
    pub(super) async fn checked(self) -> Result<Data, Error> {
        let json = match self {
            Self::Checked(data) => return Ok(data),
            Self::Large(json) => json,
        };
        Ok(run_blocking("check the data", move || Data::parse(json)).await??)
    }
}

/// Checks how many keys a Write removes, before any of them is looked at.
pub(crate) fn unset_count(found: usize) -> Result<(), Fault> {
    if found > MAX_UNSET {
        let problem = format!("expected at most {MAX_UNSET} keys, found {found}");
        return Err(invalid("unset", problem));
    }
    Ok(())
}

/// Checks how many sessions are named, before any of the ids is looked at.
pub(crate) fn session_id_count(found: usize) -> Result<(), Fault> {
    if found > MAX_IDS {
        let problem = format!("expected at most {MAX_IDS} ids, found {found}");
        return Err(invalid("session_ids", problem));
    }
    Ok(())
}

/// `unset` of a Write.
pub(super) fn unset(keys: &[Bytes]) -> Result<Vec<String>, Fault> {
    unset_count(keys.len())?;
    let key = |key: &Bytes| String::from_utf8(key.to_vec());
    let keys = keys.iter().map(key).collect::<Result<_, _>>();
    keys.map_err(|_| invalid("unset", "expected keys in UTF-8".to_owned()))
}

pub(super) fn if_version(version: u64) -> Result<NonZeroU64, Fault> {
    NonZeroU64::new(version)
        .ok_or_else(|| invalid("if_version", "expected at least 1, the version at creation".into()))
}

pub(super) fn principal(principal: &[u8]) -> Result<Principal, Fault> {
    Principal::new(principal).ok_or_else(|| {
        let (limit, len) = (Principal::MAX_LEN, principal.len());
        invalid("principal", format!("expected at most {limit} bytes of UTF-8, found {len} bytes"))
    })
}

pub(super) fn label(label: &[u8]) -> Result<Label, Fault> {
    Label::new(label).ok_or_else(|| {
        let (limit, len) = (Label::MAX_LEN, label.len());
        invalid("label", format!("expected at most {limit} bytes of UTF-8, found {len} bytes"))
    })
}

/// The principal whose sessions an operator means: not the anonymous one.
pub(super) fn owner(name: &[u8]) -> Result<Principal, Fault> {
    if name.is_empty() {
        let problem = "expected whose sessions are meant; anonymous sessions are nobody's";
        return Err(invalid("principal", problem.to_owned()));
    }
    principal(name)
}

/// Public ids of sessions.
pub(super) fn session_ids<'i>(
    ids: impl ExactSizeIterator<Item = &'i [u8]>,
) -> Result<Vec<PublicId>, Fault> {
    session_id_count(ids.len())?;
    // An id of no session is no mistake of the caller. A token in its place is one:
    // nothing would be ended.
    ids.map(PublicId::from_text).collect::<Option<_>>().ok_or_else(|| {
        let len = PublicId::TEXT_LEN;
        let problem =
            format!("expected the public ids of sessions, {len} characters of base64url each");
        invalid("session_ids", problem)
    })
}

/// How long an operation may take.
pub(crate) fn timeout(timeout: RawDuration) -> Result<Duration, Fault> {
    duration(timeout).map_err(|fault| fault.with_field("timeout"))
}

/// A session's own idle timeout, in whole milliseconds.
pub(super) fn duration(RawDuration { seconds, nanos }: RawDuration) -> Result<Duration, Fault> {
    let whole = u64::try_from(seconds).ok();
    let rest = u32::try_from(nanos).ok().filter(|nanos| *nanos < NANOS_PER_SECOND);
    let duration = whole.zip(rest).map(|(whole, rest)| Duration::new(whole, rest));
    let valid = duration.filter(|duration| !duration.is_zero() && *duration <= MAX_DURATION);
    // Rounded here, so that every store and every answer agree.
    valid.map(whole_millis).ok_or_else(|| {
        let most = MAX_DURATION.as_secs();
        let problem = format!(
            "expected more than zero and at most {most} s, found {seconds} s and {nanos} ns"
        );
        invalid("duration", problem)
    })
}

/// A time, cut to milliseconds; `None` if it is before 1970 or no time at all.
pub(super) fn time(RawTime { seconds, nanos }: RawTime) -> Option<WallTime> {
    let seconds = u64::try_from(seconds).ok()?;
    let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < NANOS_PER_SECOND)?;
    let millis = seconds.checked_mul(1000)?.checked_add(u64::from(nanos / 1_000_000))?;
    Some(WallTime::from_unix_millis(millis))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_duration_is_judged_without_a_panic(seconds in any::<i64>(), nanos in any::<i32>()) {
            for seconds in [seconds, seconds % 50_000_000] {
                let judged = duration(RawDuration { seconds, nanos });
                let most = MAX_DURATION.as_secs() as i64;
                let fits = (0..1_000_000_000).contains(&nanos)
                    && seconds >= 0
                    && (seconds, nanos) > (0, 0)
                    && (seconds, nanos) <= (most, 0);
                prop_assert_eq!(judged.is_ok(), fits);
            }
        }

        #[test]
        fn any_time_is_judged_without_a_panic(seconds in any::<i64>(), nanos in any::<i32>()) {
            if let Some(time) = time(RawTime { seconds, nanos }) {
                let millis = time.unix_millis();
                prop_assert_eq!(millis / 1000, seconds as u64);
                prop_assert_eq!(millis % 1000, nanos as u64 / 1_000_000);
            }
        }
    }
}
