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
//! The expiry index is lazy: an entry is written when a record is created, and
//! moved only when the sweep meets it and finds the session alive. An entry is
//! written before its record and removed after it, so that a crash between the
//! two leaves no record that no sweep would find.

mod committer;
mod open;

use std::{
    collections::hash_map::RandomState,
    fs::File,
    hash::BuildHasher,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quick_cache::{Weighter, sync::Cache};
use sled::Tree;

use self::committer::Committer;
pub use self::{committer::Durability, open::OpenError};
use super::codec;
use crate::session::{
    clock::Moment,
    id::{PublicId, VerifierHash},
    record::{Record, Touch, Update},
    store::{Change, Result, Store, StoreError, StoreErrorKind, Swept, Touched, Written},
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
    /// Of creations and updates.
    pub write: Durability,
    pub destroy: Durability,
    /// Of updates that roll the id.
    pub roll: Durability,
}

/// An open database with a store for each engine.
pub struct SledDatabase {
    shared: Arc<Shared>,
}

struct Shared {
    options: SledOptions,
    committer: Committer,
    hot: Cache<HotKey, Arc<Record>, ByteWeight>,
    locks: Locks,
    /// Counts of the last clean stop.
    counts: Tree,
    db: sled::Db,
    /// Last, because fields are dropped in order: the next owner may come when
    /// everything is closed.
    _lock: File,
}

/// Which engine's record.
type HotKey = (u16, PublicId);

#[derive(Clone)]
struct ByteWeight;

impl Weighter<HotKey, Arc<Record>> for ByteWeight {
    fn weight(&self, _: &HotKey, record: &Arc<Record>) -> u64 {
        (HOT_ENTRY_BYTES + record.size()) as u64
    }
}

/// What the table spends on an entry beside the record.
const HOT_ENTRY_BYTES: usize = 64;

/// One of a fixed number of locks for each id. Two ids may share one.
struct Locks {
    stripes: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Locks {
    const COUNT: usize = 1024;

    fn new() -> Self {
        let stripes = (0..Self::COUNT).map(|_| Mutex::new(())).collect();
        Self { stripes, hasher: RandomState::new() }
    }

    fn lock(&self, id: PublicId) -> MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one(id);
        self.stripes[hash as usize % Self::COUNT].lock()
    }
}

const RECORDS: &str = "records/";
const EXPIRY: &str = "expiry/";
const COUNTS: &str = "counts";

impl SledDatabase {
    /// Opens the data directory, or makes one.
    pub fn open(options: SledOptions) -> std::result::Result<Self, OpenError> {
        let path = options.path.clone();
        let opened = open::open(&path, options.cache_bytes / 2)?;
        let directory = |source| OpenError::Directory { path: path.clone(), source };
        let counts =
            opened.db.open_tree(COUNTS).map_err(|error| unreadable_database(&path, &error))?;
        let committer = Committer::start(opened.db.clone(), path.clone(), options.flush_interval)
            .map_err(directory)?;
        let hot_bytes = options.cache_bytes / 2;
        let items = (hot_bytes / 512).max(16) as usize;
        let shared = Arc::new(Shared {
            hot: Cache::with_weighter(items, hot_bytes, ByteWeight),
            options,
            committer,
            locks: Locks::new(),
            counts,
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
        let kept = self.shared.counts.remove(name).map_err(unreadable)?;
        let kept = kept.and_then(|bytes| bytes.as_ref().try_into().ok()).map(u64::from_be_bytes);
        let count = kept.unwrap_or_else(|| records.len() as u64);
        Ok(SledStore {
            inner: Arc::new(Inner {
                name: name.to_owned(),
                number,
                expiry: tree(EXPIRY)?,
                records,
                count: AtomicU64::new(count),
                shared: Arc::clone(&self.shared),
            }),
        })
    }

    /// Engines that have records here, in no order.
    pub fn engines(&self) -> Vec<String> {
        let names = self.shared.db.tree_names();
        let names = names.iter().filter_map(|name| std::str::from_utf8(name).ok());
        names.filter_map(|name| name.strip_prefix(RECORDS)).map(str::to_owned).collect()
    }
}

fn unreadable_database(path: &std::path::Path, error: &sled::Error) -> OpenError {
    OpenError::Unreadable { path: path.to_owned(), problem: error.to_string() }
}

/// Records of one engine, in sled.
pub struct SledStore {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    number: u16,
    /// Public id to record.
    records: Tree,
    /// Deadline and public id to nothing.
    expiry: Tree,
    count: AtomicU64,
    shared: Arc<Shared>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let count = self.count.load(Ordering::Acquire).to_be_bytes();
        // The committer's last flush takes it along; without it they are counted.
        let _ = self.shared.counts.insert(&self.name, &count);
    }
}

impl SledStore {
    /// Runs `work`, which may wait for the disk, on the blocking pool.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|error| Err(StoreError::unavailable("finish its work", error)))
    }

    async fn commit(&self, durability: Durability) -> Result<()> {
        self.inner.shared.committer.commit(durability).await
    }
}

impl Store for SledStore {
    async fn read(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        self.inner.shared.committer.check()?;
        match self.inner.hot(id) {
            Some(record) => Ok(Some(record)),
            None => self.blocking(move |inner| inner.read(id)).await,
        }
    }

    async fn touch(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        self.inner.shared.committer.check()?;
        if let Some(record) = self.inner.hot(id)
            && touch.apply(&record).is_none()
        {
            return Ok(Some(Touched { record, moved: false }));
        }
        let touched = self.blocking(move |inner| inner.touch(id, &touch)).await?;
        if touched.as_ref().is_some_and(|touched| touched.moved) {
            self.commit(Durability::Buffered).await?;
        }
        Ok(touched)
    }

    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        self.inner.shared.committer.check()?;
        let created = self.blocking(move |inner| inner.create(id, record)).await?;
        if created.is_some() {
            self.commit(self.inner.shared.options.write).await?;
        }
        Ok(created)
    }

    async fn write(&self, id: PublicId, update: Arc<Update>) -> Result<Option<Written>> {
        self.inner.shared.committer.check()?;
        let written = self.blocking(move |inner| inner.write(id, &update)).await?;
        if let Some(Ok(change)) = &written {
            let options = &self.inner.shared.options;
            let rolled = change.before.verifier != change.after.verifier;
            self.commit(if rolled { options.roll } else { options.write }).await?;
        }
        Ok(written)
    }

    async fn destroy(&self, id: PublicId, verifier: VerifierHash) -> Result<Option<Arc<Record>>> {
        self.inner.shared.committer.check()?;
        let removed = self.blocking(move |inner| inner.destroy(id, verifier)).await?;
        if removed.is_some() {
            self.commit(self.inner.shared.options.destroy).await?;
        }
        Ok(removed)
    }

    async fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        self.inner.shared.committer.check()?;
        let swept = self.blocking(move |inner| inner.cleanup(now, limit)).await?;
        if swept.examined > 0 {
            self.commit(Durability::Buffered).await?;
        }
        Ok(swept)
    }

    fn count(&self) -> u64 {
        self.inner.count.load(Ordering::Acquire)
    }
}

/// What may wait for the disk.
impl Inner {
    fn hot(&self, id: PublicId) -> Option<Arc<Record>> {
        self.shared.hot.get(&(self.number, id))
    }

    fn read(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        let _lock = self.shared.locks.lock(id);
        self.load(id)
    }

    fn touch(&self, id: PublicId, touch: &Touch) -> Result<Option<Touched>> {
        let _lock = self.shared.locks.lock(id);
        let Some(record) = self.load(id)? else {
            return Ok(None);
        };
        let Some(deadline) = touch.apply(&record) else {
            return Ok(Some(Touched { record, moved: false }));
        };
        let record = Arc::new(Record { deadline, ..Record::clone(&record) });
        self.put(id, &record)?;
        Ok(Some(Touched { record, moved: true }))
    }

    fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        let _lock = self.shared.locks.lock(id);
        if self.load(id)?.is_some() {
            return Ok(None);
        }
        let record = Arc::new(record);
        self.index(record.deadline, id)?;
        self.put(id, &record)?;
        self.count.fetch_add(1, Ordering::AcqRel);
        Ok(Some(record))
    }

    fn write(&self, id: PublicId, update: &Update) -> Result<Option<Written>> {
        let _lock = self.shared.locks.lock(id);
        let Some(before) = self.load(id)? else {
            return Ok(None);
        };
        let after = match update.apply(&before) {
            Ok(record) => Arc::new(record),
            Err(refusal) => return Ok(Some(Err(refusal))),
        };
        if after.deadline < before.deadline {
            self.index(after.deadline, id)?;
        }
        self.put(id, &after)?;
        Ok(Some(Ok(Change { before, after })))
    }

    fn destroy(&self, id: PublicId, verifier: VerifierHash) -> Result<Option<Arc<Record>>> {
        let _lock = self.shared.locks.lock(id);
        let record = self.load(id)?.filter(|record| record.verifier == verifier);
        if record.is_some() {
            // Its index entry is left to the sweep.
            self.remove(id)?;
        }
        Ok(record)
    }

    fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        let mut swept = Swept::default();
        for entry in self.expiry.iter().keys() {
            let entry = entry.map_err(|error| StoreError::unavailable(SWEEP, error))?;
            let Some((due, id)) = index_entry(&entry) else {
                tracing::error!("dropped an index entry that makes no sense");
                self.drop_entry(&entry)?;
                continue;
            };
            if due > now || swept.examined == limit {
                swept.next = Some(due);
                break;
            }
            swept.examined += 1;
            swept.removed += usize::from(self.sweep(id, now)?);
            self.drop_entry(&entry)?;
        }
        Ok(swept)
    }

    fn drop_entry(&self, entry: &[u8]) -> Result<()> {
        let removed = self.expiry.remove(entry);
        removed.map(drop).map_err(|error| StoreError::unavailable(SWEEP, error))
    }

    /// Removes the record if its deadline has passed, else indexes it anew.
    fn sweep(&self, id: PublicId, now: Moment) -> Result<bool> {
        let _lock = self.shared.locks.lock(id);
        // Not through the table: the sweep must not push out what is in use.
        let stored = match self.hot(id) {
            Some(record) => Some(record),
            None => match self.stored(id) {
                // Kept for whoever repairs it; the sweep must get past it.
                Err(error) if error.kind == StoreErrorKind::Unreadable => {
                    tracing::error!(%id, %error, "an expired record can not be read; kept it for a day");
                    self.index(now + UNREADABLE_KEPT, id)?;
                    return Ok(false);
                }
                stored => stored?,
            },
        };
        match stored {
            None => Ok(false),
            Some(record) if record.deadline > now => {
                self.index(record.deadline, id)?;
                Ok(false)
            }
            Some(_) => {
                self.remove(id)?;
                Ok(true)
            }
        }
    }

    /// The record, from the table or else from sled and then in the table.
    /// Call it under the lock of `id`.
    fn load(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        if let Some(record) = self.hot(id) {
            return Ok(Some(record));
        }
        let record = self.stored(id)?;
        if let Some(record) = &record {
            self.shared.hot.insert((self.number, id), Arc::clone(record));
        }
        Ok(record)
    }

    fn stored(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        const DOING: &str = "read a record";
        let stored = self.records.get(id.as_bytes());
        let stored = stored.map_err(|error| StoreError::unavailable(DOING, error))?;
        let Some(bytes) = stored else {
            return Ok(None);
        };
        let record = codec::decode(Bytes::copy_from_slice(&bytes));
        let record = record.map_err(|error| StoreError::unreadable(DOING, error))?;
        Ok(Some(Arc::new(record)))
    }

    /// Call it under the lock of `id`.
    fn put(&self, id: PublicId, record: &Arc<Record>) -> Result<()> {
        let stored = self.records.insert(id.as_bytes(), codec::encode(record));
        self.in_step(id, stored.map(drop), Some(record), "write a record")
    }

    /// Call it under the lock of `id`.
    fn remove(&self, id: PublicId) -> Result<()> {
        let removed = self.records.remove(id.as_bytes());
        self.in_step(id, removed.map(drop), None, "remove a record")?;
        self.count.fetch_sub(1, Ordering::AcqRel);
        Ok(())
    }

    /// Makes the table say what sled says. After a failure that is not known,
    /// so the table says nothing.
    fn in_step(
        &self,
        id: PublicId,
        outcome: sled::Result<()>,
        record: Option<&Arc<Record>>,
        doing: &'static str,
    ) -> Result<()> {
        match (&outcome, record) {
            (Ok(()), Some(record)) => {
                self.shared.hot.insert((self.number, id), Arc::clone(record));
            }
            _ => {
                self.shared.hot.remove(&(self.number, id));
            }
        }
        outcome.map_err(|error| StoreError::unavailable(doing, error))
    }

    fn index(&self, deadline: Moment, id: PublicId) -> Result<()> {
        let mut entry = [0; ENTRY_LEN];
        entry[..8].copy_from_slice(&deadline.unix_millis().to_be_bytes());
        entry[8..].copy_from_slice(id.as_bytes());
        let stored = self.expiry.insert(entry, &[]);
        stored.map(drop).map_err(|error| StoreError::unavailable("index a deadline", error))
    }
}

const SWEEP: &str = "sweep expired records";
const ENTRY_LEN: usize = 8 + PublicId::LEN;
const UNREADABLE_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// `None` when `entry` was not written by [`Inner::index`].
fn index_entry(entry: &[u8]) -> Option<(Moment, PublicId)> {
    let (due, id) = entry.split_first_chunk::<8>()?;
    let id = PublicId::from_bytes(id.try_into().ok()?);
    Some((Moment::from_unix_millis(u64::from_be_bytes(*due)), id))
}
