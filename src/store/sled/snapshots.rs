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
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::log::Log;

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
    if !Log::read(&File::open(path.join("db"))?)?.has_no_gap(0) {
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
    content
        .is_some_and(|len| crc32fast::hash(&snapshot[..len]).to_le_bytes() == snapshot[len + 8..])
}

/// The number up to which the newest snapshot holds the state of the log. Its name says it.
pub(super) fn covered(path: &Path) -> io::Result<u64> {
    let newest = newest(path)?;
    let number =
        newest.and_then(|(name, _)| u64::from_str_radix(name.strip_prefix("snap.")?, 16).ok());
    Ok(number.unwrap_or(0))
}

/// If sled would silently drop the log of a database when it opens this, returns
/// what is missing.
pub(super) fn would_be_emptied(path: &Path) -> io::Result<Option<&'static str>> {
    let log = match File::open(path.join("db")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        log => Some(log?),
    };
    let Some(log) = log.filter(|log| log.metadata().is_ok_and(|log| log.len() > 0)) else {
        return Ok(Some("its log is missing"));
    };
    let log = Log::read(&log)?;
    if !log.has_any(0) {
        return Ok(Some("its log has no segment header"));
    }
    let lacks = log.lacks_its_beginning(covered(path)?);
    Ok(lacks.then_some("the part of its log where recovery begins is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sled::{
        log::{HEADER_BYTES, segment_header},
        open::{OnDamage, OpenError, Opened, SEGMENT_BYTES, open},
    };

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
        assert!(Log::read(&log).expect("readable").has_no_gap(0));
        assert_eq!(would_be_emptied(directory.path()).expect("readable"), None);
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
        let first = Log::read(&File::open(&log).expect("a log")).expect("readable").first(0);
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
