//! The mark of the time, as it is stored.

use std::time::Duration;

use bytes::{Buf, BufMut};

use crate::session::clock::{Evidence, Moment, TimeMark, WallOffset, WallTime};

const LEN: usize = 8 + 8 + 8 + 8 + 1 + 16;
const HAS_BOOT: u8 = 1;
const IS_SYNCHRONIZED: u8 = 2;

/// Big endian: the moment, its offset, the wall clock, the milliseconds since boot, flags, the boot.
pub(super) fn encode(mark: TimeMark) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LEN);
    bytes.put_u64(mark.now.unix_millis());
    bytes.put_i64(mark.offset.millis());
    let Some(evidence) = mark.evidence else { return bytes };
    bytes.put_u64(evidence.wall.unix_millis());
    bytes.put_u64(evidence.since_boot.as_millis() as u64);
    let has_boot = if evidence.boot.is_some() { HAS_BOOT } else { 0 };
    bytes.put_u8(has_boot | if evidence.is_synchronized { IS_SYNCHRONIZED } else { 0 });
    bytes.put_slice(&evidence.boot.unwrap_or_default());
    bytes
}

/// The moment alone is a mark as well: earlier releases kept no more. `None`: it is none.
pub(super) fn decode(mut bytes: &[u8]) -> Option<TimeMark> {
    let now = Moment::from_unix_millis(bytes.try_get_u64().ok()?);
    if bytes.is_empty() {
        return Some(TimeMark { now, offset: WallOffset::ZERO, evidence: None });
    }
    let offset = WallOffset::from_millis(bytes.try_get_i64().ok()?);
    if bytes.is_empty() {
        return Some(TimeMark { now, offset, evidence: None });
    }
    let wall = WallTime::from_unix_millis(bytes.try_get_u64().ok()?);
    let since_boot = Duration::from_millis(bytes.try_get_u64().ok()?);
    let flags = bytes.try_get_u8().ok()?;
    let boot = bytes.first_chunk().copied().filter(|_| flags & HAS_BOOT != 0);
    let is_synchronized = flags & IS_SYNCHRONIZED != 0;
    Some(TimeMark {
        now,
        offset,
        evidence: Some(Evidence { wall, is_synchronized, boot, since_boot }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let now = Moment::from_unix_millis(1_800_000_000_001);
        let offset = WallOffset::from_millis(-9);
        let evidence = |boot, is_synchronized| Evidence {
            wall: WallTime::from_unix_millis(1_700_000_000_002),
            is_synchronized,
            boot,
            since_boot: Duration::from_millis(3),
        };
        for evidence in [None, Some(evidence(None, true)), Some(evidence(Some([7; 16]), false))] {
            let mark = TimeMark { now, offset, evidence };
            assert_eq!(decode(&encode(mark)), Some(mark));
        }
        let earlier = 1_800_000_000_001u64.to_be_bytes();
        let offset = WallOffset::ZERO;
        assert_eq!(decode(&earlier), Some(TimeMark { now, offset, evidence: None }));
        assert_eq!((decode(&[]), decode(&[0; 9])), (None, None));
    }
}
