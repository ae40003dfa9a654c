//! sled's snapshots. A snapshot holds the state of the log up to some offset
//! and saves an opening from reading all of the log. sled writes one at each
//! opening.
//!
//! A damaged snapshot makes an opening fail, although the log alone may be
//! enough. Without a snapshot, sled begins with the segments that the newest
//! segment header calls stable. If one of them is missing, it treats everything
//! as torn and overwrites it. That can happen, because an opening clears unused
//! segments. A snapshot is therefore renamed only if all these segments
//! exist.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::open::SEGMENT_BYTES;

/// Completes or removes a snapshot that a crash left without its final name.
/// Such a file makes sled's next opening fail.
///
/// An incomplete snapshot is not needed: sled removes the previous one only
/// after the rename. A complete one may be needed: sled clears segments after
/// the rename without having synced the rename. A power loss can then undo the
/// rename and leave the segments cleared.
pub(super) fn finish_or_drop_unfinished(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let Some(finished) = name.strip_suffix(".generating").filter(|n| n.starts_with("snap."))
        else {
            continue;
        };
        let is_newest = newest(path)?.is_none_or(|(newest, _)| *newest <= *name);
        if is_newest && is_whole(&fs::read(entry.path())?) {
            fs::rename(entry.path(), path.join(finished))?;
            tracing::warn!(file = %name, "completed a snapshot that a crash left without its final name");
        } else {
            fs::remove_file(entry.path())?;
            tracing::warn!(file = %name, "removed a snapshot that a crash left incomplete; no data is lost");
        }
        File::open(path)?.sync_all()?;
    }
    Ok(())
}

/// The state of the snapshot that sled would read.
pub(super) enum Newest {
    /// It is intact, or there is none.
    Well,
    /// It was damaged and has been renamed: open again.
    SetAside,
    /// It is damaged, and the log alone is not enough.
    Needed(PathBuf),
}

/// Renames the newest snapshot if it is damaged and sled can open without it.
/// Never removes one.
pub(super) fn set_aside_damaged(path: &Path) -> io::Result<Newest> {
    let Some((name, snapshot)) = newest(path)? else {
        return Ok(Newest::Well);
    };
    if is_whole(&fs::read(&snapshot)?) {
        return Ok(Newest::Well);
    }
    if !Log::read(&File::open(path.join("db"))?, 0)?.has_no_gap() {
        return Ok(Newest::Needed(snapshot));
    }
    // sled treats every file whose name begins with "snap." as a snapshot.
    let aside = format!("damaged.{name}");
    fs::rename(&snapshot, path.join(&aside))?;
    File::open(path)?.sync_all()?;
    tracing::warn!(file = %aside, "a snapshot was damaged and has been renamed; all data is read from the log instead");
    Ok(Newest::SetAside)
}

/// The newest snapshot with a final name.
fn newest(path: &Path) -> io::Result<Option<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && name.starts_with("snap.")
            && !name.ends_with(".generating")
        {
            found.push((name, entry.path()));
        }
    }
    Ok(found.into_iter().max())
}

/// A snapshot is the content, its length in 8 octets, and its CRC.
fn is_whole(snapshot: &[u8]) -> bool {
    let content = snapshot.len().checked_sub(12).filter(|len| *len > 0);
    content.is_some_and(|len| crc(&snapshot[..len]).to_le_bytes() == snapshot[len + 8..])
}

const HEADER_BYTES: usize = 20;

/// The segments that sled's recovery finds in its log.
struct Log {
    /// Where recovery begins: the newest segment that is called stable, as an
    /// offset in all octets ever written.
    first: u64,
    /// The segments with that offset or a higher one, in order.
    tail: Vec<u64>,
    /// Whether there are any segments.
    any: bool,
    /// Two segments have the same offset.
    double: bool,
}

impl Log {
    /// Reads the segment headers as a recovery does that has a snapshot up to
    /// `from`.
    fn read(log: &File, from: u64) -> io::Result<Self> {
        let segment = SEGMENT_BYTES as u64;
        let from = from / segment * segment;
        let (mut numbers, mut stable, mut double) = (BTreeSet::new(), from, false);
        for at in (0..log.metadata()?.len()).step_by(SEGMENT_BYTES) {
            let mut header = [0; HEADER_BYTES];
            match log.read_exact_at(&mut header, at) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                read => read?,
            }
            let Some((number, stable_here)) = segment_header(&header) else {
                continue;
            };
            let Some(number) = u64::try_from(number).ok().filter(|number| *number >= from) else {
                continue;
            };
            stable = stable.max(u64::try_from(stable_here).unwrap_or(0));
            double |= !numbers.insert(number);
        }
        let first = stable / segment * segment;
        let tail = numbers.range(first..).copied().collect();
        Ok(Self { first, tail, any: !numbers.is_empty(), double })
    }

    /// Whether recovery would treat everything as torn.
    fn lacks_its_beginning(&self) -> bool {
        self.any && self.tail.first() != Some(&self.first)
    }

    fn has_no_gap(&self) -> bool {
        let expected = (self.first..).step_by(SEGMENT_BYTES).take(self.tail.len());
        self.any
            && !self.double
            && !self.lacks_its_beginning()
            && expected.eq(self.tail.iter().copied())
    }
}

/// If sled would silently drop its log when it opens this, returns what is
/// missing. If the database `is_made`, its log is not empty.
pub(super) fn would_be_emptied(path: &Path, is_made: bool) -> io::Result<Option<&'static str>> {
    // A snapshot's name gives the offset up to which it goes.
    let from = newest(path)?
        .and_then(|(name, _)| u64::from_str_radix(name.strip_prefix("snap.")?, 16).ok())
        .unwrap_or(0);
    let log = match File::open(path.join("db")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        log => Some(log?),
    };
    let Some(log) = log.filter(|log| log.metadata().is_ok_and(|log| log.len() > 0)) else {
        return Ok((is_made || from > 0).then_some("its log is missing"));
    };
    if is_made && !Log::read(&log, 0)?.any {
        return Ok(Some("its log has no segment header"));
    }
    let lacks = Log::read(&log, from)?.lacks_its_beginning();
    Ok(lacks.then_some("the part of its log where recovery begins is missing"))
}

/// The offset at which a segment begins, in all octets that sled has written,
/// and the offset that was stable then. `None` if this is not the header of a
/// segment in use.
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

/// CRC-32 as in gzip. Slow, but used only on segment headers and snapshots at
/// an opening.
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
    use crate::store::sled::open::{OnDamage, OpenError, Opened, open};

    /// sled's threads may still hold the log for a moment after it was closed.
    fn reopen(path: &Path) -> Result<Opened, OpenError> {
        loop {
            match open(path, 1 << 20, OnDamage::Refuse) {
                Err(OpenError::Unusable { problem, .. }) if problem.contains("acquire lock") => {
                    std::thread::yield_now();
                }
                opened => return opened,
            }
        }
    }

    /// A database of more than one segment that was opened twice, and its
    /// snapshot.
    fn database() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a scratch folder");
        let opened = open(directory.path(), 1 << 20, OnDamage::Refuse).expect("it opens");
        for number in 0..300_u32 {
            let value = vec![number as u8; 40_000];
            opened.db.insert(number.to_be_bytes(), value).expect("it is taken");
        }
        drop(opened);
        drop(reopen(directory.path()).expect("it opens"));
        let (_, snapshot) = newest(directory.path()).expect("readable").expect("a snapshot");
        (directory, snapshot)
    }

    #[test]
    fn a_whole_snapshot_and_its_log_are_recognised() {
        let (directory, snapshot) = database();
        assert!(is_whole(&fs::read(&snapshot).expect("readable")));
        let log = File::open(directory.path().join("db")).expect("a log");
        assert!(log.metadata().expect("a size").len() > 2 * SEGMENT_BYTES as u64);
        assert!(Log::read(&log, 0).expect("readable").has_no_gap());
        assert_eq!(would_be_emptied(directory.path(), true).expect("readable"), None);
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
            let opened = reopen(directory.path()).expect("it opens");
            for number in 0..300_u32 {
                let value = opened.db.get(number.to_be_bytes()).expect("readable");
                assert_eq!(value.as_deref(), Some(&*vec![number as u8; 40_000]), "{number}");
            }
            let name = snapshot.file_name().expect("a name").to_str().expect("text");
            assert!(directory.path().join(format!("damaged.{name}")).exists());
        }
    }

    #[test]
    fn a_snapshot_without_its_last_name_is_finished_when_it_is_whole() {
        let (directory, snapshot) = database();
        let content = fs::read(&snapshot).expect("readable");
        let unfinished = snapshot.with_extension(format!(
            "{}.generating",
            snapshot.extension().expect("a number").to_str().expect("text")
        ));
        fs::rename(&snapshot, &unfinished).expect("renamed");
        finish_or_drop_unfinished(directory.path()).expect("it works");
        assert!(snapshot.exists() && !unfinished.exists());
        fs::write(&unfinished, &content[..content.len() - 1]).expect("written");
        finish_or_drop_unfinished(directory.path()).expect("it works");
        assert!(fs::read(&snapshot).expect("readable") == content && !unfinished.exists());
    }

    #[test]
    fn a_damaged_snapshot_that_is_needed_stays_and_nothing_is_touched() {
        let (directory, snapshot) = database();
        fs::write(&snapshot, b"").expect("written");
        let log = directory.path().join("db");
        let mut content = fs::read(&log).expect("readable");
        // Where recovery would begin.
        let first = Log::read(&File::open(&log).expect("a log"), 0).expect("readable").first;
        let places = (0..content.len()).step_by(SEGMENT_BYTES);
        let place = places.into_iter().find(|at| {
            let header = content[*at..].first_chunk::<HEADER_BYTES>().expect("20 octets");
            segment_header(header).is_some_and(|(number, _)| number as u64 == first)
        });
        content[place.expect("it is there")..][..HEADER_BYTES].fill(0);
        fs::write(&log, &content).expect("written");
        let refused = reopen(directory.path()).map(drop).expect_err("it is refused");
        assert!(
            matches!(&refused, OpenError::Damaged { problem, .. } if problem.contains("snap."))
        );
        assert!(snapshot.exists());
        assert!(fs::read(&log).expect("readable") == content, "the log is as it was");
        // Without a snapshot, sled would open this and keep nothing.
        fs::remove_file(&snapshot).expect("removed");
        let refused = reopen(directory.path()).map(drop).expect_err("it is refused");
        assert!(
            matches!(&refused, OpenError::Damaged { problem, .. } if problem.contains("drop all"))
        );
        assert!(fs::read(&log).expect("readable") == content, "the log is as it was");
    }
}
