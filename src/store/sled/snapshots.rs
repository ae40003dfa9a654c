//! sled's snapshots: what its log comes to up to some place, so that an open
//! need not read all of it. sled writes one at each open.
//!
//! A damaged one makes open fail, though the log alone may do. Without a
//! snapshot sled begins at the segments that the newest segment header
//! calls stable, and when one of these is missing it takes everything
//! for torn and overwrites it: segments without use are
//! cleared at open, so that can be. Hence a snapshot is set aside only when they are all there.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::open::SEGMENT_BYTES;

/// A snapshot that a crash left unfinished makes sled's next open fail. It is
/// not needed: the one before it is removed only after its rename.
pub fn drop_unfinished(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
            tracing::warn!(file = %name, "removed a snapshot that a crash left unfinished; nothing is lost by that");
        }
    }
    Ok(())
}

/// What is to be said of the snapshot that sled would read.
pub enum Newest {
    /// It is whole, or there is none.
    Well,
    /// It was damaged, and is out of the way: open again.
    SetAside,
    /// It is damaged, and the log alone would not do.
    Needed(PathBuf),
}

/// Renames the newest snapshot when it is damaged and sled can do without it.
/// Never removes one.
pub fn set_aside_damaged(path: &Path) -> io::Result<Newest> {
    let Some((name, snapshot)) = newest(path)? else {
        return Ok(Newest::Well);
    };
    if is_whole(&fs::read(&snapshot)?) {
        return Ok(Newest::Well);
    }
    if !is_log_enough(&File::open(path.join("db"))?)? {
        return Ok(Newest::Needed(snapshot));
    }
    // sled takes every name that begins with "snap." for a snapshot.
    let aside = format!("damaged.{name}");
    fs::rename(&snapshot, path.join(&aside))?;
    File::open(path)?.sync_all()?;
    tracing::warn!(file = %aside, "a snapshot was damaged and is set aside; everything is read from the log instead");
    Ok(Newest::SetAside)
}

fn newest(path: &Path) -> io::Result<Option<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && name.starts_with("snap.")
        {
            found.push((name, entry.path()));
        }
    }
    Ok(found.into_iter().max())
}

/// The content, its length in 8 octets, and its CRC.
fn is_whole(snapshot: &[u8]) -> bool {
    let content = snapshot.len().checked_sub(12).filter(|len| *len > 0);
    content.is_some_and(|len| crc(&snapshot[..len]).to_le_bytes() == snapshot[len + 8..])
}

const HEADER_BYTES: usize = 20;

/// Whether the segments that sled would begin with, and all after them, are
/// there without a gap.
fn is_log_enough(log: &File) -> io::Result<bool> {
    let segment = SEGMENT_BYTES as u64;
    let (mut segments, mut stable) = (BTreeMap::new(), 0);
    for at in (0..log.metadata()?.len()).step_by(SEGMENT_BYTES) {
        let mut header = [0; HEADER_BYTES];
        match log.read_exact_at(&mut header, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            read => read?,
        }
        let Some((number, stable_here)) = segment_header(&header) else {
            continue;
        };
        stable = stable.max(stable_here);
        if segments.insert(number, at).is_some() {
            return Ok(false);
        }
    }
    let first = stable as u64 / segment * segment;
    let tail: Vec<u64> = segments.range(first as i64..).map(|(number, _)| *number as u64).collect();
    let expected = (0..tail.len() as u64).map(|place| first + place * segment);
    Ok(!tail.is_empty() && expected.eq(tail))
}

/// Where in sled's count of octets a segment begins, and up to where it was
/// stable then. `None`: not the header of a segment in use.
fn segment_header(header: &[u8; HEADER_BYTES]) -> Option<(i64, i64)> {
    let (sum, rest) = header.split_first_chunk::<4>()?;
    let (begin, rest) = rest.split_first_chunk::<8>()?;
    let (stable, _) = rest.split_first_chunk::<8>()?;
    if !u32::from_le_bytes(*sum) != crc(&header[4..]) {
        return None;
    }
    let number = |octets| i64::from_le_bytes(octets) ^ i64::MAX;
    Some((number(*begin), number(*stable)))
}

/// CRC-32 as in gzip. Only what does not open is read with it.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, octet| {
        (0..8).fold(sum ^ u32::from(*octet), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sled::open::{OpenError, open};

    /// A database of more than one segment that was opened a second time, and
    /// its snapshot.
    fn database() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a scratch folder");
        let opened = open(directory.path(), 1 << 20).expect("it opens");
        for number in 0..300_u32 {
            let value = vec![number as u8; 40_000];
            opened.db.insert(number.to_be_bytes(), value).expect("it is taken");
        }
        drop(opened);
        drop(open(directory.path(), 1 << 20).expect("it opens"));
        let (_, snapshot) = newest(directory.path()).expect("readable").expect("a snapshot");
        (directory, snapshot)
    }

    #[test]
    fn a_whole_snapshot_and_its_log_are_recognised() {
        let (directory, snapshot) = database();
        assert!(is_whole(&fs::read(&snapshot).expect("readable")));
        let log = File::open(directory.path().join("db")).expect("a log");
        assert!(log.metadata().expect("a size").len() > 2 * SEGMENT_BYTES as u64);
        assert!(is_log_enough(&log).expect("readable"));
        assert!(matches!(set_aside_damaged(directory.path()), Ok(Newest::Well)));
        assert!(snapshot.exists());
    }

    #[test]
    fn a_damaged_snapshot_is_set_aside_and_nothing_is_lost() {
        for damage in [
            (|content| content.truncate(0)) as fn(&mut Vec<u8>),
            |content| content.truncate(content.len() / 2),
            |content| content[3] ^= 1,
        ] {
            let (directory, snapshot) = database();
            let mut content = fs::read(&snapshot).expect("readable");
            damage(&mut content);
            fs::write(&snapshot, content).expect("written");
            let opened = open(directory.path(), 1 << 20).expect("it opens");
            for number in 0..300_u32 {
                let value = opened.db.get(number.to_be_bytes()).expect("readable");
                assert_eq!(value.as_deref(), Some(&*vec![number as u8; 40_000]), "{number}");
            }
            let name = snapshot.file_name().expect("a name").to_str().expect("text");
            assert!(directory.path().join(format!("damaged.{name}")).exists());
        }
    }

    #[test]
    fn a_damaged_snapshot_that_is_needed_stays_and_nothing_is_touched() {
        let (directory, snapshot) = database();
        fs::write(&snapshot, b"").expect("written");
        let log = directory.path().join("db");
        // The newest segment says that the one before it is stable.
        let mut content = fs::read(&log).expect("readable");
        let newest = (0..content.len()).step_by(SEGMENT_BYTES).max_by_key(|at| {
            let header = content[*at..at + HEADER_BYTES].try_into().expect("20 octets");
            segment_header(header).map(|(number, _)| number)
        });
        let header = content[newest.expect("a segment")..][..HEADER_BYTES].try_into();
        let (_, stable) = segment_header(header.expect("20 octets")).expect("a header");
        let before = stable as usize / SEGMENT_BYTES * SEGMENT_BYTES;
        content[before..before + HEADER_BYTES].fill(0);
        fs::write(&log, &content).expect("written");
        let refused = open(directory.path(), 1 << 20).map(drop).expect_err("it is refused");
        assert!(
            matches!(&refused, OpenError::Unreadable { problem, .. } if problem.contains("snap."))
        );
        assert!(snapshot.exists());
        assert!(fs::read(&log).expect("readable") == content, "the log is as it was");
    }
}
