//! The binary encoding of a record, for stores that keep bytes.
//!
//! The first octet is the version of the layout, for releases that must read an
//! earlier layout. Layout 1, integers big-endian:
//!
//! | octets | field |
//! |---|---|
//! | 1 | 1, the version of this layout |
//! | 32 | SHA-256 of the verifier |
//! | 8 | version of the session |
//! | 8 | create time, ms since the Unix epoch |
//! | 8 | deadline, ms since the Unix epoch |
//! | 8 | the session's own idle timeout in ms; 0 if it has none |
//! | 2 | length of the principal |
//! | … | principal, UTF-8 |
//! | … | data, JSON text, to the end |

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};

use crate::session::{
    clock::Moment,
    data::Data,
    id::VerifierHash,
    record::{Principal, Record},
};

const LAYOUT: u8 = 1;
/// Length of the header: all fields before the length of the principal.
pub const HEADER_LEN: usize = 1 + VerifierHash::LEN + 4 * 8;
/// Offset of the deadline.
pub const DEADLINE_AT: usize = 1 + VerifierHash::LEN + 2 * 8;
/// Length of the shortest possible record.
pub const RECORD_MIN_LEN: usize = HEADER_LEN + 2;

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Another release wrote it.
    #[error("the record has layout {found}; this version reads layout {LAYOUT}")]
    UnknownLayout {
        /// The first octet of the record.
        found: u8,
    },
    /// It ends before its last field.
    #[error("the record is truncated: it has only {len} bytes")]
    CutShort {
        /// Of the whole record.
        len: usize,
    },
    /// The principal or the data.
    #[error("the record contains text that is not UTF-8")]
    NotText,
}

/// Appends the record to `bytes`.
pub fn encode(record: &Record, bytes: &mut Vec<u8>) {
    let principal = record.principal.as_bytes();
    let data = record.data.text();
    bytes.reserve_exact(RECORD_MIN_LEN + principal.len() + data.len());
    bytes.put_u8(LAYOUT);
    bytes.put_slice(record.verifier.as_bytes());
    bytes.put_u64(record.version);
    bytes.put_u64(record.create_time.unix_millis());
    bytes.put_u64(record.deadline.unix_millis());
    bytes.put_u64(record.duration.map_or(0, whole_millis));
    let principal_len = u16::try_from(principal.len());
    bytes.put_u16(principal_len.expect("a principal is at most 256 bytes long"));
    bytes.put_slice(principal);
    bytes.put_slice(data);
}

/// Fails if the bytes are not a complete record of a known layout. The data is not parsed: it was
/// checked when it came in.
pub fn decode(mut bytes: Bytes) -> Result<Record, DecodeError> {
    let len = bytes.len();
    let cut_short = DecodeError::CutShort { len };
    match bytes.first() {
        None => return Err(cut_short),
        Some(&LAYOUT) => {}
        Some(&found) => return Err(DecodeError::UnknownLayout { found }),
    }
    if len < RECORD_MIN_LEN {
        return Err(cut_short);
    }
    bytes.advance(1);
    let mut verifier = [0; VerifierHash::LEN];
    bytes.copy_to_slice(&mut verifier);
    let version = bytes.get_u64();
    let create_time = Moment::from_unix_millis(bytes.get_u64());
    let deadline = Moment::from_unix_millis(bytes.get_u64());
    let duration = Some(bytes.get_u64()).filter(|millis| *millis != 0).map(Duration::from_millis);
    let principal_len = usize::from(bytes.get_u16());
    if bytes.len() < principal_len {
        return Err(cut_short);
    }
    let principal = bytes.split_to(principal_len);
    Ok(Record {
        verifier: VerifierHash::from_bytes(verifier),
        version,
        create_time,
        deadline,
        duration,
        principal: Principal::new(&principal).ok_or(DecodeError::NotText)?,
        data: Data::from_stored(bytes).ok_or(DecodeError::NotText)?,
    })
}

/// Rounds up, because a session must not end early.
fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> Record {
        Record {
            verifier: VerifierHash::from_bytes(std::array::from_fn(|at| at as u8)),
            version: 7,
            create_time: Moment::from_unix_millis(1_700_000_000_000),
            deadline: Moment::from_unix_millis(1_700_001_828_125),
            duration: Some(Duration::from_secs(1800)),
            principal: Principal::new("zoë".as_bytes()).expect("short"),
            data: Data::parse(Bytes::from_static(br#"{"n":9007199254740993}"#)).expect("JSON"),
        }
    }

    /// A record as version 0.1.0 wrote it. These bytes never change: stored
    /// records must stay readable forever.
    const LAYOUT_1: &[u8] = b"\x01\
        \x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\
        \x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\
        \x00\x00\x00\x00\x00\x00\x00\x07\
        \x00\x00\x01\x8b\xcf\xe5\x68\x00\
        \x00\x00\x01\x8b\xd0\x01\x4d\x1d\
        \x00\x00\x00\x00\x00\x1b\x77\x40\
        \x00\x04zo\xc3\xab\
        {\"n\":9007199254740993}";

    #[test]
    fn layout_1_stays_readable() {
        assert_eq!(decode(Bytes::from_static(LAYOUT_1)), Ok(record()));
    }

    #[test]
    fn layout_1_is_what_is_written() {
        let mut written = b"before".to_vec();
        encode(&record(), &mut written);
        assert_eq!(written.strip_prefix(b"before"), Some(LAYOUT_1));
    }

    #[test]
    fn damage_is_named() {
        let found = decode(Bytes::from_static(b"\x09rest"));
        assert_eq!(found, Err(DecodeError::UnknownLayout { found: 9 }));
        let found = decode(Bytes::from_static(&LAYOUT_1[..RECORD_MIN_LEN + 2]));
        assert_eq!(found, Err(DecodeError::CutShort { len: RECORD_MIN_LEN + 2 }));
        assert_eq!(decode(Bytes::new()), Err(DecodeError::CutShort { len: 0 }));
        let mut broken = LAYOUT_1.to_vec();
        *broken.last_mut().expect("not empty") = 0xff;
        assert_eq!(decode(broken.into()), Err(DecodeError::NotText));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes in any::<Vec<u8>>(), known in any::<bool>()) {
            let mut bytes = bytes;
            if let (true, Some(first)) = (known, bytes.first_mut()) {
                *first = LAYOUT;
            }
            if let Ok(record) = decode(bytes.clone().into()) {
                let mut again = Vec::new();
                encode(&record, &mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
