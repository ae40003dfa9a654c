//! The committer: one thread that makes changes durable.
//!
//! All who wait are gathered into one flush. What sled's `flush()` gives on
//! Linux is `sync_file_range`, which puts the bytes into the kernel and no
//! further: that is [`Durability::Flushed`]. For [`Durability::Synced`] the
//! files are fdatasync'ed here.
//!
//! After a flush or a sync has failed, nobody knows what is on the disk (the
//! kernel may have dropped the pages). The store then keeps refusing, instead
//! of promising what it can not know, until it is opened again.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs::File,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::session::store::{Result, StoreError};

/// When a change is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// When it is in memory; it is flushed within the flush interval.
    Buffered,
    /// When it is with the operating system: it survives the process.
    Flushed,
    /// When it is on the disk: it survives a power loss.
    Synced,
}

const DOING: &str = "make a change durable";

/// A handle to the thread. The thread ends when this is dropped, after a last
/// flush and sync.
pub struct Committer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    failed: AtomicBool,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiter>,
    /// Something was changed that nobody waits for.
    dirty: bool,
    stopping: bool,
}

struct Waiter {
    durability: Durability,
    done: oneshot::Sender<Result<()>>,
}

impl Committer {
    /// `path` is the directory of the database.
    pub fn start(db: sled::Db, path: PathBuf, flush_interval: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            failed: AtomicBool::new(false),
        });
        let files = Files::open(path)?;
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("sessiond-commit".to_owned())
            .spawn(move || theirs.run(&db, files, flush_interval))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// An error once a flush has failed: see the head of this file.
    pub fn check(&self) -> Result<()> {
        if self.shared.failed.load(Ordering::Acquire) {
            return Err(StoreError::unavailable(
                "keep its promise of durability after an earlier failure",
                "a flush failed earlier; restart the daemon when the disk is well",
            ));
        }
        Ok(())
    }

    /// Waits until what was changed before this call is as durable as asked.
    pub async fn commit(&self, durability: Durability) -> Result<()> {
        if durability == Durability::Buffered {
            let mut queue = self.shared.queue.lock();
            // Once per interval the thread must learn of it, not once per change.
            if !std::mem::replace(&mut queue.dirty, true) {
                self.shared.wake.notify_one();
            }
            return Ok(());
        }
        let (done, outcome) = oneshot::channel();
        self.shared.queue.lock().waiting.push(Waiter { durability, done });
        self.shared.wake.notify_one();
        let stopped = |_| Err(StoreError::unavailable(DOING, "the committer has stopped"));
        outcome.await.unwrap_or_else(stopped)
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.shared.queue.lock().stopping = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has failed the store and was reported by the hook.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, db: &sled::Db, mut files: Files, flush_interval: Duration) {
        // Should this thread panic, the store must refuse and not wait.
        let _guard = FailOnPanic(&self.failed);
        loop {
            let (waiting, stopping) = self.gather(flush_interval);
            let sync =
                stopping || waiting.iter().any(|waiter| waiter.durability == Durability::Synced);
            let outcome = self.flush(db, sync.then_some(&mut files));
            for waiter in waiting {
                // Nobody listens any more when the call was cancelled.
                let _ = waiter.done.send(outcome.clone().map_err(Failure::into_error));
            }
            if stopping {
                return;
            }
        }
    }

    /// Waits for somebody who wants a flush, or for the interval to pass over a
    /// change that nobody waits for.
    fn gather(&self, flush_interval: Duration) -> (Vec<Waiter>, bool) {
        let mut queue = self.queue.lock();
        while queue.waiting.is_empty() && !queue.stopping {
            if !queue.dirty {
                self.wake.wait(&mut queue);
            } else if self.wake.wait_for(&mut queue, flush_interval).timed_out() {
                break;
            }
        }
        queue.dirty = false;
        (std::mem::take(&mut queue.waiting), queue.stopping)
    }

    fn flush(&self, db: &sled::Db, sync: Option<&mut Files>) -> std::result::Result<(), Failure> {
        if self.failed.load(Ordering::Acquire) {
            return Err(Failure(Arc::new(io::Error::other("an earlier flush failed"))));
        }
        let flushed = db.flush().map(drop).map_err(io::Error::other);
        let outcome = flushed.and_then(|()| sync.map_or(Ok(()), Files::sync));
        outcome.map_err(|error| {
            self.failed.store(true, Ordering::Release);
            tracing::error!(%error, "a flush failed: the store refuses from now on, because what is on the disk is not known; restart when the disk is well");
            Failure(Arc::new(error))
        })
    }
}

struct FailOnPanic<'a>(&'a AtomicBool);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Release);
        }
    }
}

/// One failure, told to everybody who waited for that flush.
#[derive(Clone)]
struct Failure(Arc<io::Error>);

impl Failure {
    fn into_error(self) -> StoreError {
        StoreError::unavailable(DOING, self.0)
    }
}

/// The files of the database that a power loss could take.
struct Files {
    /// sled's log. A lock on it belongs to sled's own descriptor.
    log: File,
    /// Where sled puts values that are too large for its log, a file each. It
    /// never changes one and never syncs one.
    blobs: PathBuf,
    synced_blobs: HashSet<OsString>,
}

impl Files {
    fn open(path: PathBuf) -> io::Result<Self> {
        for directory in [path.as_path(), path.parent().unwrap_or(&path)] {
            // The entries of the files themselves, once.
            if let Ok(directory) = File::open(directory) {
                directory.sync_all()?;
            }
        }
        let log = File::options().read(true).write(true).open(path.join("db"))?;
        Ok(Self { log, blobs: path.join("blobs"), synced_blobs: HashSet::new() })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_blobs()?;
        self.log.sync_data()
    }

    fn sync_blobs(&mut self) -> io::Result<()> {
        let mut present = HashSet::new();
        let mut added = false;
        for entry in std::fs::read_dir(&self.blobs)? {
            let entry = entry?;
            if !self.synced_blobs.contains(&entry.file_name()) {
                match File::open(entry.path()) {
                    Ok(blob) => blob.sync_data()?,
                    // sled has dropped it meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
                added = true;
            }
            present.insert(entry.file_name());
        }
        if added {
            File::open(&self.blobs)?.sync_all()?;
        }
        self.synced_blobs = present;
        Ok(())
    }
}
