//! The memory store, for tests and `--dev`. The sessions end with the process.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::database::{Database, Open, OpenError};
use crate::session::{
    clock::{Clock, Moment},
    id::PublicId,
    lifetime::Times,
    record::{Claim, Principal, Record, Touch, Update},
    store::{
        BulkStore, Certainty, Change, Cursor, Expired, Listed, Removed, Restored, Result, Scanned,
        Store, Swept, Touched, Written,
    },
};

/// There is nothing to choose.
#[derive(Debug)]
pub struct MemoryOptions;

#[async_trait]
impl Open for MemoryOptions {
    async fn open(
        self: Box<Self>,
        _: Arc<dyn Clock>,
    ) -> std::result::Result<Arc<dyn Database>, OpenError> {
        Ok(Arc::new(MemoryDatabase))
    }
}

/// Makes a new store for each engine.
pub struct MemoryDatabase;

impl Database for MemoryDatabase {
    fn store(&self, _: &str) -> std::result::Result<Arc<dyn Store>, OpenError> {
        Ok(Arc::new(MemoryStore::default()))
    }
}

/// Records of one engine, in memory.
#[derive(Default)]
pub struct MemoryStore {
    // Not an async lock, because nothing is awaited while it is held.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: BTreeMap<PublicId, Kept>,
    /// One entry for each record. It is moved lazily: it may be earlier than the record's
    /// deadline, never later.
    expiry: BTreeSet<(Moment, PublicId)>,
    /// One entry for each record that is not anonymous.
    principals: BTreeSet<(Principal, PublicId)>,
}

struct Kept {
    record: Arc<Record>,
    indexed: Moment,
}

impl State {
    fn index(&mut self, id: PublicId, at: Moment) {
        if let Some(kept) = self.records.get_mut(&id) {
            self.expiry.remove(&(kept.indexed, id));
            self.expiry.insert((at, id));
            kept.indexed = at;
        }
    }

    fn remove(&mut self, id: PublicId) -> Option<Arc<Record>> {
        let kept = self.records.remove(&id)?;
        self.expiry.remove(&(kept.indexed, id));
        self.principals.remove(&(kept.record.principal.clone(), id));
        Some(kept.record)
    }

    fn add(&mut self, id: PublicId, record: Record) -> Arc<Record> {
        let record = Arc::new(record);
        let indexed = record.deadline;
        self.expiry.insert((indexed, id));
        self.index_principal(&record.principal, id);
        self.records.insert(id, Kept { record: Arc::clone(&record), indexed });
        record
    }

    fn replace(&mut self, id: PublicId, after: Record) -> Option<Change> {
        let kept = self.records.get_mut(&id)?;
        let after = Arc::new(after);
        let before = std::mem::replace(&mut kept.record, Arc::clone(&after));
        if after.deadline < kept.indexed {
            self.index(id, after.deadline);
        }
        if after.principal != before.principal {
            self.principals.remove(&(before.principal.clone(), id));
            self.index_principal(&after.principal, id);
        }
        Some(Change { before, after })
    }

    fn index_principal(&mut self, principal: &Principal, id: PublicId) {
        if !principal.is_anonymous() {
            self.principals.insert((principal.clone(), id));
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn recall(&self, id: PublicId) -> Option<Arc<Record>> {
        self.state.lock().records.get(&id).map(|kept| Arc::clone(&kept.record))
    }

    async fn read(&self, id: PublicId, _: Certainty) -> Result<Option<Arc<Record>>> {
        Ok(self.recall(id))
    }

    async fn touch(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        let mut state = self.state.lock();
        let Some(kept) = state.records.get_mut(&id) else { return Ok(None) };
        let before = kept.record.deadline;
        let times = touch.apply(&kept.record);
        if let Some(Times { deadline, duration, .. }) = times {
            let record = Arc::make_mut(&mut kept.record);
            (record.deadline, record.duration) = (deadline, duration);
        }
        let record = Arc::clone(&kept.record);
        if record.deadline < kept.indexed {
            state.index(id, record.deadline);
        }
        let moved = record.deadline != before;
        Ok(Some(Touched { record, moved }))
    }

    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        let mut state = self.state.lock();
        let is_taken = state.records.contains_key(&id);
        Ok((!is_taken).then(|| state.add(id, record)))
    }

    async fn write(&self, id: PublicId, update: Arc<Update>) -> Result<Option<Written>> {
        let mut state = self.state.lock();
        let after = state.records.get(&id).map(|kept| update.apply(&kept.record));
        Ok(match after {
            None => None,
            Some(Err(refusal)) => Some(Err(refusal)),
            Some(Ok(after)) => state.replace(id, after).map(Ok),
        })
    }

    async fn destroy(&self, id: PublicId, claim: Claim) -> Result<Option<Removed>> {
        let mut state = self.state.lock();
        let holds = state.records.get(&id).is_some_and(|kept| claim.holds(&kept.record));
        Ok(if holds { state.remove(id).map(Removed::Record) } else { None })
    }

    async fn list(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
        _: Certainty,
    ) -> Result<Listed> {
        let state = self.state.lock();
        let first = (principal.clone(), after.unwrap_or(PublicId::LEAST));
        let first = if after.is_some() { Bound::Excluded(first) } else { Bound::Included(first) };
        let entries = state.principals.range((first, Bound::Unbounded));
        let mut listed = Listed::default();
        for (_, id) in entries.take_while(|(whose, _)| *whose == principal) {
            if listed.records.len() == limit.max(1) {
                listed.next = listed.records.last().map(|(id, _)| *id);
                break;
            }
            let kept = state.records.get(id).expect("an entry goes with its record");
            listed.records.push((*id, Arc::clone(&kept.record)));
        }
        Ok(listed)
    }

    async fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        let mut state = self.state.lock();
        let mut swept = Swept::default();
        while let Some(&(due, id)) = state.expiry.first() {
            if due > now || swept.examined == limit {
                swept.next = Some(due);
                break;
            }
            swept.examined += 1;
            match state.records.get(&id).map(|kept| kept.record.deadline) {
                Some(deadline) if deadline > now => state.index(id, deadline),
                _ => {
                    let removed = state.remove(id);
                    let principal = removed.map(|record| record.principal.clone());
                    swept.removed.extend(principal.map(|principal| Expired { id, principal }));
                }
            }
        }
        Ok(swept)
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn count(&self) -> Option<u64> {
        Some(self.state.lock().records.len() as u64)
    }
}

#[async_trait]
impl BulkStore for MemoryStore {
    async fn scan(&self, from: Option<Cursor>, limit: usize) -> Result<Scanned> {
        let above = from.and_then(|cursor| cursor.to_id());
        let above = above.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state.lock();
        let mut scanned = Scanned::default();
        for (id, kept) in state.records.range((above, Bound::Unbounded)) {
            if scanned.records.len() == limit.max(1) {
                scanned.next = scanned.records.last().map(|(id, _)| Cursor::after(*id));
                break;
            }
            scanned.records.push((*id, Arc::clone(&kept.record)));
        }
        Ok(scanned)
    }

    async fn restore(&self, id: PublicId, record: Record, _: Moment) -> Result<Restored> {
        let mut state = self.state.lock();
        Ok(match state.records.get(&id) {
            None => Restored::Created(state.add(id, record)),
            Some(kept) if !record.is_later_than(&kept.record) => Restored::Kept,
            Some(_) => state.replace(id, record).map_or(Restored::Kept, Restored::Replaced),
        })
    }
}
