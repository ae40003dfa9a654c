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
    records: HashMap<PublicId, Arc<Record>>,
    /// Lazy: an entry may be earlier than its record's deadline, never later.
    expiry: BTreeSet<(Moment, PublicId)>,
}

impl Store for MemoryStore {
    async fn read(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        Ok(self.state.lock().records.get(&id).cloned())
    }

    async fn touch(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        let mut state = self.state.lock();
        Ok(state.records.get_mut(&id).map(|record| {
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
        state.expiry.insert((record.deadline, id));
        state.records.insert(id, Arc::clone(&record));
        Ok(Some(record))
    }

    async fn write(&self, id: PublicId, update: Arc<Update>) -> Result<Option<Written>> {
        let mut state = self.state.lock();
        let Some(stored) = state.records.get_mut(&id) else {
            return Ok(None);
        };
        let before = Arc::clone(stored);
        let after = match update.apply(&before) {
            Ok(record) => Arc::new(record),
            Err(refusal) => return Ok(Some(Err(refusal))),
        };
        *stored = Arc::clone(&after);
        if after.deadline < before.deadline {
            state.expiry.insert((after.deadline, id));
        }
        Ok(Some(Ok(Change { before, after })))
    }

    async fn destroy(&self, id: PublicId, verifier: VerifierHash) -> Result<Option<Arc<Record>>> {
        let mut state = self.state.lock();
        if state.records.get(&id).is_none_or(|record| record.verifier != verifier) {
            return Ok(None);
        }
        Ok(state.records.remove(&id))
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
            state.expiry.pop_first();
            match state.records.get(&id).map(|record| record.deadline) {
                None => {}
                Some(deadline) if deadline > now => {
                    state.expiry.insert((deadline, id));
                }
                Some(_) => {
                    state.records.remove(&id);
                    swept.removed += 1;
                }
            }
        }
        Ok(swept)
    }

    fn count(&self) -> u64 {
        self.state.lock().records.len() as u64
    }
}
