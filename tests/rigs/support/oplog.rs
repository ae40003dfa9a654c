//! Reads the log of `recorder.rs`: the operations of a process on its files, in order.

use std::{path::Path, time::Duration};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A process began. Descriptors of the previous one are invalid.
    Start,
    Open {
        fd: i32,
        path: String,
        made: bool,
        emptied: bool,
    },
    Close {
        fd: i32,
    },
    Write {
        fd: i32,
        at: u64,
        data: Vec<u8>,
    },
    SyncRange,
    /// fsync or fdatasync.
    Sync {
        fd: i32,
    },
    Truncate {
        fd: i32,
        len: u64,
    },
    Rename {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    MakeDirectory {
        path: String,
    },
    /// An operation was made to fail.
    Fault,
}

impl Operation {
    /// A description of the operation, without its data.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Write { fd, at, data } => {
                format!("write of {} bytes at {at} to {fd}", data.len())
            }
            other => format!("{other:?}"),
        }
    }
}

/// An operation, and the offset in the log at which its entry ends.
pub(crate) struct Entry {
    pub operation: Operation,
    pub end: u64,
    /// Since a fixed point that is the same for all entries.
    pub time: Duration,
}

const HEAD_LEN: usize = 32;

pub(crate) fn read(path: &Path) -> Vec<Entry> {
    let log = std::fs::read(path).expect("the recorder's log can be read");
    let mut rest = log.as_slice();
    let mut entries = Vec::new();
    while let Some((head, after)) = rest.split_at_checked(HEAD_LEN) {
        let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().expect("4 octets"));
        let number = u64::from_ne_bytes(head[8..16].try_into().expect("8 octets"));
        let fd = word(4) as i32;
        let (path, after) = after.split_at(word(16) as usize);
        let (data, after) = after.split_at(word(20) as usize);
        rest = after;
        let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).expect("paths are text");
        let operation = match word(0) {
            0 => Operation::Start,
            1 => Operation::Open {
                fd,
                path: text(path),
                made: number & 1 != 0,
                emptied: number & 2 != 0,
            },
            2 => Operation::Close { fd },
            3 => Operation::Write { fd, at: number, data: data.to_vec() },
            4 => Operation::SyncRange,
            5 | 6 => Operation::Sync { fd },
            7 => Operation::Truncate { fd, len: number },
            8 => {
                let (from, to) = path.split_at(number as usize);
                Operation::Rename { from: text(from), to: text(to) }
            }
            9 => Operation::Unlink { path: text(path) },
            10 => Operation::MakeDirectory { path: text(path) },
            11 => Operation::Fault,
            other => panic!("an entry of kind {other} in the recorder's log"),
        };
        let time = u64::from_ne_bytes(head[24..32].try_into().expect("8 octets"));
        let (end, time) = ((log.len() - rest.len()) as u64, Duration::from_nanos(time));
        entries.push(Entry { operation, end, time });
    }
    assert!(rest.is_empty(), "the recorder's log ends within an entry");
    entries
}
