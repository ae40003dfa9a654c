//! Opening the data directory.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    panic,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

/// sled writes a leaf's values together, and spills them to a file of their own,
/// which it never syncs, when they are more than a quarter of this. The default
/// of 512 KiB would spill sessions of 8 KiB; with this, those of 64 KiB stay in.
/// It is fixed when a database is made.
const SEGMENT_BYTES: usize = 4 << 20;

/// How often sled's own thread runs. Nobody relies on its flushes: it ends on the
/// first error, and the committer notices errors by itself. But only that thread
/// rewrites what is left in segments that are nearly empty. Without it the log
/// grew without end under churn (tests/rigs/churn.rs); with a second between its
/// turns the log was twice as large as with this.
const CLEAN_EVERY_MS: u64 = 200;

/// sled refuses less.
const MIN_CACHE_BYTES: u64 = 256;

/// How often and how far apart an opening looks whether sled has let go.
const LINGERING_TRIES: u32 = 200;
const LINGERING_PAUSE: Duration = Duration::from_millis(10);

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
    #[error(
        "the database in {} can not be read: {problem}; restore a backup, or move the directory away to start empty",
        path.display()
    )]
    Unreadable { path: PathBuf, problem: String },
}

/// An open database and the lock that makes this process its owner. The lock
/// goes with the value.
pub struct Opened {
    pub db: sled::Db,
    pub lock: File,
}

pub fn open(path: &Path, cache_bytes: u64) -> Result<Opened, OpenError> {
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
    wait_for_sled(path).map_err(directory)?;
    drop_unfinished_snapshots(path).map_err(directory)?;
    let unreadable = |problem| OpenError::Unreadable { path: path.to_owned(), problem };
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(cache_bytes.max(MIN_CACHE_BYTES))
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(Some(CLEAN_EVERY_MS));
    // sled panics on some kinds of damage; that is no reason to die without a word.
    match panic::catch_unwind(panic::AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(Opened { db, lock }),
        Ok(Err(error)) => Err(unreadable(error.to_string())),
        Err(_) => Err(unreadable("its structure is damaged".to_owned())),
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
fn wait_for_sled(path: &Path) -> io::Result<()> {
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
    Ok(())
}

/// A snapshot that a crash left unfinished makes sled's next open fail. It is
/// not needed: the one before it is removed only after its rename.
fn drop_unfinished_snapshots(path: &Path) -> io::Result<()> {
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
