//! Opening the data directory.

use std::{
    fs::{self, DirBuilder, File},
    io,
    ops::Deref,
    os::unix::fs::DirBuilderExt,
    panic,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

use super::snapshots::{self, Newest};

/// sled writes a leaf's values together, and spills them to a file of their own,
/// which it never syncs, when they are more than a quarter of this. The default
/// of 512 KiB would spill sessions of 8 KiB; with this, those of 64 KiB stay in.
/// It is fixed when a database is made.
pub const SEGMENT_BYTES: usize = 4 << 20;

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
    snapshots::finish_or_drop_unfinished(path).map_err(directory)?;
    drop_unfinished_beginning(path).map_err(directory)?;
    let unreadable = |problem| OpenError::Unreadable { path: path.to_owned(), problem };
    if snapshots::would_be_emptied(path).map_err(directory)? {
        return Err(unreadable(
            "the part of its log that recovery begins with is missing, and sled would drop all \
             the rest of it"
                .to_owned(),
        ));
    }
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(cache_bytes.max(MIN_CACHE_BYTES))
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(Some(CLEAN_EVERY_MS));
    let db = match open_sled(&config) {
        Err(problem) => match snapshots::set_aside_damaged(path).map_err(directory)? {
            Newest::Well => Err(problem),
            Newest::SetAside => open_sled(&config),
            Newest::Needed(snapshot) => Err(format!(
                "{} is damaged, and the log is not complete without it",
                snapshot.display()
            )),
        },
        opened => opened,
    };
    Ok(Opened { db: db.map_err(unreadable)?, lock })
}

/// Opens it, or says why not.
fn open_sled(config: &sled::Config) -> Result<Handle, String> {
    // sled panics on some kinds of damage; that is no reason to die without a word.
    match panic::catch_unwind(panic::AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(Handle(Some(db))),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("sled has panicked over it, as the lines above tell: it is damaged, or \
                       the disk fails"
            .to_owned()),
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

/// A power loss while a database is made can leave a torn `conf`, which sled
/// then refuses for ever. It is synced before anything is written to the log,
/// so as long as that is empty there is nothing that `conf` could belong to.
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
