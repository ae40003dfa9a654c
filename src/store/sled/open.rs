//! Opening the data directory: what a crash may leave is repaired, what is
//! damaged is refused, or put into quarantine when the operator asked for that,
//! and what is neither of these is left alone.

use std::{
    fs::{self, DirBuilder, File},
    io,
    ops::Deref,
    os::unix::fs::DirBuilderExt,
    panic,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{
    committer::{NUDGE, PATIENCE},
    quarantine,
    snapshots::{self, Newest},
};

/// sled writes a leaf's values together, and spills them to a file of their own
/// when they are more than a quarter of this. Such a file is never synced, a log
/// that leads to one that a power loss took does not open, and a flush waits for
/// ever for one that could not be written. So no leaf may be so large:
/// [`MOST_DATA_BYTES`] sees to it. It is fixed when a database is made.
pub const SEGMENT_BYTES: usize = 8 << 20;

/// The most data of a record. sled splits a leaf that has more than 16 records
/// when it comes by the next time, and joins one of fewer than 4 to the one before
/// it: 24 leave room for what comes in between.
pub const MOST_DATA_BYTES: usize = 80 << 10;
const LEAF_RECORDS: usize = 24;
/// Of a record beside its data: its head, the longest principal, and its key.
const HEAD_BYTES: usize = 512;
const _: () = assert!(LEAF_RECORDS * (MOST_DATA_BYTES + HEAD_BYTES) < SEGMENT_BYTES / 4 - 128);

/// How often sled's own thread runs. Nobody relies on its flushes: it ends on the
/// first error, and the committer notices errors by itself. But only that thread
/// rewrites what is left in segments that are nearly empty, and one segment at
/// most in each turn: so many segments can be filled in a second. Without it
/// the log grew without end under churn (tests/rigs/churn.rs); with 200 ms it was 19
/// times as large as what is live once writes had become cheap, with this less
/// than 4 times, which the rig holds it to.
const CLEAN_EVERY_MS: u64 = 50;

/// sled refuses less.
const MIN_CACHE_BYTES: u64 = 256;

/// Of the data directory: the file that says which [`LAYOUT`] it has. It is there
/// once a new database is on the disk.
pub const LAYOUT_FILE: &str = "layout";
/// The same until the database is made.
const UNFINISHED_FILE: &str = "layout.unfinished";
/// The same for a database that was made without either, until it has its name.
const NEW_LAYOUT_FILE: &str = "layout.new";
const LAYOUT: &str = "sessiond sled 2\n";

/// How often and how far apart an opening looks whether sled has let go.
const LINGERING_TRIES: u32 = 1000;
const LINGERING_PAUSE: Duration = Duration::from_millis(10);

/// What to do with a database that is damaged beyond repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDamage {
    /// Leave it as it is and do not start.
    Refuse,
    /// Move it aside and start with an empty one.
    Quarantine,
}

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the data directory {} is in use by another process; stop it, or give this daemon a store.sled.path of its own",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error("can not use the data directory {}: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    /// Whatever is wrong, it is not what is stored.
    #[error("can not open the database in {}: {problem}; it is left as it is", path.display())]
    Unusable { path: PathBuf, problem: String },
    #[error(
        "the database in {} is damaged: {problem}; restore a backup, or set store.sled.on_damage = \"quarantine\" to have it moved aside and to start empty, which ends all its sessions",
        path.display()
    )]
    Damaged { path: PathBuf, problem: String },
    #[error(
        "the database in {} is damaged: {problem}; it can not be put into quarantine: {source}",
        path.display()
    )]
    NotQuarantined { path: PathBuf, problem: String, source: io::Error },
}

impl OpenError {
    /// What an error of sled's says about the database in `path`.
    pub fn of_sled(path: &Path, error: &sled::Error) -> Self {
        let (path, problem) = (path.to_owned(), error.to_string());
        let is_damage = match error {
            // Made by another version, or with other settings.
            sled::Error::Unsupported(_) => false,
            _ => is_about_content(&format!("{error:?}")),
        };
        match is_damage {
            true => Self::Damaged { path, problem },
            false => Self::Unusable { path, problem },
        }
    }
}

/// Whether what sled says of a failure can be about what is stored: not when it
/// tells of an error of the system, of its own lock, or of threads.
fn is_about_content(said: &str) -> bool {
    !["Os {", "could not acquire lock", "IO thread"].iter().any(|cause| said.contains(cause))
}

/// An open database and the lock that makes this process its owner. The lock
/// goes with the value.
pub struct Opened {
    pub db: Handle,
    pub lock: File,
}

/// The handle of a database that is dropped last: with it sled closes its log,
/// and panics when its own sync of that fails. The committer has done its sync
/// by then, and has told of it.
pub struct Handle(Option<sled::Db>);

impl Deref for Handle {
    type Target = sled::Db;

    fn deref(&self) -> &sled::Db {
        self.0.as_ref().expect("it is taken when dropped")
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let db = self.0.take();
        if panic::catch_unwind(panic::AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::error!("sled could not close its log; what it said stands above");
        }
    }
}

pub fn open(path: &Path, cache_bytes: u64, on_damage: OnDamage) -> Result<Opened, OpenError> {
    let directory = |source| OpenError::Directory { path: path.to_owned(), source };
    create_durably(path).map_err(directory)?;
    // Before sled: it reads and writes its `conf` before it takes its own lock.
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join("lock"))
        .map_err(directory)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(OpenError::InUse { path: path.to_owned() });
        }
        Err(errno) => return Err(directory(errno.into())),
    }
    quarantine::finish(path).map_err(directory)?;
    let db = match open_database(path, cache_bytes) {
        Err(OpenError::Damaged { path, problem }) if on_damage == OnDamage::Quarantine => {
            match quarantine::put(&path, &problem) {
                Ok(aside) => tracing::error!(
                    problem,
                    aside = %aside.display(),
                    "the database was damaged and is in quarantine: all its sessions are ended, \
                     and the store starts empty"
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
            "databases are in quarantine; remove them when they are of no use any more"
        );
    }
    Ok(Opened { db, lock })
}

/// Call it with the lock held.
fn open_database(path: &Path, cache_bytes: u64) -> Result<Handle, OpenError> {
    let directory = |source| OpenError::Directory { path: path.to_owned(), source };
    let damaged = |problem| OpenError::Damaged { path: path.to_owned(), problem };
    let is_made = match fs::read_to_string(path.join(LAYOUT_FILE)) {
        Ok(layout) if layout == LAYOUT => true,
        Ok(layout) => {
            let problem = format!("it has another layout, {layout:?}, as another release makes it");
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
    if let Some(problem) = snapshots::would_be_emptied(path, is_made).map_err(directory)? {
        return Err(damaged(format!("{problem}, and sled would drop all the rest")));
    }
    if !is_made {
        drop_unfinished_beginning(path).map_err(directory)?;
    }
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(cache_bytes.max(MIN_CACHE_BYTES))
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(Some(CLEAN_EVERY_MS));
    let db = match open_sled(path, &config) {
        // Only then: sled may have failed because it had no room to write one.
        Err(problem @ OpenError::Damaged { .. }) => {
            match snapshots::set_aside_damaged(path).map_err(directory)? {
                Newest::Well => Err(problem),
                Newest::SetAside => open_sled(path, &config),
                Newest::Needed(snapshot) => Err(damaged(format!(
                    "the snapshot {} is not whole, and the log is not complete without it",
                    snapshot.display()
                ))),
            }
        }
        opened => opened,
    }?;
    if !is_made {
        flush(&db).map_err(|error| OpenError::of_sled(path, &error))?;
        note_layout(path).map_err(directory)?;
    }
    Ok(db)
}

/// A flush that is nudged, as the committer's is by its watch, which is not there
/// yet: sled does not always wake a flush that waits for a write that has failed.
fn flush(db: &sled::Db) -> sled::Result<()> {
    let (done, outcome) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || done.send(db.flush()));
        loop {
            match outcome.recv_timeout(PATIENCE) {
                Ok(flushed) => return flushed.map(drop),
                // The error, if there is one, is the flush's to tell.
                Err(RecvTimeoutError::Timeout) => drop(db.insert(NUDGE, b"")),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(sled::Error::ReportableBug("a flush has panicked".to_owned()));
                }
            }
        }
    })
}

/// Notes that a database is being made, before there is anything of it; and drops
/// what is left of one whose making was cut short, of which nothing was ever
/// acknowledged. A power loss can leave a log there that sled does not read.
fn begin(path: &Path) -> io::Result<()> {
    let unfinished = path.join(UNFINISHED_FILE);
    let left = quarantine::database_in(path)?;
    if unfinished.exists() {
        for file in left {
            tracing::warn!(file = %file.display(), "dropped: left of a database that was never finished");
            if file.is_dir() { fs::remove_dir_all(file)? } else { fs::remove_file(file)? }
        }
        return File::open(path)?.sync_all();
    }
    // Else it was made without such a note.
    if left.is_empty() {
        fs::write(&unfinished, LAYOUT)?;
        File::open(&unfinished)?.sync_all()?;
        File::open(path)?.sync_all()?;
    }
    Ok(())
}

/// From here on there is a database, and a log that has nothing in it is one
/// that was lost.
fn note_layout(path: &Path) -> io::Result<()> {
    for file in ["db", "conf"] {
        File::open(path.join(file))?.sync_all()?;
    }
    File::open(path)?.sync_all()?;
    let unfinished = path.join(UNFINISHED_FILE);
    // A database that was made without the note must never seem unfinished.
    let note = if unfinished.exists() { unfinished } else { path.join(NEW_LAYOUT_FILE) };
    fs::write(&note, LAYOUT)?;
    File::open(&note)?.sync_all()?;
    fs::rename(&note, path.join(LAYOUT_FILE))?;
    File::open(path)?.sync_all()
}

/// Opens it, or says why not.
fn open_sled(path: &Path, config: &sled::Config) -> Result<Handle, OpenError> {
    // sled panics on some kinds of damage; that is no reason to die without a word.
    match panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let db = config.open()?;
        // Where each tree begins: what can not be read at all is found here.
        for name in db.tree_names() {
            db.open_tree(name)?.first()?;
        }
        Ok(db)
    })) {
        Ok(Ok(db)) => Ok(Handle(Some(db))),
        Ok(Err(error)) => Err(OpenError::of_sled(path, &error)),
        Err(panic) => {
            // What it said is not repeated: it may hold what is stored.
            let said = match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
                (Some(said), _) => said,
                (_, Some(said)) => *said,
                _ => "",
            };
            let problem = "sled has panicked over it, as the lines above tell".to_owned();
            let path = path.to_owned();
            Err(match is_about_content(said) {
                true => OpenError::Damaged { path, problem },
                false => OpenError::Unusable { path, problem },
            })
        }
    }
}

/// Makes the directory and those above it that are missing. A power loss after
/// this leaves their entries in place.
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

/// Waits until sled has let go of a database that this process had open before.
/// A thread of its own may be the last to go, a moment after the database was
/// dropped. Nobody else can hold the log, because our own lock is held.
///
/// Then syncs the log, of which a killed daemon may have left more than is on
/// the disk: sled now writes, and syncs, a snapshot that goes as far.
fn settle_log(path: &Path) -> io::Result<()> {
    let log = match File::open(path.join("db")) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for _ in 0..LINGERING_TRIES {
        match flock(&log, FlockOperation::NonBlockingLockExclusive) {
            // Closing the file gives the lock back.
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) => thread::sleep(LINGERING_PAUSE),
            Err(errno) => return Err(errno.into()),
        }
    }
    // If it is held still, sled's open says so.
    log.sync_data()?;
    File::open(path)?.sync_all()
}

/// A power loss while a database is made can leave a torn `conf`, which sled
/// then refuses for ever. It is synced before any change is taken, so as long as
/// the log is empty there is nothing that `conf` could belong to.
fn drop_unfinished_beginning(path: &Path) -> io::Result<()> {
    let is_empty = match fs::metadata(path.join("db")) {
        Ok(log) => log.len() == 0,
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(error),
    };
    if is_empty && path.join("conf").exists() {
        fs::remove_file(path.join("conf"))?;
        tracing::warn!("the database was never written to; it is made anew");
    }
    Ok(())
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

    /// Whatever was asked for.
    #[test]
    fn what_is_not_damaged_is_not_put_into_quarantine() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("data");
        let opened = open(&path, 1 << 20, OnDamage::Quarantine).expect("it opens");
        let used = open(&path, 1 << 20, OnDamage::Quarantine).map(drop);
        assert!(matches!(used, Err(OpenError::InUse { .. })), "{used:?}");
        drop(opened);

        // As a release with another layout would have made it.
        let path = scratch.path().join("other");
        let other = sled::Config::new().path(&path).segment_size(1 << 16).open();
        let other = other.expect("it opens");
        other.insert("a", "b").expect("it is taken");
        other.flush().expect("it is flushed");
        drop(other);
        let refused = open(&path, 1 << 20, OnDamage::Quarantine).map(drop);
        assert!(matches!(refused, Err(OpenError::Unusable { .. })), "{refused:?}");
        assert!(quarantine::all(&path).expect("readable").is_empty());
        let other = sled::Config::new().path(&path).segment_size(1 << 16).open();
        assert!(other.expect("it opens").get("a").expect("readable").is_some(), "as it was");
    }

    /// A backup without the file, say; and a crash while it is written anew.
    #[test]
    fn a_database_without_its_layout_file_is_never_taken_for_unfinished() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("data");
        let opened = open(&path, 1 << 20, OnDamage::Refuse).expect("it opens");
        opened.db.insert("key", "value").expect("it is taken");
        drop(opened);
        fs::remove_file(path.join(LAYOUT_FILE)).expect("it was there");
        // The name that it is to have is in the way: the opening ends there.
        fs::create_dir(path.join(LAYOUT_FILE)).expect("made");
        fs::write(path.join(LAYOUT_FILE).join("full"), "").expect("made");
        note_layout(&path).expect_err("nothing is renamed to a folder");
        fs::remove_dir_all(path.join(LAYOUT_FILE)).expect("removed");
        let opened = open(&path, 1 << 20, OnDamage::Refuse).expect("it opens");
        assert!(opened.db.get("key").expect("readable").is_some(), "nothing is dropped");
        assert!(path.join(LAYOUT_FILE).is_file(), "it has its note again");
    }

    #[test]
    fn a_database_that_was_never_finished_is_made_anew() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("data");
        drop(open(&path, 1 << 20, OnDamage::Refuse).expect("it opens"));
        let junk = || fs::write(path.join("db"), [7; 96]);
        junk().expect("torn");
        open(&path, 1 << 20, OnDamage::Refuse).map(drop).expect_err("it was made, and is damaged");
        // As a power loss leaves it that came before the making was noted.
        fs::rename(path.join(LAYOUT_FILE), path.join(UNFINISHED_FILE)).expect("renamed");
        junk().expect("torn");
        let opened = open(&path, 1 << 20, OnDamage::Refuse).expect("it is made anew");
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
