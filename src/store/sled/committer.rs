//! The committer: one thread that makes changes durable.
//!
//! One flush serves all waiting callers. On Linux, sled's `flush()` is
//! `sync_file_range`, which moves the bytes to the kernel and no further: that
//! is [`Durability::Flushed`]. For [`Durability::Synced`] the committer calls
//! fdatasync on the log.
//!
//! Every change gets a number when it is made, whether or not anybody waits for
//! it. A caller that gives up leaves no change unflushed. A caller that finds
//! its work already done by another waits until that change is as durable as
//! requested.
//!
//! After a failed flush or sync, the content of the disk is unknown: the kernel
//! may have dropped the pages. The store cannot keep its promise of durability
//! then, and refuses every operation until it is opened again.
//!
//! The same is true when the log has lost its name: somebody has removed it, or
//! its directory, or put another file in its place. Every write still succeeds
//! then, and the next start finds nothing of it. So each flush and each sync looks
//! whether the log is where it was ([`Place`]) before anything is acknowledged. The
//! watching thread looks once a second, for changes that nobody waits for.
//!
//! After each sync the committer raises the high-water mark ([`super::mark`]).

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{mark::HighWater, open::SEGMENT_BYTES};
use crate::{
    session::store::{Result, StoreError},
    timing::{Timings, Totals},
};

/// When a change is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When it is in memory. It is flushed within the flush interval.
    Buffered,
    /// When the operating system has it. It survives the end of the process.
    Flushed,
    /// When it is on the disk. It survives a power loss.
    Synced,
}

const DOING: &str = "make a change durable";

/// The committer syncs the log after about this many written bytes.
///
/// sled treats flushed data as if it were on the disk. It overwrites segments
/// after it has copied their records elsewhere, and its recovery refuses or
/// drops data that a later segment says existed earlier. A power loss is
/// therefore safe only if the log is synced within each segment. Above
/// [`MOST_UNSYNCED_BYTES`], changes wait for the next sync.
///
/// The number of written bytes is an estimate. sled rewrites a leaf after every
/// ten changes to it. That is slightly more than the changes if all records
/// have similar sizes, and much more if small records share a leaf with large
/// ones. Its cleaning copies up to half a segment between two syncs by its own
/// thread. The limit is therefore a quarter of a segment.
///
/// sled overwrites a copied segment only after two further segments have begun,
/// because it frees the segment when the header of the next but one marks the
/// copy as stable. The power loss rig counts this: it fails if a segment begins
/// while the previous one has not been synced since that one began.
const SYNC_BYTES: u64 = SEGMENT_BYTES as u64 / 4;
const MOST_UNSYNCED_BYTES: u64 = SEGMENT_BYTES as u64 / 2;
const MOST_WAIT_FOR_SYNC: Duration = Duration::from_secs(5);

/// A flush that takes longer than this is woken: see [`Shared::watch`]. So often, the watching
/// thread also looks whether the log is in its place, and has the log synced if there is
/// something new in it that no mark knows of. That costs the disk nothing: sled's own thread
/// syncs the log in each of its turns, which are far more frequent.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// The key that is inserted to wake a flush, in a tree that holds nothing else.
pub(super) const NUDGE: &[u8] = b"nudge";

/// A handle to the thread. When it is dropped, the thread flushes and syncs
/// once more and ends.
pub(super) struct Committer {
    shared: Arc<Shared>,
    /// The committing thread and the thread that watches it.
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// The number of changes made, and how many of them the last flush and the
    /// last sync included.
    changed: AtomicU64,
    flushed: AtomicU64,
    synced: AtomicU64,
    /// Bytes of changes plus bytes that sled wrote for them, counted together
    /// as an upper estimate; and how many of them the last sync included.
    written_bytes: AtomicU64,
    synced_bytes: AtomicU64,
    /// Wakes changes that wait for a sync. Used with the lock of the queue.
    room: Condvar,
    /// Why the store refuses everything.
    failure: OnceLock<Failure>,
    place: Place,
    high_water: Arc<HighWater>,
    /// Incremented at the beginning and at the end of a flush: odd during a
    /// flush.
    flushes: AtomicU64,
    /// Signals that the committing thread has ended.
    ended: Condvar,
    commits: Timings,
    syncs: Timings,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiter>,
    /// The thread sleeps, and nobody has woken it yet.
    idle: bool,
    /// The mark is behind the log.
    sync_due: bool,
    stopping: bool,
    /// The thread has ended: nobody would answer.
    dead: bool,
}

struct Waiter {
    durability: Durability,
    done: Done,
}

/// Receives the outcome, on the committer's thread or immediately. It must
/// return quickly.
type Done = Box<dyn FnOnce(Result<()>) + Send>;

impl Committer {
    /// Starts the two threads. `path` is the directory of the database.
    pub(super) fn start(
        db: sled::Db,
        path: &Path,
        high_water: Arc<HighWater>,
        flush_interval: Duration,
    ) -> io::Result<Self> {
        let log = open_log(path)?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            changed: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            synced_bytes: AtomicU64::new(0),
            room: Condvar::new(),
            failure: OnceLock::new(),
            place: Place::of(path, &log)?,
            high_water,
            flushes: AtomicU64::new(0),
            ended: Condvar::new(),
            commits: Timings::default(),
            syncs: Timings::default(),
        });
        let mut committer = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        let (theirs, their_db) = (Arc::clone(&shared), db.clone());
        let thread = std::thread::Builder::new().name("sessiond-commit".to_owned());
        let commit = thread.spawn(move || theirs.run(&their_db, &log, flush_interval))?;
        committer.threads.push(commit);
        let thread = std::thread::Builder::new().name("sessiond-watch".to_owned());
        committer.threads.push(thread.spawn(move || shared.watch(&db))?);
        Ok(committer)
    }

    /// Fails if a flush or a sync has failed before, or the log has lost its name: see the
    /// module documentation.
    pub(super) fn check(&self) -> Result<()> {
        match self.shared.failure.get() {
            None => Ok(()),
            Some(failure) => Err(failure.later()),
        }
    }

    /// How long commits took, and the syncs in them.
    pub(super) fn durations(&self) -> (Totals, Totals) {
        (self.shared.commits.totals(), self.shared.syncs.totals())
    }

    /// Waits until a change of `bytes` bytes may be made. Call it before each
    /// change, on a thread that may wait for the disk.
    pub(super) fn admit(&self, bytes: usize) -> Result<()> {
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
                return Err(StoreError::unavailable(DOING, "the disk is too slow for the changes"));
            }
        }
        Ok(())
    }

    /// Counts a change that was just made. It is flushed within the interval,
    /// even if nobody waits for it.
    pub(super) fn changed(&self) {
        let before = self.shared.changed.fetch_add(1, Ordering::SeqCst);
        if before == self.shared.flushed.load(Ordering::SeqCst) {
            // The thread reads the count under this lock before it sleeps.
            self.shared.wake(&mut self.shared.queue.lock());
        }
    }

    /// Calls `done` when every change made before this call has the requested
    /// durability. The work starts with the next [`begin`](Self::begin).
    pub(super) fn commit(
        &self,
        durability: Durability,
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) {
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

    /// Starts to commit for the waiting callers, unless a commit is already
    /// running.
    pub(super) fn begin(&self) {
        let mut queue = self.shared.queue.lock();
        if !queue.waiting.is_empty() {
            self.shared.wake(&mut queue);
        }
    }

    /// Waits until every change made before this call has the requested
    /// durability.
    pub(super) async fn committed(&self, durability: Durability) -> Result<()> {
        let (sender, outcome) = oneshot::channel();
        // Nobody listens if the call was cancelled.
        self.commit(durability, move |outcome| drop(sender.send(outcome)));
        self.begin();
        outcome.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// The outcome, if no wait is needed.
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
            // A panic there has already failed the store, and the panic hook
            // has reported it.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, db: &sled::Db, log: &File, flush_interval: Duration) {
        let _end = End(self);
        let mut pause = false;
        loop {
            let Gathered { waiting, sync_due, stopping } = self.gather(flush_interval, pause);
            let is_synced = |waiter: &Waiter| waiter.durability == Durability::Synced;
            let sync = stopping || sync_due || waiting.iter().any(is_synced);
            let begun = Instant::now();
            let outcome = self.flush(db, log, sync, stopping || sync_due);
            self.commits.observe(begun.elapsed());
            pause = outcome.is_err();
            for waiter in waiting {
                (waiter.done)(outcome.clone().map_err(Failure::into_error));
            }
            if stopping {
                return;
            }
        }
    }

    /// Waits until a caller wants a flush, until the interval has passed after
    /// a change that nobody waits for, or until too many bytes are unsynced.
    /// After a failure, unsynced bytes alone do not end the wait at once.
    fn gather(&self, flush_interval: Duration, pause: bool) -> Gathered {
        let mut queue = self.queue.lock();
        while queue.waiting.is_empty() && !queue.stopping && !queue.sync_due {
            let failed = self.failure.get().is_some();
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
        Gathered {
            waiting: std::mem::take(&mut queue.waiting),
            sync_due: std::mem::take(&mut queue.sync_due),
            stopping: queue.stopping,
        }
    }

    fn is_dirty(&self) -> bool {
        self.changed.load(Ordering::SeqCst) > self.flushed.load(Ordering::SeqCst)
    }

    fn unsynced_bytes(&self) -> u64 {
        // In this order, because `written_bytes` only grows.
        let synced = self.synced_bytes.load(Ordering::SeqCst);
        self.written_bytes.load(Ordering::SeqCst) - synced
    }

    /// With `is_due` the mark lists the segments anew.
    fn flush(
        &self,
        db: &sled::Db,
        log: &File,
        sync: bool,
        is_due: bool,
    ) -> std::result::Result<(), Failure> {
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        let _flush = Flush::begin(&self.flushes);
        let changed = self.changed.load(Ordering::SeqCst);
        let written = self.written_bytes.load(Ordering::SeqCst);
        let flushed = db.flush().map_err(|error| self.fail_flush(io::Error::other(error)))? as u64;
        self.written_bytes.fetch_add(flushed, Ordering::SeqCst);
        if !sync && self.unsynced_bytes() < SYNC_BYTES {
            self.look()?;
            self.flushed.store(changed, Ordering::SeqCst);
            return Ok(());
        }
        // Before the sync, which makes all of it safe.
        let end = written_end(db);
        let begun = Instant::now();
        log.sync_data().map_err(|error| self.fail_flush(error))?;
        self.syncs.observe(begun.elapsed());
        self.look()?;
        self.flushed.store(changed, Ordering::SeqCst);
        self.synced.store(changed, Ordering::SeqCst);
        self.high_water.raise(end, is_due, || {
            let segments = db.context.pagecache.log.iter_from(0).segments;
            segments.into_iter().map(|(number, offset)| (number.max(0) as u64, offset)).collect()
        });
        self.synced_bytes.store(written + flushed, Ordering::SeqCst);
        let _queue = self.queue.lock();
        self.room.notify_all();
        Ok(())
    }

    /// Wakes the thread if it sleeps.
    fn wake(&self, queue: &mut Queue) {
        if std::mem::take(&mut queue.idle) {
            self.wake.notify_one();
        }
    }

    /// Wakes a flush that has missed an error. sled does not always tell a
    /// flush that a write failed, and the flush would then wait forever. After
    /// an error, a request for a place in the log wakes all waiting flushes. If
    /// the disk is only slow, this costs one small additional change.
    fn watch(&self, db: &sled::Db) {
        let mut queue = self.queue.lock();
        let mut before = 0;
        while !queue.dead {
            self.ended.wait_for(&mut queue, PATIENCE);
            let behind = !queue.dead
                && MutexGuard::unlocked(&mut queue, || {
                    self.look().is_ok()
                        && self.failure.get().is_none()
                        && self.high_water.end() < written_end(db)
                });
            if behind {
                queue.sync_due = true;
                self.wake(&mut queue);
            }
            let flushes = self.flushes.load(Ordering::SeqCst);
            if flushes % 2 == 1 && flushes == before {
                // If there is an error, the flush reports it.
                let _ = MutexGuard::unlocked(&mut queue, || db.insert(NUDGE, b""));
            }
            before = flushes;
        }
    }

    /// Fails the store if the log is not where it was.
    fn look(&self) -> std::result::Result<(), Failure> {
        self.place.check().map_err(|error| {
            let is_first = self.fail(Failure::Gone(Arc::new(error)));
            let failure = self.failure.get().expect("it was set").clone();
            if is_first {
                tracing::error!(error = %failure.cause(), "the log is not in its place any more: the store refuses every operation from now on, because nothing of it would be there after a restart; restart after you have put the data directory back");
            }
            failure
        })
    }

    fn fail_flush(&self, error: io::Error) -> Failure {
        let failure = Failure::Flush(Arc::new(error));
        if self.fail(failure.clone()) {
            tracing::error!(error = %failure.cause(), "a flush failed: the store refuses every operation from now on, because the content of the disk is unknown; restart after you have repaired the disk");
        }
        failure
    }

    /// Whether this is the first failure.
    fn fail(&self, failure: Failure) -> bool {
        let is_first = self.failure.set(failure).is_ok();
        self.high_water.give_up();
        let _queue = self.queue.lock();
        self.room.notify_all();
        is_first
    }
}

/// What the committing thread has to do.
struct Gathered {
    waiting: Vec<Waiter>,
    sync_due: bool,
    stopping: bool,
}

/// The number up to which sled has written its log, see [`super::log`]. sled does not document
/// this and what else is under `context`, but its version is settled: 0.34.7 is the last.
fn written_end(db: &sled::Db) -> u64 {
    (db.context.pagecache.log.stable_offset() + 1).max(0) as u64
}

/// Where the log is: the file that its name leads to.
struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Place {
    fn of(directory: &Path, log: &File) -> io::Result<Self> {
        // So that a working directory that was renamed is noticed as well.
        let path = std::path::absolute(directory)?.join("db");
        let found = log.metadata()?;
        Ok(Self { path, device: found.dev(), inode: found.ino() })
    }

    /// One system call, which reads no disk: 1 to 2 µs. A look at the open file would be no
    /// cheaper, and would not see that its directory was renamed or replaced.
    fn check(&self) -> io::Result<()> {
        let path = self.path.display();
        let found = fs::metadata(&self.path)
            .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
        if (found.dev(), found.ino()) != (self.device, self.inode) {
            return Err(io::Error::other(format!("{path} is another file")));
        }
        Ok(())
    }
}

/// A running flush. It ends when this is dropped.
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

/// Marks the end of the thread, also after a panic: the store must refuse and
/// not wait.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Failure::Panic);
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

/// Why the store refuses everything. Every caller gets a copy.
#[derive(Clone, Debug)]
enum Failure {
    /// A flush or a sync has failed.
    Flush(Arc<io::Error>),
    /// The log has lost its name.
    Gone(Arc<io::Error>),
    /// The committing thread has panicked. The panic hook has reported it.
    Panic,
}

impl Failure {
    fn cause(&self) -> Arc<io::Error> {
        match self {
            Self::Flush(error) | Self::Gone(error) => Arc::clone(error),
            Self::Panic => Arc::new(io::Error::other("the committer has panicked")),
        }
    }

    /// For a caller whose change it concerns.
    fn into_error(self) -> StoreError {
        StoreError::unavailable(DOING, self.cause())
    }

    /// For a caller that comes later.
    fn later(&self) -> StoreError {
        const DOING: &str = "make changes durable after an earlier failure";
        StoreError::unavailable(
            DOING,
            match self {
                Self::Flush(_) | Self::Panic => {
                    "an earlier flush failed; restart the daemon after you have repaired the disk"
                }
                Self::Gone(_) => {
                    "the log is not in its place any more; put the data directory back and restart the daemon"
                }
            },
        )
    }
}

/// Opens sled's log, and syncs the files of the database, which a power loss
/// could otherwise remove. The file stays open: a later lack of file
/// descriptors cannot prevent a sync. sled locks the log through its own
/// descriptor.
fn open_log(path: &Path) -> io::Result<File> {
    // sled writes this file once and never syncs it.
    File::open(path.join("conf"))?.sync_all()?;
    // The directory entries of the files.
    File::open(path)?.sync_all()?;
    File::options().read(true).write(true).open(path.join("db"))
}
