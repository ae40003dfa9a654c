//! The records of an engine in sled: every operation that may wait for the
//! disk.
//!
//! The expiry index is lazy. A record's entry is written at creation, and again
//! when the deadline moves nearer. Otherwise it moves only when the sweep
//! reaches it and finds the session alive. The record stores the position of
//! its entry. Each record therefore has exactly one entry, and a destroyed
//! record has none.
//!
//! There are no transactions, so the order of the writes must be enough: an
//! entry is written before the record that names it, and removed after it. A
//! crash in between leaves an orphaned entry, which the sweep removes. It never
//! leaves a record that no sweep would find. The same holds for the index of
//! [`principals`].
//!
//! [`principals`]: super::principals

use std::{
    error::Error,
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use sled::Tree;

use super::{COUNT, IndexEntries, Shared, WHOLE, principals::Doubts, space::Room, tally::Tally};
use crate::{
    session::{
        clock::Moment,
        id::PublicId,
        lifetime::Times,
        record::{Claim, Principal, Record, Touch, Update},
        store::{
            Change, Cursor, Expired, Removed, Restored, Result, Scanned, StoreError,
            StoreErrorKind, Swept, Touched, Written,
        },
        striped::Striped,
    },
    store::codec::{self, Layout},
};

/// A record and where its index entry is.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub record: Arc<Record>,
    /// At or before the record's deadline.
    pub indexed: Moment,
}

/// The locks of all ids.
pub(super) struct Locks(Striped<Mutex<()>>);

/// The lock of an id is held. What must only be done under the lock takes this in place of
/// the id.
pub(super) struct Locked<'l> {
    pub id: PublicId,
    _guard: MutexGuard<'l, ()>,
}

impl Locks {
    const COUNT: usize = 1024;

    pub(super) fn new() -> Self {
        Self(Striped::new(Self::COUNT))
    }

    pub(super) fn lock(&self, id: PublicId) -> Locked<'_> {
        Locked { id, _guard: self.0.of(&id).lock() }
    }
}

pub(super) struct Records {
    pub name: String,
    pub number: u16,
    /// Maps the public id to the time of the index entry (8 octets) and the
    /// record.
    pub records: Tree,
    /// Keys of time and public id, without values.
    pub expiry: Tree,
    /// See [`principals`](super::principals).
    pub principals: Tree,
    pub doubts: Doubts,
    pub tally: Tally,
    pub shared: Arc<Shared>,
}

impl Drop for Records {
    fn drop(&mut self) {
        // The committer's last flush includes this. If it is lost, the records
        // are counted again.
        if let Some(count) = self.tally.known() {
            let _ = self.shared.meta.insert(format!("{COUNT}{}", self.name), &count.to_be_bytes());
        }
        if self.doubts.are_settled() {
            let _ = self.shared.meta.insert(format!("{WHOLE}{}", self.name), &[]);
        }
        self.shared.committer.changed();
    }
}

/// Approximate size of a change in the log, without its record.
pub(super) const CHANGE_BYTES: usize = 64;

const SWEEP: &str = "sweep expired records";
/// How long until the sweep examines an unreadable record again.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

impl Records {
    /// The record from the hot table, if it is there.
    pub(super) fn hot(&self, id: PublicId) -> Option<Kept> {
        self.shared.hot.get(&(self.number, id))
    }

    pub(super) fn read(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        let locked = self.shared.locks.lock(id);
        Ok(self.load(&locked)?.map(|kept| kept.record))
    }

    pub(super) fn touch(&self, id: PublicId, touch: &Touch) -> Result<Option<Touched>> {
        let locked = self.shared.locks.lock(id);
        let Some(Kept { record, indexed }) = self.load(&locked)? else {
            return Ok(None);
        };
        let Some(Times { deadline, duration, .. }) = touch.apply(&record) else {
            return Ok(Some(Touched { record, moved: false }));
        };
        if duration != record.duration {
            self.check_room(Room::Deadlines, "change how long a session lives")?;
        } else if self.room() < Room::Deadlines {
            return Ok(Some(Touched { record, moved: false }));
        }
        let moved = deadline != record.deadline;
        let record = Arc::new(Record { deadline, duration, ..Record::clone(&record) });
        self.put_indexed(&locked, Arc::clone(&record), indexed, deadline.min(indexed))?;
        Ok(Some(Touched { record, moved }))
    }

    pub(super) fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        self.check_room(Room::Everything, "store more")?;
        let locked = self.shared.locks.lock(id);
        if self.load(&locked)?.is_some() {
            return Ok(None);
        }
        self.add(&locked, record).map(Some)
    }

    /// Stores a record where there is none.
    fn add(&self, locked: &Locked<'_>, record: Record) -> Result<Arc<Record>> {
        let record = Arc::new(record);
        let indexed = record.deadline;
        self.index(indexed, locked.id)?;
        self.index_principal(&record.principal, locked)?;
        self.tally
            .add(locked.id, || self.put(locked, Kept { record: Arc::clone(&record), indexed }))?;
        Ok(record)
    }

    pub(super) fn write(&self, id: PublicId, update: &Update) -> Result<Option<Written>> {
        self.check_room(Room::Everything, "store more")?;
        let locked = self.shared.locks.lock(id);
        let Some(kept) = self.load(&locked)? else {
            return Ok(None);
        };
        match update.apply(&kept.record) {
            Ok(after) => self.replace(&locked, kept, after).map(|change| Some(Ok(change))),
            Err(refusal) => Ok(Some(Err(refusal))),
        }
    }

    /// Stores a record in place of another.
    fn replace(&self, locked: &Locked<'_>, kept: Kept, after: Record) -> Result<Change> {
        let Kept { record: before, indexed } = kept;
        let after = Arc::new(after);
        let has_moved = before.principal != after.principal;
        if has_moved {
            self.index_principal(&after.principal, locked)?;
        }
        self.put_indexed(locked, Arc::clone(&after), indexed, after.deadline.min(indexed))?;
        if has_moved {
            self.unindex_principal(&before.principal, locked)?;
        }
        Ok(Change { before, after })
    }

    pub(super) fn restore(&self, id: PublicId, record: Record) -> Result<Restored> {
        self.check_room(Room::Everything, "store more")?;
        let locked = self.shared.locks.lock(id);
        match self.load(&locked)? {
            None => self.add(&locked, record).map(Restored::Created),
            Some(kept) if record.is_later_than(&kept.record) => {
                self.replace(&locked, kept, record).map(Restored::Replaced)
            }
            Some(_) => Ok(Restored::Kept),
        }
    }

    pub(super) fn scan(&self, from: Option<&Cursor>, limit: usize) -> Result<Scanned> {
        const SCAN: &str = "read all records";
        let above = from.and_then(Cursor::to_id);
        let above = above.as_ref().map_or(Bound::Unbounded, |id| Bound::Excluded(id.as_bytes()));
        let mut scanned = Scanned::default();
        let mut latest = None;
        let stored = self.records.range::<&[u8; PublicId::LEN], _>((above, Bound::Unbounded));
        for (looked_at, stored) in stored.enumerate() {
            let (key, bytes) = stored.map_err(|error| StoreError::unavailable(SCAN, error))?;
            if looked_at == limit.max(1) {
                scanned.next = latest.map(Cursor::after);
                break;
            }
            // A key of another length is not a record of ours.
            let Ok(id) = key.as_ref().try_into().map(PublicId::from_bytes) else { continue };
            latest = Some(id);
            match decode(SCAN, &bytes) {
                Ok(kept) => scanned.records.push((id, kept.record)),
                Err(error) => {
                    tracing::error!(%id, cause = error.source().map(ToString::to_string), "a record cannot be read and is skipped");
                    scanned.unreadable += 1;
                }
            }
        }
        Ok(scanned)
    }

    pub(super) fn destroy(&self, id: PublicId, claim: &Claim) -> Result<Option<Removed>> {
        self.check_room(Room::Endings, "remove a record")?;
        let locked = self.shared.locks.lock(id);
        let kept = match self.load(&locked) {
            // Its entries in the indexes are orphaned then: a list and a cleanup remove them.
            Err(error) if error.kind == StoreErrorKind::Unreadable => {
                self.remove(&locked)?;
                return Ok(Some(Removed::Unreadable));
            }
            kept => kept?,
        };
        let Some(kept) = kept.filter(|kept| claim.holds(&kept.record)) else {
            return Ok(None);
        };
        self.remove(&locked)?;
        self.unindex_principal(&kept.record.principal, &locked)?;
        self.unindex(kept.indexed, id)?;
        Ok(Some(Removed::Record(kept.record)))
    }

    pub(super) fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        self.check_room(Room::Endings, SWEEP)?;
        let mut swept = Swept::default();
        for entry in self.expiry.iter().keys() {
            let entry = entry.map_err(|error| StoreError::unavailable(SWEEP, error))?;
            let Some((due, id)) = index_entry(&entry) else {
                tracing::error!("removed a malformed index entry");
                self.drop_entry(&entry)?;
                continue;
            };
            if due > now || swept.examined == limit {
                break;
            }
            swept.examined += 1;
            let removed = self.sweep(due, id, now)?;
            swept.removed.extend(removed.map(|principal| Expired { id, principal }));
        }
        swept.examined += self.tally.count_on(&self.records, limit - swept.examined)?;
        swept.examined += self.settle_doubts(limit - swept.examined)?;
        // Read again, because the loop may not see the entries that it has
        // moved itself.
        let first = self.expiry.first().map_err(|error| StoreError::unavailable(SWEEP, error))?;
        swept.next = first.and_then(|(entry, _)| index_entry(&entry)).map(|(due, _)| due);
        Ok(swept)
    }

    pub(super) fn index_entries(&self) -> Result<IndexEntries> {
        let count = |tree: &Tree| {
            let counted = tree.iter().keys().try_fold(0, |count, key| key.map(|_| count + 1));
            counted.map_err(|error| StoreError::unavailable("count index entries", error))
        };
        Ok(IndexEntries { expiry: count(&self.expiry)?, principals: count(&self.principals)? })
    }

    fn room(&self) -> Room {
        self.shared.space.room(Instant::now())
    }

    fn check_room(&self, needed: Room, doing: &'static str) -> Result<()> {
        if self.room() >= needed {
            Ok(())
        } else {
            Err(StoreError::full(doing, "the disk is nearly full"))
        }
    }

    /// Handles a due index entry. If the record's deadline has passed, removes
    /// the record and returns its principal; otherwise moves the entry. The
    /// entry is gone afterwards.
    fn sweep(&self, due: Moment, id: PublicId, now: Moment) -> Result<Option<Principal>> {
        let locked = self.shared.locks.lock(id);
        // Does not fill the hot table: the sweep must not evict records in use.
        let kept = match self.hot(id) {
            Some(kept) => Some(kept),
            None => match self.stored(&locked) {
                // Kept for a later repair. The sweep must continue past it.
                Err(error) if error.kind == StoreErrorKind::Unreadable => {
                    tracing::error!(%id, %error, "an expired record cannot be read; it is kept and examined again in a day");
                    self.index(now + UNREADABLE_PAUSE, id)?;
                    None
                }
                stored => stored?,
            },
        };
        let mut removed = None;
        match kept {
            None => {}
            // An orphaned entry, unless it stands in for a missing one.
            Some(kept) if kept.indexed != due && self.is_indexed(kept.indexed, id)? => {}
            Some(kept) if kept.record.deadline > now => {
                let deadline = kept.record.deadline;
                self.mend_principal(&kept.record.principal, &locked)?;
                return self.put_indexed(&locked, kept.record, due, deadline).map(|()| None);
            }
            Some(kept) => {
                self.remove(&locked)?;
                self.unindex_principal(&kept.record.principal, &locked)?;
                removed = Some(kept.record.principal.clone());
            }
        }
        self.unindex(due, id)?;
        Ok(removed)
    }

    /// The record, from the hot table or from sled. If it comes from sled, it
    /// enters the table.
    pub(super) fn load(&self, locked: &Locked<'_>) -> Result<Option<Kept>> {
        if let Some(kept) = self.hot(locked.id) {
            return Ok(Some(kept));
        }
        let kept = self.stored(locked)?;
        if let Some(kept) = &kept {
            self.shared.hot.insert((self.number, locked.id), kept.clone());
        }
        Ok(kept)
    }

    /// The record as sled has it.
    pub(super) fn stored(&self, locked: &Locked<'_>) -> Result<Option<Kept>> {
        const DOING: &str = "read a record";
        let stored = self.records.get(locked.id.as_bytes());
        let stored = stored.map_err(|error| StoreError::unavailable(DOING, error))?;
        stored.map(|bytes| decode(DOING, &bytes)).transpose()
    }

    /// Writes a record, and moves its index entry if its position changes.
    fn put_indexed(
        &self,
        locked: &Locked<'_>,
        record: Arc<Record>,
        from: Moment,
        to: Moment,
    ) -> Result<()> {
        if from == to {
            return self.put(locked, Kept { record, indexed: to });
        }
        self.index(to, locked.id)?;
        self.put(locked, Kept { record, indexed: to })?;
        self.unindex(from, locked.id)
    }

    fn put(&self, locked: &Locked<'_>, kept: Kept) -> Result<()> {
        let mut bytes = kept.indexed.unix_millis().to_be_bytes().to_vec();
        codec::encode(&kept.record, Layout::LATEST, &mut bytes);
        let stored = self.change("write a record", bytes.len(), || {
            self.records.insert(locked.id.as_bytes(), bytes)
        });
        self.in_step(locked.id, stored, Some(kept))
    }

    fn remove(&self, locked: &Locked<'_>) -> Result<()> {
        self.tally.remove(locked.id, || {
            let removed =
                self.change("remove a record", 0, || self.records.remove(locked.id.as_bytes()));
            self.in_step(locked.id, removed, None)
        })
    }

    /// Keeps the hot table consistent with sled. After a failure, sled's
    /// content is unknown, so the table drops the record.
    fn in_step(&self, id: PublicId, outcome: Result<()>, kept: Option<Kept>) -> Result<()> {
        match (&outcome, kept) {
            (Ok(()), Some(kept)) => self.shared.hot.insert((self.number, id), kept),
            _ => {
                self.shared.hot.remove(&(self.number, id));
            }
        }
        outcome
    }

    fn index(&self, at: Moment, id: PublicId) -> Result<()> {
        self.change("index a deadline", 0, || self.expiry.insert(entry(at, id), &[]))
    }

    fn unindex(&self, at: Moment, id: PublicId) -> Result<()> {
        self.drop_entry(&entry(at, id))
    }

    fn drop_entry(&self, entry: &[u8]) -> Result<()> {
        self.change("drop an index entry", 0, || self.expiry.remove(entry))
    }

    /// Makes one change in sled, of `bytes` bytes and some overhead. If it
    /// fails, records and indexes may be inconsistent, so the check of the
    /// index is due.
    pub(super) fn change<T>(
        &self,
        doing: &'static str,
        bytes: usize,
        make: impl FnOnce() -> sled::Result<T>,
    ) -> Result<()> {
        let changed = self.shared.committer.admit(CHANGE_BYTES + bytes).and_then(|()| {
            let made = make();
            self.shared.committer.changed();
            made.map(drop).map_err(|error| StoreError::unavailable(doing, error))
        });
        changed.inspect_err(|_| self.doubts.raise())
    }

    fn is_indexed(&self, at: Moment, id: PublicId) -> Result<bool> {
        let found = self.expiry.contains_key(entry(at, id));
        found.map_err(|error| StoreError::unavailable(SWEEP, error))
    }
}

/// Decodes the value that is stored under an id.
fn decode(doing: &'static str, bytes: &[u8]) -> Result<Kept> {
    let Some((indexed, record)) = bytes.split_first_chunk::<8>() else {
        return Err(StoreError::unreadable(doing, "it is truncated"));
    };
    let record = codec::decode(Bytes::copy_from_slice(record));
    let record = record.map_err(|error| StoreError::unreadable(doing, error))?;
    let indexed = Moment::from_unix_millis(u64::from_be_bytes(*indexed));
    Ok(Kept { record: Arc::new(record), indexed })
}

const ENTRY_LEN: usize = 8 + PublicId::LEN;

fn entry(at: Moment, id: PublicId) -> [u8; ENTRY_LEN] {
    let mut entry = [0; ENTRY_LEN];
    entry[..8].copy_from_slice(&at.unix_millis().to_be_bytes());
    entry[8..].copy_from_slice(id.as_bytes());
    entry
}

/// `None` if `entry` was not written by [`entry`].
fn index_entry(entry: &[u8]) -> Option<(Moment, PublicId)> {
    let (at, id) = entry.split_first_chunk::<8>()?;
    let id = PublicId::from_bytes(id.try_into().ok()?);
    Some((Moment::from_unix_millis(u64::from_be_bytes(*at)), id))
}
