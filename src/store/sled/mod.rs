//! The sled store: the embedded database, sled 0.34.
//!
//! The process is the only owner of the database. So a bounded table of decoded records
//! in front of it is safe, as long as every change passes through it: a change holds the
//! lock of its id while it changes sled and then the table. On a miss, a record enters the
//! table only under the same lock.
//!
//! A record in the table is returned at once, on the caller's thread. An operation that
//! reaches sled may wait for the disk, and runs on the store's own threads.
//!
//! | file | holds |
//! |---|---|
//! | [`records`] | the operations that may wait for the disk |
//! | [`principals`] | the index of principals |
//! | [`tally`] | the number of records |
//! | [`threads`] | the threads for these operations |
//! | [`committer`] | makes changes durable |
//! | [`space`] | how full the disk is |
//! | [`open`] | opens the data directory |
//! | [`ownership`] | whose the data directory is, and who may read it |
//! | [`mark`] | what is known to be on the disk |
//! | [`log`] | reads sled's log |
//! | [`time_mark`] | the mark of the time, as it is stored |
//! | [`snapshots`] | checks the files that sled keeps beside its log |
//! | [`quarantine`] | moves a damaged database aside |
//! | [`database`] | the database as the process runs it |

mod committer;
mod database;
mod log;
mod mark;
mod open;
mod ownership;
mod principals;
mod quarantine;
mod records;
mod snapshots;
mod space;
mod tally;
mod threads;
mod time_mark;

use std::{
    fs::File,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use quick_cache::{Weighter, sync::Cache};
use sled::Tree;
use tokio::sync::oneshot;

use self::{
    committer::Committer,
    open::Handle,
    ownership::DirectoryLock,
    principals::Doubts,
    records::{CHANGE_BYTES, Kept, Locks, Records},
    space::{Room, Space},
    tally::Tally,
    threads::Threads,
};
pub use self::{
    committer::Durability,
    open::{MOST_DATA_BYTES, OnDamage, OpenError},
};
use crate::session::{
    clock::{Moment, TimeMark},
    id::PublicId,
    record::{Claim, Principal, Record, Touch, Update},
    store::{
        BulkStore, Certainty, Cursor, Listed, Removed, Restored, Result, Scanned, Store,
        StoreError, Swept, Touched, Written,
    },
};

/// Where and how records are kept.
#[derive(Debug, Clone)]
pub struct SledOptions {
    /// The data directory. It is created if it does not exist.
    pub path: PathBuf,
    /// Memory for records and pages, in bytes. A quarter goes to sled, which uses more than
    /// it is given. The rest goes to the table of decoded records.
    pub cache_bytes: u64,
    /// How long a change may stay in memory if nobody waits for it.
    pub flush_interval: Duration,
    /// Threads for operations that may wait for the disk.
    pub threads: usize,
    /// Operations that may wait for the disk at the same time. More are refused.
    pub max_pending: usize,
    /// If fewer bytes than this are free on the disk, creations and updates are refused.
    pub min_free_bytes: u64,
    /// What an opening does with a database that is damaged beyond repair.
    pub on_damage: OnDamage,
    /// Of creations and updates.
    pub write: Durability,
    /// Of the removal of a session.
    pub destroy: Durability,
    /// Of updates that roll the id.
    pub roll: Durability,
}

/// An open database with a store for each engine. A clone is another handle.
#[derive(Clone)]
pub struct SledDatabase {
    owner: Arc<Owner>,
}

/// What the handles own, and the work on the threads does not. So the threads end with the
/// last handle, and then the database is closed.
struct Owner {
    threads: Threads,
    shared: Arc<Shared>,
}

struct Shared {
    options: SledOptions,
    committer: Committer,
    hot: Cache<HotKey, Kept, ByteWeight>,
    locks: Locks,
    space: Space,
    /// The number of the next store.
    number: AtomicU16,
    /// Counts of the last clean stop, and the time of the last mark.
    meta: Tree,
    db: Handle,
    /// Last, because fields are dropped in order. The next owner may come only when
    /// everything is closed.
    _lock: DirectoryLock,
}

impl Shared {
    fn next_number(&self) -> u16 {
        let next = |number: u16| number.checked_add(1);
        let number = self.number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        number.expect("there are fewer stores than numbers")
    }
}

/// The number of a store, and a record in it.
type HotKey = (u16, PublicId);

#[derive(Clone)]
struct ByteWeight;

impl Weighter<HotKey, Kept> for ByteWeight {
    fn weight(&self, _: &HotKey, kept: &Kept) -> u64 {
        (HOT_ENTRY_BYTES + kept.record.size()) as u64
    }
}

/// The bytes of an entry in the table beside the record: its slot (64), the reference
/// counts of the record and of the octets that it shares (48), the head of the stored
/// record, which stays with its data (67), and the overhead of the allocator (48).
const HOT_ENTRY_BYTES: usize = 227;

/// sled gets one part in this many of the cache. A record in use takes a tenth of the space
/// in the table that its page takes in sled. sled also keeps more than it is given: in each
/// of the 256 parts of its pages it evicts only after 64 uses.
const SLED_SHARE: u64 = 4;

const RECORDS: &str = "records/";
const EXPIRY: &str = "expiry/";
const PRINCIPALS: &str = "principals/";
const META: &str = "meta";
/// The key of a count: the name of the engine follows.
const COUNT: &str = "count/";
/// The key of an engine whose index of principals was complete at a clean stop.
const WHOLE: &str = "whole/";
const TIME: &str = "time";

impl SledDatabase {
    /// Opens the data directory. Creates it if it does not exist.
    pub fn open(options: SledOptions) -> std::result::Result<Self, OpenError> {
        let path = options.path.clone();
        let page_bytes = options.cache_bytes / SLED_SHARE;
        let opened = open::open(&path, page_bytes, options.on_damage)?;
        let directory = |source| OpenError::Directory { path: path.clone(), source };
        let meta = opened.db.open_tree(META).map_err(|error| unreadable_database(&path, &error))?;
        let committer = Committer::start(
            sled::Db::clone(&opened.db),
            &path,
            opened.high_water,
            options.flush_interval,
        );
        let committer = committer.map_err(directory)?;
        let hot_bytes = options.cache_bytes - page_bytes;
        let items = (hot_bytes / 512).max(16) as usize;
        let shared = Arc::new(Shared {
            hot: Cache::with_weighter(items, hot_bytes, ByteWeight),
            space: Space::new(File::open(&path).map_err(directory)?, options.min_free_bytes),
            options,
            committer,
            locks: Locks::new(),
            number: AtomicU16::new(0),
            meta,
            db: opened.db,
            _lock: opened.lock,
        });
        let options = &shared.options;
        let theirs = Arc::clone(&shared);
        let threads = Threads::start(options.threads.max(1), options.max_pending, move || {
            theirs.committer.begin();
        });
        Ok(Self { owner: Arc::new(Owner { threads: threads.map_err(directory)?, shared }) })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }

    /// The store of the engine called `name`. Ask once per engine.
    ///
    /// # Panics
    ///
    /// If 65535 stores were asked for already.
    pub fn store(&self, name: &str) -> std::result::Result<SledStore, OpenError> {
        let path = &self.shared().options.path;
        let unreadable = |error: sled::Error| unreadable_database(path, &error);
        let tree = |prefix: &str| {
            self.shared().db.open_tree(format!("{prefix}{name}")).map_err(unreadable)
        };
        let records = tree(RECORDS)?;
        // Removed, so that the records are counted again after a crash.
        let kept = self.shared().meta.remove(format!("{COUNT}{name}")).map_err(unreadable)?;
        let kept = kept.as_deref().and_then(number_of);
        let count = kept.or_else(|| records.is_empty().then_some(0));
        let principals = tree(PRINCIPALS)?;
        let whole = self.shared().meta.remove(format!("{WHOLE}{name}")).map_err(unreadable)?;
        let is_whole = whole.is_some() || records.is_empty() && principals.is_empty();
        Ok(SledStore {
            inner: Arc::new(Records {
                name: name.to_owned(),
                number: self.shared().next_number(),
                expiry: tree(EXPIRY)?,
                principals,
                doubts: Doubts::new(is_whole),
                records,
                tally: Tally::new(count),
                shared: Arc::clone(self.shared()),
            }),
            owner: Arc::clone(&self.owner),
        })
    }

    /// The mark that the clock continues from. `None`: there is none yet.
    pub fn time_mark(&self) -> std::result::Result<Option<TimeMark>, OpenError> {
        let path = &self.shared().options.path;
        let mark =
            self.shared().meta.get(TIME).map_err(|error| unreadable_database(path, &error))?;
        Ok(mark.as_deref().and_then(time_mark::decode))
    }

    /// Keeps a mark of the time, unless the disk is full. May wait for the disk.
    pub fn mark_time(&self, mark: TimeMark) -> Result<()> {
        let Shared { meta, committer, space, .. } = &**self.shared();
        if space.room(Instant::now()) < Room::Endings {
            return Ok(());
        }
        committer.admit(CHANGE_BYTES)?;
        let kept = meta.insert(TIME, time_mark::encode(mark));
        committer.changed();
        kept.map(drop).map_err(|error| StoreError::unavailable("mark the time", error))
    }

    /// Waits until all changes so far are on the disk.
    pub async fn sync(&self) -> Result<()> {
        self.shared().committer.committed(Durability::Synced).await
    }

    /// Engines that have records here, in no order.
    pub fn engines(&self) -> Vec<String> {
        let names = self.shared().db.tree_names();
        let names = names.iter().filter_map(|name| std::str::from_utf8(name).ok());
        names.filter_map(|name| name.strip_prefix(RECORDS)).map(str::to_owned).collect()
    }
}

fn number_of(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

fn unreadable_database(path: &std::path::Path, error: &sled::Error) -> OpenError {
    OpenError::of_sled(path, error)
}

/// How many entries the indexes of a store hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntries {
    /// One for each record.
    pub expiry: usize,
    /// One for each record that is not anonymous.
    pub principals: usize,
}

/// Records of one engine, in sled.
pub struct SledStore {
    inner: Arc<Records>,
    /// Last, so that nothing else holds the database after its threads have ended.
    owner: Arc<Owner>,
}

impl SledStore {
    /// Runs `work`, which may wait for the disk, on a thread of the store. Returns the outcome
    /// when it is as durable as `work` says.
    ///
    /// `work` is finished and made durable even if the caller stops waiting.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Records) -> Result<(T, Durability)> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let (sender, answer) = oneshot::channel();
        let job = move || match work(&inner) {
            Err(error) => drop(sender.send(Err(error))),
            Ok((outcome, durability)) => inner.shared.committer.commit(durability, move |done| {
                let _ = sender.send(done.map(|()| outcome));
            }),
        };
        let queued = self.owner.threads.run(job);
        let wake_up = queued.map_err(|_| {
            StoreError::overloaded(
                "take another operation",
                "too many operations are waiting for the disk",
            )
        })?;
        if let Some(wake_up) = wake_up {
            // After the tasks before it, which may have work for the threads, too.
            tokio::spawn(async { drop(wake_up) });
        }
        // The message of a panic may hold data of a session, so it is not passed on.
        answer
            .await
            .unwrap_or_else(|_| Err(StoreError::unavailable("finish its work", "it has panicked")))
    }

    fn options(&self) -> &SledOptions {
        &self.owner.shared.options
    }

    /// How many entries the indexes hold, counted one by one. A rig compares it with the
    /// records. May wait for the disk.
    pub fn index_entries(&self) -> Result<IndexEntries> {
        self.inner.index_entries()
    }
}

/// Entries that a cleanup reads before other operations get their turn on the thread.
const SWEEP_STEP: usize = 64;

#[async_trait]
impl Store for SledStore {
    fn recall(&self, id: PublicId) -> Option<Arc<Record>> {
        self.check().ok()?;
        self.inner.hot(id).map(|kept| kept.record)
    }

    // Nothing more is needed for [`Certainty::Durable`]: there is one log, and a later change
    // in it is durable only together with the earlier ones.
    async fn read(&self, id: PublicId, _: Certainty) -> Result<Option<Arc<Record>>> {
        self.check()?;
        self.run(move |inner| Ok((inner.read(id)?, Durability::Buffered))).await
    }

    async fn touch(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        self.check()?;
        // How long a session lives is a setting, as in a write.
        let is_setting = touch.duration.is_some();
        let level = if is_setting { self.options().write } else { Durability::Buffered };
        self.run(move |inner| Ok((inner.touch(id, &touch)?, level))).await
    }

    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        self.check()?;
        let level = self.options().write;
        self.run(move |inner| {
            let created = inner.create(id, record)?;
            let level = if created.is_some() { level } else { Durability::Buffered };
            Ok((created, level))
        })
        .await
    }

    async fn write(&self, id: PublicId, update: Arc<Update>) -> Result<Option<Written>> {
        self.check()?;
        let &SledOptions { write, roll, .. } = self.options();
        self.run(move |inner| {
            let written = inner.write(id, &update)?;
            let level = match &written {
                Some(Ok(change)) if change.before.verifier != change.after.verifier => roll,
                Some(Ok(_)) => write,
                _ => Durability::Buffered,
            };
            Ok((written, level))
        })
        .await
    }

    async fn destroy(&self, id: PublicId, claim: Claim) -> Result<Option<Removed>> {
        self.check()?;
        let level = self.options().destroy;
        // Also if there was no record: whoever removed it may have stopped waiting, or may
        // still wait, and this answer says that it stays removed.
        self.run(move |inner| Ok((inner.destroy(id, &claim)?, level))).await
    }

    async fn list(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
        certainty: Certainty,
    ) -> Result<Listed> {
        self.check()?;
        let level = match certainty {
            Certainty::Current => Durability::Buffered,
            // An entry that has left the index was counted as a change before it left.
            Certainty::Durable => self.options().destroy,
        };
        self.run(move |inner| Ok((inner.list(&principal, after, limit)?, level))).await
    }

    async fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        self.check()?;
        let mut all = Swept::default();
        while all.examined < limit {
            let step = SWEEP_STEP.min(limit - all.examined);
            let swept = self
                .run(move |inner| Ok((inner.cleanup(now, step)?, Durability::Buffered)))
                .await?;
            all.examined += swept.examined;
            all.removed.extend(swept.removed);
            all.next = swept.next;
            if swept.examined < step {
                break;
            }
        }
        Ok(all)
    }

    fn check(&self) -> Result<()> {
        self.inner.shared.committer.check()
    }

    fn count(&self) -> Option<u64> {
        self.inner.tally.known()
    }
}

#[async_trait]
impl BulkStore for SledStore {
    async fn scan(&self, from: Option<Cursor>, limit: usize) -> Result<Scanned> {
        self.check()?;
        self.run(move |inner| Ok((inner.scan(from.as_ref(), limit)?, Durability::Buffered))).await
    }

    async fn restore(&self, id: PublicId, record: Record, _: Moment) -> Result<Restored> {
        self.check()?;
        let level = self.options().write;
        // Also if it was there: whoever put it there may still wait for the disk.
        self.run(move |inner| Ok((inner.restore(id, record)?, level))).await
    }
}
