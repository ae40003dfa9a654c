//! The binary encoding of a record, for stores that keep bytes.
//!
//! The first octet is the version of the layout. Layout 2, integers big-endian:
//!
//! | octets | field |
//! |---|---|
//! | 1 | 2, the version of this layout |
//! | 32 | SHA-256 of the verifier |
//! | 8 | version of the session |
//! | 8 | create time, ms since the Unix epoch |
//! | 8 | deadline, ms since the Unix epoch |
//! | 8 | the session's own idle timeout in ms; 0 if it has none |
//! | 2 | length of the principal |
//! | … | principal, UTF-8 |
//! | 2 | length of the extension area |
//! | … | extension area: fields, each a tag (1), a length (2) and a value |
//! | … | data, JSON text, to the end |
//!
//! Layout 1 has no extension area. Both are read; [`Layout::LATEST`] is written, unless a
//! store is told otherwise.
//!
//! | tag | value |
//! |---|---|
//! | 1 | former verifiers, the latest one last: SHA-256 (32), and when it was rolled, ms (8) |
//! | 2 | 1 if the cookie is persistent, 0 if it is not (1) |
//! | 3 | label, UTF-8, at most 256 octets |
//!
//! Releases share a store while they are upgraded one by one. So a new field is an extension:
//! an earlier release reads, touches, changes and ends such a record, and keeps the field as
//! it is. What an extension cannot express takes a new layout. Then one release reads it, and
//! only the next one writes it.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};

use crate::session::{
    clock::{Moment, whole_millis},
    data::Data,
    id::VerifierHash,
    record::{Extension, Former, Label, Principal, Record},
};

/// A version of the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Layout {
    /// Has no extension area: what would be in it is left out.
    One = 1,
    /// Has an extension area.
    Two = 2,
}

impl Layout {
    /// The layout that this release writes.
    pub const LATEST: Self = Self::Two;

    /// `None`: this release does not know it.
    pub fn of(octet: u8) -> Option<Self> {
        [Self::One, Self::Two].into_iter().find(|layout| *layout as u8 == octet)
    }
}

/// The greatest version of the layout that this release reads.
pub(super) const LATEST: u8 = Layout::LATEST as u8;
/// Length of the header: all fields before the length of the principal.
pub const HEADER_LEN: usize = 1 + VerifierHash::LEN + 4 * 8;
/// Offset of the deadline.
pub(super) const DEADLINE_AT: usize = 1 + VerifierHash::LEN + 2 * 8;
/// Length of the shortest possible record, which has layout 1.
pub(super) const RECORD_MIN_LEN: usize = HEADER_LEN + 2;
/// The tag of the former verifiers.
pub(super) const FORMER_TAG: u8 = 1;
const PERSISTENT_TAG: u8 = 2;
const LABEL_TAG: u8 = 3;
/// Length of a former verifier.
pub(super) const FORMER_LEN: usize = VerifierHash::LEN + 8;

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Another release wrote it.
    #[error("the record has layout {found}; this version reads the layouts up to {LATEST}")]
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
    /// A field of it is longer than the area, or has another length than it must.
    #[error("the extension area of the record is malformed")]
    BadExtension,
}

/// Appends the record to `bytes`, in this layout.
pub fn encode(record: &Record, layout: Layout, bytes: &mut Vec<u8>) {
    let principal = record.principal.as_bytes();
    let data = record.data.text();
    let area = match layout {
        Layout::One => None,
        Layout::Two => Some(extension(&record.extension)),
    };
    let room = area.as_ref().map_or(0, |area| 2 + area.len());
    bytes.reserve_exact(RECORD_MIN_LEN + principal.len() + room + data.len());
    bytes.put_u8(layout as u8);
    bytes.put_slice(record.verifier.as_bytes());
    bytes.put_u64(record.version);
    bytes.put_u64(record.create_time.unix_millis());
    bytes.put_u64(record.deadline.unix_millis());
    bytes.put_u64(record.duration.map_or(0, millis));
    put_chunk(principal, bytes);
    if let Some(area) = area {
        put_chunk(&area, bytes);
    }
    bytes.put_slice(data);
}

/// The extension area. Fields of this release are left out if those of a later one leave no
/// room for them.
fn extension(extension: &Extension) -> Vec<u8> {
    let mut own = Vec::new();
    if !extension.former.is_empty() {
        let values = extension.former.iter().flat_map(|Former { verifier, rolled }| {
            verifier.as_bytes().iter().copied().chain(rolled.unix_millis().to_be_bytes())
        });
        put_field(FORMER_TAG, &values.collect::<Vec<_>>(), &mut own);
    }
    if let Some(persistent) = extension.persistent {
        put_field(PERSISTENT_TAG, &[persistent.into()], &mut own);
    }
    let label = extension.label.as_bytes();
    if !label.is_empty() {
        put_field(LABEL_TAG, label, &mut own);
    }
    if own.len() + extension.unknown.len() > usize::from(u16::MAX) {
        own.clear();
    }
    own.put_slice(&extension.unknown);
    own
}

fn put_field(tag: u8, value: &[u8], area: &mut Vec<u8>) {
    area.put_u8(tag);
    put_chunk(value, area);
}

/// A length of two octets, and that many octets.
fn put_chunk(octets: &[u8], bytes: &mut Vec<u8>) {
    let len = u16::try_from(octets.len());
    bytes.put_u16(len.expect("texts of a record have at most 256 bytes, its extensions 65535"));
    bytes.put_slice(octets);
}

/// Fails if the bytes are not a complete record of a known layout. The data is not parsed: it was
/// checked when it came in.
pub fn decode(mut bytes: Bytes) -> Result<Record, DecodeError> {
    let len = bytes.len();
    let cut_short = || DecodeError::CutShort { len };
    let layout = *bytes.first().ok_or_else(cut_short)?;
    let layout = Layout::of(layout).ok_or(DecodeError::UnknownLayout { found: layout })?;
    if len < RECORD_MIN_LEN {
        return Err(cut_short());
    }
    bytes.advance(1);
    let verifier = get_verifier(&mut bytes);
    let version = bytes.get_u64();
    let create_time = Moment::from_unix_millis(bytes.get_u64());
    let deadline = Moment::from_unix_millis(bytes.get_u64());
    let duration = Some(bytes.get_u64()).filter(|millis| *millis != 0).map(Duration::from_millis);
    let principal = get_chunk(&mut bytes).ok_or_else(cut_short)?;
    let extension = match layout {
        Layout::One => Extension::default(),
        Layout::Two => {
            let area = get_chunk(&mut bytes).ok_or_else(cut_short)?;
            get_extension(area).ok_or(DecodeError::BadExtension)?
        }
    };
    Ok(Record {
        verifier,
        version,
        create_time,
        deadline,
        duration,
        principal: Principal::new(&principal).ok_or(DecodeError::NotText)?,
        data: Data::from_stored(bytes).ok_or(DecodeError::NotText)?,
        extension,
    })
}

/// A length of two octets, and that many octets.
fn get_chunk(bytes: &mut Bytes) -> Option<Bytes> {
    let len = usize::from(bytes.try_get_u16().ok()?);
    (len <= bytes.len()).then(|| bytes.split_to(len))
}

fn get_verifier(bytes: &mut Bytes) -> VerifierHash {
    let mut verifier = [0; VerifierHash::LEN];
    bytes.copy_to_slice(&mut verifier);
    VerifierHash::from_bytes(verifier)
}

/// `None`: it is malformed.
fn get_extension(mut area: Bytes) -> Option<Extension> {
    let mut extension = Extension::default();
    let mut unknown = Vec::new();
    while area.has_remaining() {
        let whole = area.clone();
        let tag = area.get_u8();
        let mut value = get_chunk(&mut area)?;
        match tag {
            FORMER_TAG => {
                if value.len() % FORMER_LEN != 0 {
                    return None;
                }
                while value.has_remaining() {
                    let verifier = get_verifier(&mut value);
                    let rolled = Moment::from_unix_millis(value.get_u64());
                    extension.former.push(Former { verifier, rolled });
                }
            }
            PERSISTENT_TAG => {
                extension.persistent = match value.as_ref() {
                    [0] => Some(false),
                    [1] => Some(true),
                    _ => return None,
                };
            }
            LABEL_TAG => extension.label = Label::new(&value)?,
            _ => unknown.put_slice(&whole[..whole.len() - area.len()]),
        }
    }
    // Copied, because a slice would keep the whole record in memory.
    extension.unknown = unknown.into();
    Some(extension)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(whole_millis(duration).as_millis()).unwrap_or(u64::MAX)
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
            extension: Extension::default(),
        }
    }

    fn rolled() -> Record {
        let former = |octet, millis| Former {
            verifier: VerifierHash::from_bytes([octet; 32]),
            rolled: Moment::from_unix_millis(millis),
        };
        let former = vec![former(0xa0, 1_700_000_000_001), former(0xb0, 1_700_000_000_002)];
        let unknown = Bytes::from_static(b"\xee\x00\x03new\xef\x00\x00");
        let extension = Extension { former, unknown, ..Extension::default() };
        Record { extension, ..record() }
    }

    fn with_device() -> Record {
        let label = Label::new(b"Firefox on Linux").expect("short");
        let extension = Extension { persistent: Some(true), label, ..rolled().extension };
        Record { extension, ..record() }
    }

    /// The name of a file in tests/records, its layout, the record and the content.
    type Kept = (&'static str, Layout, fn() -> Record, &'static [u8]);

    /// The records that earlier releases wrote, and this one writes. These files never change:
    /// stored records must stay readable forever.
    const KEPT: [Kept; 4] = [
        ("layout-1", Layout::One, record, include_bytes!("../../tests/records/layout-1")),
        ("layout-2", Layout::Two, record, include_bytes!("../../tests/records/layout-2")),
        (
            "layout-2-extended",
            Layout::Two,
            rolled,
            include_bytes!("../../tests/records/layout-2-extended"),
        ),
        (
            "layout-2-device",
            Layout::Two,
            with_device,
            include_bytes!("../../tests/records/layout-2-device"),
        ),
    ];

    #[test]
    fn every_layout_stays_readable() {
        for (name, _, record, bytes) in KEPT {
            assert_eq!(decode(Bytes::from_static(bytes)), Ok(record()), "tests/records/{name}");
        }
    }

    #[test]
    fn every_layout_is_written_as_it_was() {
        for (name, layout, record, bytes) in KEPT {
            let mut written = b"before".to_vec();
            encode(&record(), layout, &mut written);
            let written = written.strip_prefix(b"before");
            assert_eq!(written, Some(bytes), "tests/records/{name}");
        }
    }

    #[test]
    fn fields_of_a_later_release_stay_where_they_can() {
        // A field of this release between two of a later one.
        let mut mixed = Vec::new();
        encode(&record(), Layout::Two, &mut mixed);
        let area = [b"\xee\x00\x03new\x01\x00\x28".as_slice(), &[7; 40], b"\xef\x00\x00"].concat();
        let at = RECORD_MIN_LEN + "zoë".len();
        let len = u16::try_from(area.len()).expect("short").to_be_bytes();
        mixed.splice(at..at + 2, [len.as_slice(), &area].concat());
        let read = decode(mixed.into()).expect("it is well-formed");
        assert_eq!(read.extension.unknown, Bytes::from_static(b"\xee\x00\x03new\xef\x00\x00"));
        assert_eq!(read.extension.former.len(), 1, "expected the field of this release");
        let mut again = Vec::new();
        encode(&read, Layout::Two, &mut again);
        assert_eq!(decode(again.into()), Ok(read), "expected nothing to be lost");
    }

    #[test]
    fn damage_is_named() {
        let layout_1 = KEPT[0].3;
        let found = decode(Bytes::from_static(b"\x09rest"));
        assert_eq!(found, Err(DecodeError::UnknownLayout { found: 9 }));
        let found = decode(Bytes::from_static(&layout_1[..RECORD_MIN_LEN + 2]));
        assert_eq!(found, Err(DecodeError::CutShort { len: RECORD_MIN_LEN + 2 }));
        assert_eq!(decode(Bytes::new()), Err(DecodeError::CutShort { len: 0 }));
        let mut broken = layout_1.to_vec();
        *broken.last_mut().expect("not empty") = 0xff;
        assert_eq!(decode(broken.into()), Err(DecodeError::NotText));
        let mut broken = KEPT[2].3.to_vec();
        // The length of the first field.
        broken[RECORD_MIN_LEN + "zoë".len() + 2 + 2] -= 1;
        assert_eq!(decode(broken.into()), Err(DecodeError::BadExtension));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(
            bytes in any::<Vec<u8>>(),
            known in prop::option::of(prop_oneof![Just(Layout::One), Just(Layout::Two)]),
        ) {
            let mut bytes = bytes;
            if let (Some(layout), Some(first)) = (known, bytes.first_mut()) {
                *first = layout as u8;
            }
            if let Ok(record) = decode(bytes.clone().into()) {
                let layout = Layout::of(bytes[0]).expect("it was decoded");
                let mut again = Vec::new();
                encode(&record, layout, &mut again);
                prop_assert_eq!(decode(again.into()), Ok(record));
            }
        }
    }
}
