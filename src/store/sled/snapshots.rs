//! sled's snapshots: what its log comes to up to some place, so that an open
//! need not read all of it. sled writes one at each open.
//!
//! A damaged one makes open fail, though the log alone may do. Without a
//! snapshot sled begins at the segments that the newest segment header calls
//! stable, and when one of these is missing it takes everything for torn and
//! overwrites it. Segments without use are cleared at open, so that can be.
//! Hence a snapshot is set aside only when they are all there.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::open::SEGMENT_BYTES;

/// Finishes or removes a snapshot that a crash left without its last name,
/// which makes sled's next open fail.
///
/// One that is not whole is not needed: the one before it is removed only after
/// the rename. One that is whole may be: sled clears segments after the rename
/// without having synced that, so a power loss can take it back and leave the
/// segments cleared.
pub fn finish_or_drop_unfinished(path: &Path) -> io::Result<()> {
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
            tracing::warn!(file = %name, "finished a snapshot that a crash left without its last name");
        } else {
            fs::remove_file(entry.path())?;
            tracing::warn!(file = %name, "removed a snapshot that a crash left unfinished; nothing is lost by that");
        }
        File::open(path)?.sync_all()?;
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
    if !Log::read(&File::open(path.join("db"))?, 0)?.has_no_gap() {
        return Ok(Newest::Needed(snapshot));
    }
    // sled takes every name that begins with "snap." for a snapshot.
    let aside = format!("damaged.{name}");
    fs::rename(&snapshot, path.join(&aside))?;
    File::open(path)?.sync_all()?;
    tracing::warn!(file = %aside, "a snapshot was damaged and is set aside; everything is read from the log instead");
    Ok(Newest::SetAside)
}

/// Of those that have their last name.
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

/// The content, its length in 8 octets, and its CRC.
fn is_whole(snapshot: &[u8]) -> bool {
    let content = snapshot.len().checked_sub(12).filter(|len| *len > 0);
    content.is_some_and(|len| crc(&snapshot[..len]).to_le_bytes() == snapshot[len + 8..])
}

const HEADER_BYTES: usize = 20;

/// What sled's recovery finds in its log.
struct Log {
    /// Where it begins: the newest segment that is called stable, in octets
    /// ever written.
    first: u64,
    /// The segments of that number and above, in order.
    tail: Vec<u64>,
    /// There are segments, wherever.
    any: bool,
    /// Two segments say they are the same.
    double: bool,
}

impl Log {
    /// As for a recovery with a snapshot of what came before `from`.
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

    /// Recovery would take everything for torn.
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

/// What is missing so that sled, if it opened this, would drop its log without a
/// word. A database that `is_made` has a log with something in it.
pub fn would_be_emptied(path: &Path, is_made: bool) -> io::Result<Option<&'static str>> {
    // The name says up to where it goes.
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
        return Ok(Some("its log has no beginning of a segment"));
    }
    let lacks = Log::read(&log, from)?.lacks_its_beginning();
    Ok(lacks.then_some("the part of its log that recovery begins with is missing"))
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

    /// A database of more than one segment that was opened a second time, and
    /// its snapshot.
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
        // And without any: sled would open this, and keep nothing.
        fs::remove_file(&snapshot).expect("removed");
        let refused = reopen(directory.path()).map(drop).expect_err("it is refused");
        assert!(
            matches!(&refused, OpenError::Damaged { problem, .. } if problem.contains("drop all"))
        );
        assert!(fs::read(&log).expect("readable") == content, "the log is as it was");
    }
}
