//! The index of principals: which records belong to which principal.
//!
//! [`key`] builds an entry from a principal and a public id. Each record with a
//! principal has one entry; anonymous records have none and cost nothing. The
//! entry is written before its record and removed after it, under the lock of
//! the id. A crash can therefore leave only an orphaned entry.
//!
//! Orphaned entries are removed by the first [`Records::list`] that finds them.
//! But nobody may ever ask for that principal again, and therefore there are
//! [`Doubts`]: after an unclean stop and after a failed change, cleanups walk
//! once over all records and all entries, in slices. A completed cleanup leaves
//! no entry without its record, and no record without its entry.

use std::ops::Bound;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use sled::IVec;

use super::records::{Kept, Locked, Records};
use crate::session::{
    id::PublicId,
    record::{Principal, Record},
    store::{Listed, Result, StoreError, StoreErrorKind},
};

const OWNER_LEN: usize = 16;
const KEY_LEN: usize = OWNER_LEN + PublicId::LEN;

type Key = [u8; KEY_LEN];

/// The first half of SHA-256 of the principal, then the id. Entries are
/// therefore small and all of one length. If two principals have the same half,
/// their entries are mixed; the record tells which principal a session belongs
/// to.
fn key(principal: &Principal, id: PublicId) -> Key {
    let mut key = [0; KEY_LEN];
    key[..OWNER_LEN].copy_from_slice(&Sha256::digest(principal.as_bytes())[..OWNER_LEN]);
    key[OWNER_LEN..].copy_from_slice(id.as_bytes());
    key
}

/// `None` if `key` does not have the length of those from [`key`].
fn id_of(key: &[u8]) -> Option<PublicId> {
    let key: &Key = key.try_into().ok()?;
    key[OWNER_LEN..].try_into().ok().map(PublicId::from_bytes)
}

/// Whether the index must be checked, and how far the check has come.
pub(super) struct Doubts {
    walk: Mutex<Walk>,
    /// Held during the check.
    walking: Mutex<()>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Walk {
    /// The records with a key above this one are still to check: each must have
    /// its entry.
    Records(Bound<IVec>),
    /// The entries above this one are still to check: each must have its
    /// record.
    Entries(Bound<IVec>),
    Done,
}

impl Walk {
    const START: Self = Self::Records(Bound::Unbounded);
}

impl Doubts {
    pub(super) fn new(is_whole: bool) -> Self {
        let walk = if is_whole { Walk::Done } else { Walk::START };
        Self { walk: Mutex::new(walk), walking: Mutex::new(()) }
    }

    /// The index may be inconsistent: starts the check again.
    pub(super) fn raise(&self) {
        *self.walk.lock() = Walk::START;
    }

    pub(super) fn are_settled(&self) -> bool {
        *self.walk.lock() == Walk::Done
    }
}

const LIST: &str = "list the sessions of a principal";
const MEND: &str = "mend the index of principals";

impl Records {
    pub(super) fn list(
        &self,
        principal: &Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> Result<Listed> {
        let mut listed = Listed::default();
        if principal.is_anonymous() {
            return Ok(listed);
        }
        let first = key(principal, after.unwrap_or(PublicId::LEAST));
        let first = if after.is_some() { Bound::Excluded(first) } else { Bound::Included(first) };
        let last = Bound::Included(key(principal, PublicId::MOST));
        let mut latest = None;
        for (looked_at, entry) in self.principals.range((first, last)).keys().enumerate() {
            let entry = entry.map_err(|error| StoreError::unavailable(LIST, error))?;
            if looked_at == limit.max(1) {
                listed.next = latest;
                break;
            }
            // All keys in this range have the length of an entry.
            let Some(id) = id_of(&entry) else { continue };
            latest = Some(id);
            let found = match self.hot(id) {
                Some(kept) if kept.record.principal == *principal => Found::Record(kept),
                _ => self.owner_of(id, &entry)?,
            };
            match found {
                Found::Record(kept) if kept.record.principal == *principal => {
                    listed.records.push((id, kept.record));
                }
                Found::Unreadable => listed.unreadable.push(id),
                Found::Record(_) | Found::Nothing => {}
            }
        }
        Ok(listed)
    }

    /// Call it before the record is written.
    pub(super) fn index_principal(&self, principal: &Principal, locked: &Locked<'_>) -> Result<()> {
        if principal.is_anonymous() {
            return Ok(());
        }
        self.change("index a principal", 0, || {
            self.principals.insert(key(principal, locked.id), &[])
        })
    }

    /// Call it after the record was written or removed.
    pub(super) fn unindex_principal(
        &self,
        principal: &Principal,
        locked: &Locked<'_>,
    ) -> Result<()> {
        if principal.is_anonymous() {
            return Ok(());
        }
        self.drop_owner(&key(principal, locked.id))
    }

    /// Writes the entry if it is missing.
    pub(super) fn mend_principal(&self, principal: &Principal, locked: &Locked<'_>) -> Result<()> {
        if principal.is_anonymous() {
            return Ok(());
        }
        let found = self.principals.contains_key(key(principal, locked.id));
        if found.map_err(|error| StoreError::unavailable(MEND, error))? {
            return Ok(());
        }
        tracing::warn!(id = %locked.id, "a session was missing in the index of principals and has been added");
        self.index_principal(principal, locked)
    }

    /// Continues the check, if one is due, over at most `limit` records and
    /// entries. Returns how many it examined: fewer than `limit` when the check
    /// is complete.
    pub(super) fn settle_doubts(&self, limit: usize) -> Result<usize> {
        let _walking = self.doubts.walking.lock();
        // Taken out: a doubt that is raised meanwhile restarts the check.
        let mut walk = std::mem::replace(&mut *self.doubts.walk.lock(), Walk::Done);
        let mut looked_at = 0;
        while looked_at < limit && walk != Walk::Done {
            let stepped = self.walk(walk, limit - looked_at);
            let (looked, next) = stepped.inspect_err(|_| self.doubts.raise())?;
            (looked_at, walk) = (looked_at + looked, next);
        }
        let mut kept = self.doubts.walk.lock();
        if *kept == Walk::Done {
            *kept = walk;
        }
        Ok(looked_at)
    }

    /// Checks some keys of one of the two trees.
    fn walk(&self, from: Walk, limit: usize) -> Result<(usize, Walk)> {
        let (tree, mut above, of_records) = match from {
            Walk::Records(above) => (&self.records, above, true),
            Walk::Entries(above) => (&self.principals, above, false),
            Walk::Done => return Ok((0, Walk::Done)),
        };
        let mut looked_at = 0;
        for key in tree.range::<IVec, _>((above.clone(), Bound::Unbounded)).keys().take(limit) {
            let key = key.map_err(|error| StoreError::unavailable(MEND, error))?;
            if of_records {
                self.mend_entry_of(&key)?
            } else {
                self.mend_entry(&key)?
            }
            looked_at += 1;
            above = Bound::Excluded(key);
        }
        let next = match (looked_at < limit, of_records) {
            (false, true) => Walk::Records(above),
            (true, true) => Walk::Entries(Bound::Unbounded),
            (false, false) => Walk::Entries(above),
            (true, false) => Walk::Done,
        };
        Ok((looked_at, next))
    }

    /// Writes the entry of a record if it is missing.
    fn mend_entry_of(&self, record: &[u8]) -> Result<()> {
        // A key of another length is not a record of ours.
        let Ok(id) = record.try_into().map(PublicId::from_bytes) else { return Ok(()) };
        let locked = self.shared.locks.lock(id);
        match self.find(&locked)? {
            Found::Record(kept) => self.mend_principal(&kept.record.principal, &locked),
            Found::Unreadable | Found::Nothing => Ok(()),
        }
    }

    /// Removes an entry that has no record.
    fn mend_entry(&self, entry: &[u8]) -> Result<()> {
        match id_of(entry) {
            Some(id) => self.owner_of(id, entry).map(drop),
            None => self.drop_owner(entry),
        }
    }

    /// The record of an entry. Removes the entry if there is no such record.
    fn owner_of(&self, id: PublicId, entry: &[u8]) -> Result<Found> {
        // An entry is written before its record, so only the lock makes this
        // check valid.
        let locked = self.shared.locks.lock(id);
        match self.find(&locked)? {
            Found::Record(kept) if !is_of(entry, id, &kept.record) => {}
            Found::Nothing => {}
            found => return Ok(found),
        }
        self.drop_owner(entry)?;
        Ok(Found::Nothing)
    }

    /// Does not fill the hot table: a walk must not evict records in use.
    fn find(&self, locked: &Locked<'_>) -> Result<Found> {
        if let Some(kept) = self.hot(locked.id) {
            return Ok(Found::Record(kept));
        }
        match self.stored(locked) {
            Ok(Some(kept)) => Ok(Found::Record(kept)),
            Ok(None) => Ok(Found::Nothing),
            Err(error) if error.kind == StoreErrorKind::Unreadable => Ok(Found::Unreadable),
            Err(error) => Err(error),
        }
    }

    fn drop_owner(&self, entry: &[u8]) -> Result<()> {
        self.change("drop an entry of a principal", 0, || self.principals.remove(entry))
    }
}

enum Found {
    Record(Kept),
    /// Kept for a later repair, together with its entry.
    Unreadable,
    Nothing,
}

fn is_of(entry: &[u8], id: PublicId, record: &Record) -> bool {
    !record.principal.is_anonymous() && entry == key(&record.principal, id)
}
