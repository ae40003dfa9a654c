//! The committer: one thread that makes changes durable.
//!
//! All who wait are gathered into one flush. What sled's `flush()` gives on
//! Linux is `sync_file_range`, which puts the bytes into the kernel and no
//! further: that is [`Durability::Flushed`]. For [`Durability::Synced`] the
//! log is fdatasync'ed here.
//!
//! Changes are numbered as they are made, whoever then waits for them: a caller
//! that gave up leaves no change behind that nobody flushes, and who finds the
//! work of another done waits for that one to be as durable as asked.
//!
//! After a flush or a sync has failed, nobody knows what is on the disk (the
//! kernel may have dropped the pages). The store then keeps refusing, instead
//! of promising what it can not know, until it is opened again.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::open::SEGMENT_BYTES;
use crate::session::store::{Result, StoreError};

/// When a change is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When it is in memory; it is flushed within the flush interval.
    Buffered,
    /// When it is with the operating system: it survives the process.
    Flushed,
    /// When it is on the disk: it survives a power loss.
    Synced,
}

const DOING: &str = "make a change durable";

/// sled trusts what it has flushed as if it were on the disk: it writes over
/// segments whose records were copied elsewhere, and its recovery refuses, or
/// drops, what a later segment says was there before. So a power loss is safe
/// only if the log is synced within each segment. This much, as far as it is
/// known, is written between two syncs; then changes wait for the next one.
///
/// What is known is an estimate: sled writes a leaf anew every ten changes to it
/// (a bit more than what was changed, when all are alike; much more for small
/// records beside large ones), and its cleaning copies up to half a segment
/// between two syncs of its own thread's. Hence a quarter of a segment, and not
/// all of it. Two further segments have to be begun before one that was copied
/// away is written over, because sled frees it only when the header of the
/// next but one calls the copy stable. The rig of power losses counts: it fails when
/// a segment is begun and the one before was not synced since it was.
const SYNC_BYTES: u64 = SEGMENT_BYTES as u64 / 4;
const MOST_UNSYNCED_BYTES: u64 = SEGMENT_BYTES as u64 / 2;
const MOST_WAIT_FOR_SYNC: Duration = Duration::from_secs(5);

/// A flush that takes longer is nudged: see [`Shared::watch`].
pub const PATIENCE: Duration = Duration::from_secs(1);
/// What is inserted for it, in a tree that holds nothing else.
pub const NUDGE: &[u8] = b"nudge";

/// A handle to the thread. The thread ends when this is dropped, after a last
/// flush and sync.
pub struct Committer {
    shared: Arc<Shared>,
    /// The one that commits, and the one that watches it.
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Changes made, and how many of them the last flush and sync took along.
    changed: AtomicU64,
    flushed: AtomicU64,
    synced: AtomicU64,
    /// Bytes of changes, and what sled made of them, counted both so as not to
    /// count too little; and how many of them the last sync took along.
    written_bytes: AtomicU64,
    synced_bytes: AtomicU64,
    /// Changes that wait for a sync; under the lock of the queue.
    room: Condvar,
    failed: AtomicBool,
    /// Goes up at the beginning and at the end of a flush: odd while one is made.
    flushes: AtomicU64,
    /// Of the end of the thread.
    ended: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiter>,
    /// The thread sleeps, and is not being woken.
    idle: bool,
    stopping: bool,
    /// The thread is gone: nobody would answer.
    dead: bool,
}

struct Waiter {
    durability: Durability,
    done: Done,
}

/// Is told the outcome, on the committer's thread or at once: it must be short.
type Done = Box<dyn FnOnce(Result<()>) + Send>;

impl Committer {
    /// `path` is the directory of the database.
    pub fn start(db: sled::Db, path: &Path, flush_interval: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            changed: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            synced_bytes: AtomicU64::new(0),
            room: Condvar::new(),
            failed: AtomicBool::new(false),
            flushes: AtomicU64::new(0),
            ended: Condvar::new(),
        });
        let log = open_log(path)?;
        let mut committer = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        let (theirs, their_db) = (Arc::clone(&shared), db.clone());
        let thread = std::thread::Builder::new().name("sessiond-commit".to_owned());
        let commit = thread.spawn(move || theirs.run(&their_db, &log, flush_interval))?;
        committer.threads.push(commit);
        let thread = std::thread::Builder::new().name("sessiond-watch".to_owned());
        committer.threads.push(thread.spawn(move || shared.watch(&db))?);
        Ok(committer)
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

    /// Waits until a change of so many bytes may be made. Call it before each,
    /// on a thread that may wait for the disk.
    pub fn admit(&self, bytes: usize) -> Result<()> {
        let before = self.shared.unsynced_bytes();
        self.shared.written_bytes.fetch_add(bytes as u64, Ordering::SeqCst);
        if before + (bytes as u64) < SYNC_BYTES {
            return Ok(());
        }
        let mut queue = self.shared.queue.lock();
        if before < SYNC_BYTES {
            self.shared.wake(&mut queue);
        }
        while self.shared.unsynced_bytes() > MOST_UNSYNCED_BYTES {
            self.check()?;
            if self.shared.room.wait_for(&mut queue, MOST_WAIT_FOR_SYNC).timed_out() {
                return Err(StoreError::unavailable(DOING, "the disk does not keep up"));
            }
        }
        Ok(())
    }

    /// Counts a change that was just made. It is flushed within the interval,
    /// whether or not anybody waits for it.
    pub fn changed(&self) {
        let before = self.shared.changed.fetch_add(1, Ordering::SeqCst);
        if before == self.shared.flushed.load(Ordering::SeqCst) {
            // The thread looks at the count under this lock before it sleeps.
            self.shared.wake(&mut self.shared.queue.lock());
        }
    }

    /// Calls `done` when all that was changed before this call is as durable as
    /// asked, which begins with the next [`begin`](Self::begin).
    pub fn commit(&self, durability: Durability, done: impl FnOnce(Result<()>) + Send + 'static) {
        if let Some(outcome) = self.settled(durability) {
            return done(outcome);
        }
        let mut queue = self.shared.queue.lock();
        if queue.dead {
            drop(queue);
            return done(Err(stopped()));
        }
        queue.waiting.push(Waiter { durability, done: Box::new(done) });
    }

    /// Begins to commit for those who wait, unless that is under way.
    pub fn begin(&self) {
        let mut queue = self.shared.queue.lock();
        if !queue.waiting.is_empty() {
            self.shared.wake(&mut queue);
        }
    }

    /// Waits until all that was changed before this call is as durable as asked.
    pub async fn committed(&self, durability: Durability) -> Result<()> {
        let (sender, outcome) = oneshot::channel();
        // Nobody listens any more when the call was cancelled.
        self.commit(durability, move |outcome| drop(sender.send(outcome)));
        self.begin();
        outcome.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// The outcome, if there is nothing to wait for.
    fn settled(&self, durability: Durability) -> Option<Result<()>> {
        if let Err(error) = self.check() {
            return Some(Err(error));
        }
        let done = match durability {
            Durability::Buffered => return Some(Ok(())),
            Durability::Flushed => &self.shared.flushed,
            Durability::Synced => &self.shared.synced,
        };
        let settled = done.load(Ordering::SeqCst) >= self.shared.changed.load(Ordering::SeqCst);
        settled.then_some(Ok(()))
    }
}

fn stopped() -> StoreError {
    StoreError::unavailable(DOING, "the committer has stopped")
}

impl Drop for Committer {
    fn drop(&mut self) {
        {
            let mut queue = self.shared.queue.lock();
            queue.stopping = true;
            self.shared.wake(&mut queue);
        }
        for thread in self.threads.drain(..) {
            // A panic there has failed the store and was reported by the hook.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, db: &sled::Db, log: &File, flush_interval: Duration) {
        let _end = End(self);
        let mut pause = false;
        loop {
            let (waiting, stopping) = self.gather(flush_interval, pause);
            let sync =
                stopping || waiting.iter().any(|waiter| waiter.durability == Durability::Synced);
            let outcome = self.flush(db, log, sync);
            pause = outcome.is_err();
            for waiter in waiting {
                (waiter.done)(outcome.clone().map_err(Failure::into_error));
            }
            if stopping {
                return;
            }
        }
    }

    /// Waits for somebody who wants a flush, for the interval to pass over a
    /// change that nobody waits for, or for much to be unsynced; for the last
    /// not at once after a failure.
    fn gather(&self, flush_interval: Duration, pause: bool) -> (Vec<Waiter>, bool) {
        let mut queue = self.queue.lock();
        while queue.waiting.is_empty() && !queue.stopping {
            let failed = self.failed.load(Ordering::Acquire);
            let much = self.unsynced_bytes() >= SYNC_BYTES;
            if much && !pause && !failed {
                break;
            }
            queue.idle = true;
            if failed || !much && !self.is_dirty() {
                self.wake.wait(&mut queue);
            } else if self.wake.wait_for(&mut queue, flush_interval).timed_out() {
                break;
            }
        }
        queue.idle = false;
        (std::mem::take(&mut queue.waiting), queue.stopping)
    }

    fn is_dirty(&self) -> bool {
        self.changed.load(Ordering::SeqCst) > self.flushed.load(Ordering::SeqCst)
    }

    fn unsynced_bytes(&self) -> u64 {
        // In this order: what is written only grows.
        let synced = self.synced_bytes.load(Ordering::SeqCst);
        self.written_bytes.load(Ordering::SeqCst) - synced
    }

    fn flush(&self, db: &sled::Db, log: &File, sync: bool) -> std::result::Result<(), Failure> {
        if self.failed.load(Ordering::Acquire) {
            return Err(Failure(Arc::new(io::Error::other("an earlier flush failed"))));
        }
        let _flush = Flush::begin(&self.flushes);
        let changed = self.changed.load(Ordering::SeqCst);
        let written = self.written_bytes.load(Ordering::SeqCst);
        let flushed = db.flush().map_err(|error| self.fail(io::Error::other(error)))? as u64;
        self.flushed.store(changed, Ordering::SeqCst);
        self.written_bytes.fetch_add(flushed, Ordering::SeqCst);
        if !sync && self.unsynced_bytes() < SYNC_BYTES {
            return Ok(());
        }
        log.sync_data().map_err(|error| self.fail(error))?;
        self.synced.store(changed, Ordering::SeqCst);
        self.synced_bytes.store(written + flushed, Ordering::SeqCst);
        let _queue = self.queue.lock();
        self.room.notify_all();
        Ok(())
    }

    /// Wakes the thread, if it sleeps.
    fn wake(&self, queue: &mut Queue) {
        if std::mem::take(&mut queue.idle) {
            self.wake.notify_one();
        }
    }

    /// Wakes a flush that sleeps through an error: sled does not always tell
    /// it of a write that has failed, and it would wait for ever. Whoever asks
    /// for a place in the log after an error wakes all who wait. When the disk
    /// is only slow this makes one small change more.
    fn watch(&self, db: &sled::Db) {
        let mut queue = self.queue.lock();
        let mut before = 0;
        while !queue.dead {
            self.ended.wait_for(&mut queue, PATIENCE);
            let flushes = self.flushes.load(Ordering::SeqCst);
            if flushes % 2 == 1 && flushes == before {
                // The error, if there is one, is the flush's to tell.
                let _ = MutexGuard::unlocked(&mut queue, || db.insert(NUDGE, b""));
            }
            before = flushes;
        }
    }

    fn fail(&self, error: io::Error) -> Failure {
        self.failed.store(true, Ordering::Release);
        let queue = self.queue.lock();
        self.room.notify_all();
        drop(queue);
        tracing::error!(%error, "a flush failed: the store refuses from now on, because what is on the disk is not known; restart when the disk is well");
        Failure(Arc::new(error))
    }
}

/// A flush that is being made; at its end when dropped.
struct Flush<'a>(&'a AtomicU64);

impl<'a> Flush<'a> {
    fn begin(flushes: &'a AtomicU64) -> Self {
        flushes.fetch_add(1, Ordering::SeqCst);
        Self(flushes)
    }
}

impl Drop for Flush<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// The end of the thread, be it by a panic: the store must refuse and not wait.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Ordering::Release);
        }
        let waiting = {
            let mut queue = self.0.queue.lock();
            queue.dead = true;
            self.0.ended.notify_all();
            self.0.room.notify_all();
            std::mem::take(&mut queue.waiting)
        };
        for waiter in waiting {
            (waiter.done)(Err(stopped()));
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

/// sled's log, and makes sure that a power loss takes no file of the database. It
/// is kept open, so that a lack of descriptors keeps nobody from a sync. A lock on
/// it belongs to sled's own descriptor.
fn open_log(path: &Path) -> io::Result<File> {
    // sled writes this once, and never syncs it.
    File::open(path.join("conf"))?.sync_all()?;
    // The entries of the files themselves.
    File::open(path)?.sync_all()?;
    File::options().read(true).write(true).open(path.join("db"))
}
