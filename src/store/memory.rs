//! The memory store: for tests and `--dev`. Everything is gone with the process.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::session::{
    clock::Moment,
    id::{PublicId, VerifierHash},
    record::{Record, Touch, Update},
    store::{Change, Result, Store, Swept, Touched, Written},
};

/// Records of one engine, in memory.
#[derive(Default)]
pub struct MemoryStore {
    // Not an async lock, because nothing is awaited while it is held.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: HashMap<PublicId, Kept>,
    /// Lazy: an entry may be earlier than its record's deadline, never later.
    /// One for each record.
    expiry: BTreeSet<(Moment, PublicId)>,
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
        Some(kept.record)
    }
}

impl Store for MemoryStore {
    async fn read(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        Ok(self.state.lock().records.get(&id).map(|kept| Arc::clone(&kept.record)))
    }

    async fn touch(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        let mut state = self.state.lock();
        Ok(state.records.get_mut(&id).map(|Kept { record, .. }| {
            let deadline = touch.apply(record);
            if let Some(deadline) = deadline {
                Arc::make_mut(record).deadline = deadline;
            }
            Touched { record: Arc::clone(record), moved: deadline.is_some() }
        }))
    }

    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        let mut state = self.state.lock();
        if state.records.contains_key(&id) {
            return Ok(None);
        }
        let record = Arc::new(record);
        let indexed = record.deadline;
        state.expiry.insert((indexed, id));
        state.records.insert(id, Kept { record: Arc::clone(&record), indexed });
        Ok(Some(record))
    }

    async fn write(&self, id: PublicId, update: Arc<Update>) -> Result<Option<Written>> {
        let mut state = self.state.lock();
        let Some(kept) = state.records.get_mut(&id) else {
            return Ok(None);
        };
        let before = Arc::clone(&kept.record);
        let after = match update.apply(&before) {
            Ok(record) => Arc::new(record),
            Err(refusal) => return Ok(Some(Err(refusal))),
        };
        kept.record = Arc::clone(&after);
        if after.deadline < kept.indexed {
            state.index(id, after.deadline);
        }
        Ok(Some(Ok(Change { before, after })))
    }

    async fn destroy(&self, id: PublicId, verifier: VerifierHash) -> Result<Option<Arc<Record>>> {
        let mut state = self.state.lock();
        let valid = |kept: &Kept| kept.record.verifier == verifier;
        Ok(if state.records.get(&id).is_some_and(valid) { state.remove(id) } else { None })
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
                    state.remove(id);
                    swept.removed += 1;
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
