//! Opens the data directory. It repairs the leftovers of a crash, refuses a
//! damaged database (or quarantines it, if the operator has configured that),
//! and leaves everything else alone.

use std::{
    fs::{self, DirBuilder, File},
    io,
    ops::Deref,
    os::unix::fs::DirBuilderExt,
    panic,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{
    committer::{NUDGE, PATIENCE},
    mark::{Found, HighWater},
    ownership::{self, DirectoryLock},
    quarantine,
    snapshots::{self, Newest},
};

/// The size of a segment. It is fixed when a database is created.
///
/// sled writes a leaf's values together. If they exceed a quarter of this size,
/// sled spills them to a separate file, and it never syncs that file. If a
/// power loss removes the file, the log that refers to it does not open. If the
/// file cannot be written, a flush waits forever. [`MOST_DATA_BYTES`] therefore
/// keeps every leaf below a quarter of this size.
pub(super) const SEGMENT_BYTES: usize = 8 << 20;

/// The largest data of a record. sled splits a leaf of more than 16 records the
/// next time it visits the leaf, and merges a leaf of fewer than 4 into the
/// previous one. 24 records leave room for what happens in between.
pub const MOST_DATA_BYTES: usize = 80 << 10;
const LEAF_RECORDS: usize = 24;
/// Space for a record without its data: the header, the longest principal, and
/// the key.
const HEAD_BYTES: usize = 512;
const _: () = assert!(LEAF_RECORDS * (MOST_DATA_BYTES + HEAD_BYTES) < SEGMENT_BYTES / 4 - 128);

/// How often sled's own thread runs.
///
/// Nothing relies on the flushes of that thread: it ends at the first error,
/// and the committer detects errors itself. But only that thread rewrites the
/// remaining records of nearly empty segments, and it rewrites at most one
/// segment per run. The interval therefore limits how many segments can be
/// filled per second.
///
/// Without the thread, the log grew without bound under churn
/// (tests/rigs/churn.rs). With 200 ms, once writes had become cheap, the log
/// was 19 times as large as the live data. With this value it is less than 4
/// times as large, and the rig verifies that.
const CLEAN_EVERY_MS: u64 = 50;

/// sled refuses a smaller value.
const MIN_CACHE_BYTES: u64 = 256;

/// The file in the data directory that names its [`LAYOUT`]. It exists once a
/// new database is on the disk.
pub(super) const LAYOUT_FILE: &str = "layout";
/// The name of that file until the database is complete.
pub(super) const UNFINISHED_FILE: &str = "layout.unfinished";
pub(super) const LAYOUT: &str = "sessiond sled 2\n";
/// The file in the data directory that its owner holds locked.
pub(super) const LOCK_FILE: &str = "lock";

/// How often, and at what interval, an opening checks whether sled has released
/// the log.
const LINGERING_TRIES: u32 = 1000;
const LINGERING_PAUSE: Duration = Duration::from_millis(10);

/// What to do with a database that is damaged beyond repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDamage {
    /// Leave it as it is and do not start.
    Refuse,
    /// Move it to quarantine and start with an empty one.
    Quarantine,
}

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the lock of the directory.
    #[error(
        "the data directory {} is in use by another process; stop it, or give this daemon a store.sled.path of its own",
        path.display()
    )]
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// Something is there that sessiond has not put there.
    #[error(
        "the data directory {} holds {found}, which is not sessiond's, or has no file layout to say that it is; nothing is touched; give store.sled.path a directory of its own, empty or missing",
        path.display()
    )]
    Foreign {
        /// The data directory.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// The directory or a file in it cannot be created, read or written.
    #[error("cannot use the data directory {}: {source}", path.display())]
    Directory {
        /// The data directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The problem is not in the stored data.
    #[error("cannot open the database in {}: {problem}; it is left unchanged", path.display())]
    Unusable {
        /// The data directory.
        path: PathBuf,
        /// What sled said, or what is wrong with the layout.
        problem: String,
    },
    /// The stored data cannot be read completely, and it was left as it is.
    #[error(
        "the database in {} is damaged: {problem}; restore a backup, or set store.sled.on_damage = \"quarantine\" to move it to quarantine and start empty, which ends all its sessions",
        path.display()
    )]
    Damaged {
        /// The data directory.
        path: PathBuf,
        /// What sled said, or what would be lost.
        problem: String,
    },
    /// The same, and the move to quarantine failed.
    #[error(
        "the database in {} is damaged: {problem}; it cannot be moved to quarantine: {source}",
        path.display()
    )]
    NotQuarantined {
        /// The data directory.
        path: PathBuf,
        /// What is damaged.
        problem: String,
        /// Why it cannot be moved.
        source: io::Error,
    },
}

impl OpenError {
    /// Classifies an error from sled about the database in `path`.
    pub fn of_sled(path: &Path, error: &sled::Error) -> Self {
        let (path, problem) = (path.to_owned(), error.to_string());
        let is_damage = match error {
            // Created by another version, or with other settings.
            sled::Error::Unsupported(_) => false,
            _ => is_about_content(&format!("{error:?}")),
        };
        match is_damage {
            true => Self::Damaged { path, problem },
            false => Self::Unusable { path, problem },
        }
    }
}

/// Whether sled's text about a failure can be about the stored data. It is not
/// if it reports an error of the operating system, of sled's own lock, or of
/// threads.
fn is_about_content(said: &str) -> bool {
    !["Os {", "could not acquire lock", "IO thread"].iter().any(|cause| said.contains(cause))
}

/// An open database and the lock that makes this process its owner. Dropping
/// the value releases the lock.
pub(super) struct Opened {
    pub db: Handle,
    pub high_water: Arc<HighWater>,
    pub lock: DirectoryLock,
}

/// The last handle of a database to be dropped. Dropping it makes sled close
/// its log, and sled panics if its own sync fails then. The committer has
/// already synced by then, and has reported any error.
pub(super) struct Handle {
    db: Option<sled::Db>,
    log: File,
    high_water: Arc<HighWater>,
}

impl Deref for Handle {
    type Target = sled::Db;

    fn deref(&self) -> &sled::Db {
        self.db.as_ref().expect("it is taken when dropped")
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let db = self.db.take();
        if panic::catch_unwind(panic::AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::error!("sled could not close its log; the lines above give its message");
            return;
        }
        // sled still writes while it closes.
        let closed = match is_released(&self.log) {
            Ok(true) => self.high_water.close(&self.log),
            Ok(false) => return,
            Err(error) => Err(error),
        };
        if let Err(error) = closed {
            tracing::warn!(%error, "the mark of the clean stop cannot be written");
        }
    }
}

pub(super) fn open(
    path: &Path,
    cache_bytes: u64,
    on_damage: OnDamage,
) -> Result<Opened, OpenError> {
    let directory = |source| OpenError::Directory { path: path.to_owned(), source };
    create_durably(path).map_err(directory)?;
    // Nothing is left behind in a directory that is not ours. If there is a lock,
    // another daemon may be making its database at this moment.
    match fs::symlink_metadata(path.join(LOCK_FILE)) {
        Ok(lock) if lock.is_file() => {}
        _ => ownership::check(path)?,
    }
    // We take our lock first, because sled reads and writes its `conf` before
    // it takes its own lock.
    let lock = DirectoryLock::take(path)?;
    ownership::check(path)?;
    ownership::make_private(path).map_err(directory)?;
    quarantine::finish(path).map_err(directory)?;
    let db = match open_database(path, cache_bytes) {
        Err(OpenError::Damaged { path, problem }) if on_damage == OnDamage::Quarantine => {
            match quarantine::put(&path, &problem) {
                Ok(aside) => tracing::error!(
                    problem,
                    aside = %aside.display(),
                    "the database was damaged and is now in quarantine: all its sessions have \
                     ended, and the store starts empty"
                ),
                Err(source) => return Err(OpenError::NotQuarantined { path, problem, source }),
            }
            open_database(&path, cache_bytes)?
        }
        opened => opened?,
    };
    let quarantined = quarantine::all(path).map_err(directory)?;
    if !quarantined.is_empty() {
        tracing::warn!(
            databases = quarantined.join(", "),
            "there are databases in quarantine; remove those that you do not need any more"
        );
    }
    // What sled has made.
    ownership::make_private(path).map_err(directory)?;
    Ok(Opened { high_water: Arc::clone(&db.high_water), db, lock })
}

/// Requires that the lock is held.
fn open_database(path: &Path, cache_bytes: u64) -> Result<Handle, OpenError> {
    let directory = |source| OpenError::Directory { path: path.to_owned(), source };
    let damaged = |problem| OpenError::Damaged { path: path.to_owned(), problem };
    let is_made = match fs::read_to_string(path.join(LAYOUT_FILE)) {
        Ok(layout) if layout == LAYOUT => true,
        Ok(layout) => {
            let problem = format!("its layout, {layout:?}, is from another release");
            return Err(OpenError::Unusable { path: path.to_owned(), problem });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(directory(error)),
    };
    if !is_made {
        begin(path).map_err(directory)?;
    }
    settle_log(path).map_err(directory)?;
    snapshots::finish_or_drop_unfinished(path).map_err(directory)?;
    if is_made && let Some(problem) = snapshots::would_be_emptied(path).map_err(directory)? {
        return Err(damaged(format!("{problem}, and sled would drop all other data")));
    }
    let covered = snapshots::covered(path).map_err(directory)?;
    let high_water = match HighWater::open(path, covered).map_err(directory)? {
        Found::Whole(high_water) => high_water,
        Found::Missing(problem) => return Err(damaged(problem)),
    };
    // Not before the log was compared with its mark: sled would fill holes.
    let log = ownership::private_file(&path.join("db")).map_err(directory)?;
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(cache_bytes.max(MIN_CACHE_BYTES))
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(Some(CLEAN_EVERY_MS));
    let db = match open_sled(path, &config) {
        // Only after this error, because sled may also have failed for lack of
        // space to write a snapshot.
        Err(problem @ OpenError::Damaged { .. }) => {
            match snapshots::set_aside_damaged(path).map_err(directory)? {
                Newest::Well => Err(problem),
                Newest::SetAside => open_sled(path, &config),
                Newest::Needed(snapshot) => Err(damaged(format!(
                    "the snapshot {} is damaged, and the log is not complete without it",
                    snapshot.display()
                ))),
            }
        }
        opened => opened,
    }?;
    // From here on, because dropping a database whose disk fails may panic.
    let handle = Handle { db: Some(db), log, high_water: Arc::new(high_water) };
    if !is_made {
        flush(&handle).map_err(|error| OpenError::of_sled(path, &error))?;
        note_layout(path).map_err(directory)?;
    }
    Ok(handle)
}

/// Flushes, and wakes the flush as the committer's watcher does, which does not
/// run yet. sled does not always wake a flush that waits for a failed write.
fn flush(db: &sled::Db) -> sled::Result<()> {
    let (done, outcome) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || done.send(db.flush()));
        loop {
            match outcome.recv_timeout(PATIENCE) {
                Ok(flushed) => return flushed.map(drop),
                // If there is an error, the flush reports it.
                Err(RecvTimeoutError::Timeout) => drop(db.insert(NUDGE, b"")),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(sled::Error::ReportableBug("a flush has panicked".to_owned()));
                }
            }
        }
    })
}

/// Records that a database is being created, before any part of it exists. If
/// an earlier creation was interrupted, it removes the leftovers; nothing in
/// them was ever acknowledged. A power loss can leave a log there that sled
/// cannot read. [`ownership::check`] has made sure that they are that.
fn begin(path: &Path) -> io::Result<()> {
    // A note that is there is not written again: a loss of power could tear it.
    if !ownership::is_unfinished(path)? {
        ownership::write_private(&path.join(UNFINISHED_FILE), LAYOUT.as_bytes())?;
        File::open(path)?.sync_all()?;
    }
    for file in quarantine::database_in(path)? {
        tracing::warn!(file = %file.display(), "removed a file of a database that was never completed");
        if file.is_dir() { fs::remove_dir(file)? } else { fs::remove_file(file)? }
    }
    File::open(path)?.sync_all()
}

/// Records that the database is complete. From now on, an empty log means that
/// the log was lost.
fn note_layout(path: &Path) -> io::Result<()> {
    for file in ["db", "conf"] {
        File::open(path.join(file))?.sync_all()?;
    }
    File::open(path)?.sync_all()?;
    fs::rename(path.join(UNFINISHED_FILE), path.join(LAYOUT_FILE))?;
    File::open(path)?.sync_all()
}

/// Opens the database, or returns why it cannot be opened.
fn open_sled(path: &Path, config: &sled::Config) -> Result<sled::Db, OpenError> {
    // sled panics on some kinds of damage. We catch that, to report what is
    // wrong.
    match panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let db = config.open()?;
        // Reading the beginning of each tree finds a tree that cannot be read
        // at all.
        for name in db.tree_names() {
            db.open_tree(name)?.first()?;
        }
        Ok(db)
    })) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(error)) => Err(OpenError::of_sled(path, &error)),
        Err(panic) => {
            // The panic message is not repeated: it may contain stored data.
            let said = match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
                (Some(said), _) => said,
                (_, Some(said)) => *said,
                _ => "",
            };
            let problem = "sled panicked; the lines above give its message".to_owned();
            let path = path.to_owned();
            Err(match is_about_content(said) {
                true => OpenError::Damaged { path, problem },
                false => OpenError::Unusable { path, problem },
            })
        }
    }
}

/// Creates the directory and its missing parents. Their directory entries
/// survive a power loss after this.
fn create_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_durably(parent)?;
    DirBuilder::new().mode(0o700).create(path)?;
    File::open(parent)?.sync_all()
}

/// Waits until sled has released a database that this process had open before.
/// sled's own thread may be the last to release it, a moment after the database
/// was dropped. No other process can hold the log, because we hold our own
/// lock.
///
/// Then syncs the log. A killed daemon may have left more in it than is on the
/// disk, and sled now writes and syncs a snapshot that covers all of it.
fn settle_log(path: &Path) -> io::Result<()> {
    let log = match File::open(path.join("db")) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // If the log is still locked, opening it with sled reports that.
    is_released(&log)?;
    log.sync_data()?;
    File::open(path)?.sync_all()
}

/// Waits until sled has released the log. `false`: it has not for a long time.
fn is_released(log: &File) -> io::Result<bool> {
    for _ in 0..LINGERING_TRIES {
        match flock(log, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                flock(log, FlockOperation::Unlock)?;
                return Ok(true);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => thread::sleep(LINGERING_PAUSE),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(raw: i32) -> sled::Error {
        sled::Error::Io(io::Error::from_raw_os_error(raw))
    }

    #[test]
    fn only_what_is_stored_is_damaged() {
        let path = Path::new("data");
        let damaged = |error| matches!(OpenError::of_sled(path, &error), OpenError::Damaged { .. });
        let made = |kind, text: &str| sled::Error::Io(io::Error::new(kind, text));
        assert!(damaged(sled::Error::Corruption { at: None, bt: () }));
        assert!(damaged(made(io::ErrorKind::UnexpectedEof, "failed to fill whole buffer")));
        assert!(!damaged(sled::Error::Unsupported("of another version".to_owned())));
        // EPERM, EIO, EAGAIN, EACCES, EMFILE, ENOSPC.
        for raw in [1, 5, 11, 13, 24, 28] {
            assert!(!damaged(error_of(raw)), "{raw}");
            assert!(!damaged(error_of(raw).clone()), "{raw}: sled passes copies on");
        }
        assert!(!damaged(made(io::ErrorKind::Other, "could not acquire lock on \"db\"")));
        assert!(!is_about_content(&format!("{:?}", error_of(5))), "said by a panic");
    }

    /// Even if the configuration asks for quarantine.
    #[test]
    fn what_is_not_damaged_is_not_put_into_quarantine() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("data");
        let opened = open(&path, 1 << 20, OnDamage::Quarantine).expect("it opens");
        let used = open(&path, 1 << 20, OnDamage::Quarantine).map(drop);
        assert!(matches!(used, Err(OpenError::InUse { .. })), "{used:?}");
        drop(opened);

        // As a release with another layout would have created it.
        let path = scratch.path().join("other");
        let config = sled::Config::new().path(&path).segment_size(1 << 16);
        let other = config.open().expect("it opens");
        other.insert("a", "b").expect("it is taken");
        other.flush().expect("it is flushed");
        drop(other);
        // A thread of sled's can hold the log for a moment longer.
        let log = File::open(path.join("db")).expect("a log");
        assert!(is_released(&log).expect("a lock"), "sled releases what was dropped");
        fs::write(path.join(LAYOUT_FILE), "sessiond sled 1\n").expect("written");
        let refused = open(&path, 1 << 20, OnDamage::Quarantine).map(drop);
        assert!(matches!(refused, Err(OpenError::Unusable { .. })), "{refused:?}");
        assert!(quarantine::all(&path).expect("readable").is_empty());
        let other = config.open().expect("it opens");
        assert!(other.get("a").expect("readable").is_some(), "as it was");
    }

    /// For instance after a restore from a backup that lacks the file, into a directory
    /// where a start was interrupted.
    #[test]
    fn a_database_without_its_layout_file_is_never_taken_for_unfinished() {
        for note in [None, Some(LAYOUT)] {
            let scratch = tempfile::tempdir().expect("a scratch folder");
            let path = scratch.path().join("data");
            for value in ["a", "b"] {
                let opened = open(&path, 1 << 20, OnDamage::Refuse).expect("it opens");
                opened.db.insert("key", value).expect("it is taken");
            }
            fs::remove_file(path.join(LAYOUT_FILE)).expect("it was there");
            if let Some(note) = note {
                fs::write(path.join(UNFINISHED_FILE), note).expect("written");
            }
            let log = fs::read(path.join("db")).expect("a log");
            let refused = open(&path, 1 << 20, OnDamage::Quarantine).map(drop);
            assert!(matches!(refused, Err(OpenError::Foreign { .. })), "{note:?}: {refused:?}");
            assert!(fs::read(path.join("db")).expect("a log") == log, "nothing is touched");
            fs::write(path.join(LAYOUT_FILE), LAYOUT).expect("written");
            let opened = open(&path, 1 << 20, OnDamage::Refuse).expect("it opens");
            assert!(opened.db.get("key").expect("readable").is_some(), "nothing is dropped");
        }
    }

    #[test]
    fn a_database_that_was_never_finished_is_created_again() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("data");
        drop(open(&path, 1 << 20, OnDamage::Refuse).expect("it opens"));
        let junk = || fs::write(path.join("db"), [7; 96]);
        junk().expect("torn");
        open(&path, 1 << 20, OnDamage::Refuse).map(drop).expect_err("it was made, and is damaged");
        // As after a power loss before the layout file had its final name.
        fs::rename(path.join(LAYOUT_FILE), path.join(UNFINISHED_FILE)).expect("renamed");
        junk().expect("torn");
        let opened = open(&path, 1 << 20, OnDamage::Refuse).expect("it is created again");
        opened.db.insert("key", "value").expect("it is taken");
        drop(opened);
        assert!(!path.join(UNFINISHED_FILE).exists(), "it is finished");
        let opened = open(&path, 1 << 20, OnDamage::Refuse).expect("it opens");
        assert!(opened.db.get("key").expect("readable").is_some());
    }

    #[test]
    fn a_log_that_is_gone_is_not_taken_for_a_new_database() {
        for gone in [(|log| fs::remove_file(log)) as fn(&Path) -> _, |log| fs::write(log, b"")] {
            let scratch = tempfile::tempdir().expect("a scratch folder");
            let path = scratch.path().join("data");
            // The second opening leaves a snapshot.
            for value in ["a", "b"] {
                let opened = open(&path, 1 << 20, OnDamage::Refuse).expect("it opens");
                opened.db.insert("key", value).expect("it is taken");
            }
            gone(&path.join("db")).expect("it is gone");
            let refused = open(&path, 1 << 20, OnDamage::Refuse).map(drop);
            let Err(OpenError::Damaged { problem, .. }) = refused else {
                panic!("expected it to be refused, found {refused:?}");
            };
            assert!(problem.contains("its log is missing"), "{problem}");
            assert!(path.join("conf").exists(), "nothing is touched");
            let opened = open(&path, 1 << 20, OnDamage::Quarantine).expect("it starts empty");
            assert!(opened.db.get("key").expect("readable").is_none());
            assert_eq!(quarantine::all(&path).expect("readable").len(), 1);
        }
    }
}
