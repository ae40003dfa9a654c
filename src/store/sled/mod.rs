//! The sled store: the embedded database, sled 0.34.
//!
//! The process is the database's only owner. So a bounded table of decoded
//! records in front of it is safe, as long as every change passes through it:
//! a change holds the lock of its id while it changes sled and then the table,
//! and a record enters the table on a miss only under that same lock.
//!
//! What is found in the table is answered at once, on the caller's thread.
//! Whatever reaches sled may wait for the disk, and goes to the blocking pool.
//!
//! [`records`] is the part that may wait for the disk, [`committer`] makes
//! changes durable, [`open`] opens the data directory, [`snapshots`] judges what
//! sled keeps there beside its log.

mod committer;
mod open;
mod records;
mod snapshots;
mod space;

use std::{
    fs::File,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::{Weighter, sync::Cache};
use sled::Tree;
use tokio::sync::Semaphore;

use self::{
    committer::Committer,
    open::Handle,
    records::{Kept, Locks, Records},
    space::Space,
};
pub use self::{committer::Durability, open::OpenError};
use crate::session::{
    clock::Moment,
    id::{PublicId, VerifierHash},
    record::{Record, Touch, Update},
    store::{Result, Store, StoreError, Swept, Touched, Written},
};

/// Where and how records are kept.
#[derive(Debug, Clone)]
pub struct SledOptions {
    /// The data directory; it is created.
    pub path: PathBuf,
    /// Memory for records and pages. Half goes to the table of decoded
    /// records, half to sled, which takes more than it is given.
    pub cache_bytes: u64,
    /// How long a change that nobody waits for may stay in memory.
    pub flush_interval: Duration,
    /// Operations that may wait for the disk at a time; more are refused.
    pub max_pending: usize,
    /// With less than this free on the disk, creations and updates are refused.
    pub min_free_bytes: u64,
    /// Of creations and updates.
    pub write: Durability,
    pub destroy: Durability,
    /// Of updates that roll the id.
    pub roll: Durability,
}

/// An open database with a store for each engine. A clone is another handle.
#[derive(Clone)]
pub struct SledDatabase {
    shared: Arc<Shared>,
}

struct Shared {
    options: SledOptions,
    committer: Committer,
    hot: Cache<HotKey, Kept, ByteWeight>,
    locks: Locks,
    pending: Arc<Semaphore>,
    space: Space,
    /// Counts of the last clean stop, and the time of the last mark.
    meta: Tree,
    db: Handle,
    /// Last, because fields are dropped in order: the next owner may come when
    /// everything is closed.
    _lock: File,
}

/// Which engine's record.
type HotKey = (u16, PublicId);

#[derive(Clone)]
struct ByteWeight;

impl Weighter<HotKey, Kept> for ByteWeight {
    fn weight(&self, _: &HotKey, kept: &Kept) -> u64 {
        (HOT_ENTRY_BYTES + kept.record.size()) as u64
    }
}

/// What the table spends on an entry beside the record.
const HOT_ENTRY_BYTES: usize = 64;

const RECORDS: &str = "records/";
const EXPIRY: &str = "expiry/";
const META: &str = "meta";
/// Of a count: the engine's name follows.
const COUNT: &str = "count/";
const TIME: &str = "time";

impl SledDatabase {
    /// Opens the data directory, or makes one.
    pub fn open(options: SledOptions) -> std::result::Result<Self, OpenError> {
        let path = options.path.clone();
        let opened = open::open(&path, options.cache_bytes / 2)?;
        let directory = |source| OpenError::Directory { path: path.clone(), source };
        let meta = opened.db.open_tree(META).map_err(|error| unreadable_database(&path, &error))?;
        let committer =
            Committer::start(sled::Db::clone(&opened.db), path.clone(), options.flush_interval)
                .map_err(directory)?;
        let hot_bytes = options.cache_bytes / 2;
        let items = (hot_bytes / 512).max(16) as usize;
        let shared = Arc::new(Shared {
            hot: Cache::with_weighter(items, hot_bytes, ByteWeight),
            pending: Arc::new(Semaphore::new(options.max_pending)),
            space: Space::new(path, options.min_free_bytes),
            options,
            committer,
            locks: Locks::new(),
            meta,
            db: opened.db,
            _lock: opened.lock,
        });
        Ok(Self { shared })
    }

    /// The store of the engine called `name`. Ask once per engine.
    pub fn store(&self, name: &str, number: u16) -> std::result::Result<SledStore, OpenError> {
        let path = &self.shared.options.path;
        let unreadable = |error: sled::Error| unreadable_database(path, &error);
        let tree =
            |prefix: &str| self.shared.db.open_tree(format!("{prefix}{name}")).map_err(unreadable);
        let records = tree(RECORDS)?;
        // Taken out, so that after a crash the records are counted anew.
        let kept = self.shared.meta.remove(format!("{COUNT}{name}")).map_err(unreadable)?;
        let count = kept.as_deref().and_then(millis).unwrap_or_else(|| records.len() as u64);
        Ok(SledStore {
            inner: Arc::new(Records {
                name: name.to_owned(),
                number,
                expiry: tree(EXPIRY)?,
                records,
                count: AtomicU64::new(count),
                shared: Arc::clone(&self.shared),
            }),
        })
    }

    /// The latest time that was marked: no clock should start before it.
    pub fn time_mark(&self) -> std::result::Result<Option<Moment>, OpenError> {
        let path = &self.shared.options.path;
        let mark = self.shared.meta.get(TIME).map_err(|error| unreadable_database(path, &error))?;
        Ok(mark.as_deref().and_then(millis).map(Moment::from_unix_millis))
    }

    /// Keeps `now` as the latest time. May wait for the disk.
    pub fn mark_time(&self, now: Moment) -> Result<()> {
        let kept = self.shared.meta.insert(TIME, &now.unix_millis().to_be_bytes());
        self.shared.committer.changed();
        kept.map(drop).map_err(|error| StoreError::unavailable("mark the time", error))
    }

    /// Waits until all that was changed so far is on the disk.
    pub async fn sync(&self) -> Result<()> {
        self.shared.committer.commit(Durability::Synced).await
    }

    /// Engines that have records here, in no order.
    pub fn engines(&self) -> Vec<String> {
        let names = self.shared.db.tree_names();
        let names = names.iter().filter_map(|name| std::str::from_utf8(name).ok());
        names.filter_map(|name| name.strip_prefix(RECORDS)).map(str::to_owned).collect()
    }
}

fn millis(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

fn unreadable_database(path: &std::path::Path, error: &sled::Error) -> OpenError {
    OpenError::Unreadable { path: path.to_owned(), problem: error.to_string() }
}

/// Records of one engine, in sled.
pub struct SledStore {
    inner: Arc<Records>,
}

impl SledStore {
    /// Runs `work`, which may wait for the disk, on the blocking pool.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Records) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let place = Arc::clone(&inner.shared.pending).try_acquire_owned();
        let place = place.map_err(|_| {
            StoreError::overloaded(
                "take another operation",
                "too many operations are waiting for the disk",
            )
        })?;
        let done = tokio::task::spawn_blocking(move || {
            // Held until the work is done, also when nobody waits for it any more.
            let _place = place;
            work(&inner)
        });
        // What the panic said may hold what the work was about.
        done.await
            .unwrap_or_else(|_| Err(StoreError::unavailable("finish its work", "it has panicked")))
    }

    async fn commit(&self, durability: Durability) -> Result<()> {
        self.inner.shared.committer.commit(durability).await
    }
}

impl Store for SledStore {
    async fn read(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        self.check()?;
        match self.inner.hot(id) {
            Some(kept) => Ok(Some(kept.record)),
            None => self.blocking(move |inner| inner.read(id)).await,
        }
    }

    async fn touch(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        self.check()?;
        if let Some(Kept { record, .. }) = self.inner.hot(id)
            && touch.apply(&record).is_none()
        {
            return Ok(Some(Touched { record, moved: false }));
        }
        // Buffered: nobody waits for its flush.
        self.blocking(move |inner| inner.touch(id, &touch)).await
    }

    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        self.check()?;
        let created = self.blocking(move |inner| inner.create(id, record)).await?;
        if created.is_some() {
            self.commit(self.inner.shared.options.write).await?;
        }
        Ok(created)
    }

    async fn write(&self, id: PublicId, update: Arc<Update>) -> Result<Option<Written>> {
        self.check()?;
        let written = self.blocking(move |inner| inner.write(id, &update)).await?;
        if let Some(Ok(change)) = &written {
            let options = &self.inner.shared.options;
            let rolled = change.before.verifier != change.after.verifier;
            self.commit(if rolled { options.roll } else { options.write }).await?;
        }
        Ok(written)
    }

    async fn destroy(&self, id: PublicId, verifier: VerifierHash) -> Result<Option<Arc<Record>>> {
        self.check()?;
        let removed = self.blocking(move |inner| inner.destroy(id, verifier)).await?;
        // Also when it was gone: who removed it may have given up waiting, or
        // may be waiting still, and this answer says that it stays gone.
        self.commit(self.inner.shared.options.destroy).await?;
        Ok(removed)
    }

    async fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        self.check()?;
        self.blocking(move |inner| inner.cleanup(now, limit)).await
    }

    fn check(&self) -> Result<()> {
        self.inner.shared.committer.check()
    }

    fn count(&self) -> Option<u64> {
        Some(self.inner.count.load(Ordering::Acquire))
    }
}
