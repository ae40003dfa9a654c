//! Stores with one bug, added on purpose. They show that the rigs find bugs.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use sessiond::session::{
    clock::Moment,
    id::{PublicId, VerifierHash},
    lifetime::Times,
    record::{Claim, Principal, Record, Refusal, Touch, Update},
    store::{
        Certainty, Change, Layer, Listed, Removed, Result, Store, StoreFuture, Swept, Touched,
        Verb, Written,
    },
};
use tokio::sync::RwLock;

use crate::stores::Pauses;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A touch that runs during a Destroy brings the session back.
    TouchRecreates,
    /// A touch reads the record and later writes the same data back.
    TouchWritesBackStaleData,
    /// A touch does not check whether the session has expired.
    TouchRevives,
    /// A write to a destroyed session creates it again.
    WriteRecreates,
    /// A write that runs during a Destroy undoes it, although the Destroy was acknowledged.
    WriteUndoesDestroy,
    /// A write does not compare `if_version`.
    VersionCheckSkipped,
    /// A write is refused because of its version, but changes the record anyway.
    RefusedAndYetWritten,
    /// A write reads the record and writes it later. Others may write in between.
    LostUpdate,
    /// A roll does not increment the version.
    VersionNotIncremented,
    /// After a roll the old id stays valid.
    OldIdStaysValid,
    /// A reader puts a record into a cache after it has become stale.
    StaleRead,
    /// A Destroy answers before it takes effect.
    DestroyAnswersEarly,
    /// A Destroy with an id from before a roll ends the session, even after `roll_grace`.
    DestroyWithAnyId,
    /// A Destroy with an id that was rolled within `roll_grace` ends nothing.
    DestroyMissesTheRolled,
    /// A cleanup trusts its index, and a touch does not move the entry there.
    CleanupTakesTheLiving,
    /// A revocation does not check which principal the session belongs to.
    RevokeTakesAnybodys,
    /// A revocation checks the principal first and destroys the session later.
    RevokeLooksFirst,
    /// A list contains only sessions that had their principal from the beginning.
    ListForgetsLogins,
}

impl Bug {
    /// The bugs that the history of one session shows.
    pub(crate) const ALL: [Self; 17] = [
        Self::TouchRecreates,
        Self::TouchWritesBackStaleData,
        Self::TouchRevives,
        Self::WriteRecreates,
        Self::WriteUndoesDestroy,
        Self::VersionCheckSkipped,
        Self::RefusedAndYetWritten,
        Self::LostUpdate,
        Self::VersionNotIncremented,
        Self::OldIdStaysValid,
        Self::StaleRead,
        Self::DestroyAnswersEarly,
        Self::DestroyWithAnyId,
        Self::DestroyMissesTheRolled,
        Self::CleanupTakesTheLiving,
        Self::RevokeTakesAnybodys,
        Self::RevokeLooksFirst,
    ];
}

/// A store that is correct except for one bug.
pub(crate) struct Buggy {
    bug: Option<Bug>,
    inner: Arc<Gated>,
    pauses: Pauses,
    notes: Mutex<Notes>,
}

/// The state that the bugs need.
#[derive(Default)]
struct Notes {
    cache: HashMap<PublicId, Option<Arc<Record>>>,
    /// The last stored version of each record.
    latest: HashMap<PublicId, Arc<Record>>,
    first_deadlines: HashMap<PublicId, Moment>,
    old_verifiers: HashMap<PublicId, VerifierHash>,
}

/// A store that can replace a record in one step.
struct Gated {
    store: Arc<dyn Store>,
    /// [`Gated::alter`] takes it exclusively: it does several operations on the store that must
    /// look like one. Otherwise it would show bugs other than the seeded one.
    gate: RwLock<()>,
}

impl Layer for Gated {
    fn inner(&self) -> &dyn Store {
        self.store.as_ref()
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        _: Verb,
        operation: StoreFuture<'a, T>,
    ) -> StoreFuture<'a, T> {
        Box::pin(async {
            let _gate = self.gate.read().await;
            operation.await
        })
    }
}

impl Gated {
    /// Replaces the record by what `make` returns, in one step. `Store` has no such method.
    /// `None` leaves the record unchanged.
    async fn alter(
        &self,
        id: PublicId,
        make: impl FnOnce(Option<&Record>) -> Option<Record> + Send,
    ) -> Result<Option<Arc<Record>>> {
        let _gate = self.gate.write().await;
        let stored = self.store.read(id, Certainty::Current).await?;
        let Some(record) = make(stored.as_deref()) else { return Ok(None) };
        if let Some(stored) = stored {
            self.store.destroy(id, Claim::valid_id(stored.verifier)).await?;
        }
        self.store.create(id, record).await
    }
}

impl Buggy {
    pub(crate) fn new(store: Arc<dyn Store>, bug: Option<Bug>, seed: u64) -> Self {
        Self {
            bug,
            inner: Arc::new(Gated { store, gate: RwLock::new(()) }),
            pauses: Pauses::new(!seed),
            notes: Mutex::default(),
        }
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Yields, so that other operations run in between.
    async fn dawdle(&self) {
        self.pauses.pause(12).await;
    }

    fn note(&self, id: PublicId, record: &Arc<Record>) {
        let mut notes = self.notes.lock();
        notes.cache.remove(&id);
        notes.latest.insert(id, Arc::clone(record));
        notes.first_deadlines.entry(id).or_insert(record.deadline);
    }

    fn is_old(&self, id: PublicId, verifier: VerifierHash) -> bool {
        self.has(Bug::OldIdStaysValid)
            && self.notes.lock().old_verifiers.get(&id) == Some(&verifier)
    }

    /// Replaces a verifier from before a roll by the valid one.
    async fn renewed(&self, id: PublicId, verifier: VerifierHash) -> Result<VerifierHash> {
        if !self.is_old(id, verifier) {
            return Ok(verifier);
        }
        Ok(self
            .inner()
            .read(id, Certainty::Current)
            .await?
            .map_or(verifier, |record| record.verifier))
    }

    async fn touch_late(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        let Some(before) = self.inner().read(id, Certainty::Current).await? else {
            return Ok(None);
        };
        let is_over = touch.lifetime.has_expired(before.times(), touch.now);
        let times = if self.has(Bug::TouchRevives) && is_over {
            let own = touch.duration.or(before.duration);
            let deadline = touch.lifetime.deadline(before.create_time, own, touch.now);
            Some(Times { deadline, duration: own, ..before.times() })
        } else {
            touch.apply(&before)
        };
        let times = times.filter(|_| before.verifier == touch.verifier);
        let Some(Times { deadline, duration, .. }) = times else {
            return Ok(Some(Touched { record: before, moved: false }));
        };
        if !self.has(Bug::TouchRevives) {
            self.dawdle().await;
        }
        let after = Record { deadline, duration, ..Record::clone(&before) };
        let recreates = self.has(Bug::TouchRecreates);
        let make = |stored: Option<&Record>| (stored.is_some() != recreates).then_some(after);
        match self.inner.alter(id, make).await? {
            Some(record) => Ok(Some(Touched { record, moved: true })),
            None => self.inner().touch(id, touch).await,
        }
    }

    async fn write_late(&self, id: PublicId, update: &Arc<Update>) -> Result<Option<Written>> {
        let before = self.inner().read(id, Certainty::Current).await?;
        let before = match before {
            None if self.has(Bug::WriteRecreates) => self.notes.lock().latest.get(&id).cloned(),
            before => before,
        };
        let Some(before) = before else { return Ok(None) };
        let after = match update.apply(&before) {
            Ok(after) => after,
            Err(_) => return self.inner().write(id, Arc::clone(update)).await,
        };
        if !self.has(Bug::WriteRecreates) {
            self.dawdle().await;
        }
        let overwrites = self.has(Bug::LostUpdate);
        let make = |stored: Option<&Record>| (stored.is_some() == overwrites).then_some(after);
        match self.inner.alter(id, make).await? {
            Some(after) => Ok(Some(Ok(Change { before, after }))),
            None => self.inner().write(id, Arc::clone(update)).await,
        }
    }

    /// Rolls without a change of the version.
    async fn roll_in_place(&self, id: PublicId, update: &Arc<Update>) -> Result<Option<Written>> {
        let mut before = None;
        let rolled = self
            .inner
            .alter(id, |stored| {
                let stored = stored?;
                let after = update.apply(stored).ok()?;
                before = Some(Arc::new(stored.clone()));
                (after.verifier != stored.verifier)
                    .then_some(Record { version: stored.version, ..after })
            })
            .await?;
        match (before, rolled) {
            (Some(before), Some(after)) => Ok(Some(Ok(Change { before, after }))),
            _ => self.inner().write(id, Arc::clone(update)).await,
        }
    }

    async fn write_as_the_bug_says(
        &self,
        id: PublicId,
        update: &Arc<Update>,
    ) -> Result<Option<Written>> {
        match self.bug {
            Some(Bug::WriteRecreates | Bug::WriteUndoesDestroy | Bug::LostUpdate) => {
                self.write_late(id, update).await
            }
            Some(Bug::VersionNotIncremented) => self.roll_in_place(id, update).await,
            Some(Bug::VersionCheckSkipped) => {
                let update = Update { if_version: None, ..Update::clone(update) };
                self.inner().write(id, update.into()).await
            }
            Some(Bug::RefusedAndYetWritten) => {
                let written = self.inner().write(id, Arc::clone(update)).await?;
                if let Some(Err(Refusal::VersionMismatch { .. })) = &written {
                    let update = Update { if_version: None, ..Update::clone(update) };
                    self.inner().write(id, update.into()).await?;
                }
                Ok(written)
            }
            _ => self.inner().write(id, Arc::clone(update)).await,
        }
    }
}

#[async_trait]
impl Layer for Buggy {
    fn inner(&self) -> &dyn Store {
        self.inner.as_ref()
    }

    /// Always `None`: an answer from memory would hide the bugs.
    fn recall(&self, _: PublicId) -> Option<Arc<Record>> {
        None
    }

    async fn read(&self, id: PublicId, certainty: Certainty) -> Result<Option<Arc<Record>>> {
        if certainty == Certainty::Durable || !self.has(Bug::StaleRead) {
            return self.inner().read(id, certainty).await;
        }
        if let Some(cached) = self.notes.lock().cache.get(&id) {
            return Ok(cached.clone());
        }
        let found = self.inner().read(id, certainty).await?;
        self.dawdle().await;
        self.notes.lock().cache.insert(id, found.clone());
        Ok(found)
    }

    async fn touch(&self, id: PublicId, mut touch: Touch) -> Result<Option<Touched>> {
        let shown = touch.verifier;
        touch.verifier = self.renewed(id, shown).await?;
        let touched = match self.bug {
            Some(Bug::TouchRecreates | Bug::TouchWritesBackStaleData | Bug::TouchRevives) => {
                self.touch_late(id, touch).await?
            }
            _ => self.inner().touch(id, touch).await?,
        };
        let Some(Touched { record, moved }) = touched else { return Ok(None) };
        self.note(id, &record);
        if self.is_old(id, shown) {
            // Otherwise the engine would see that the verifier is not the valid one.
            let record = Arc::new(Record { verifier: shown, ..Record::clone(&record) });
            return Ok(Some(Touched { record, moved }));
        }
        Ok(Some(Touched { record, moved }))
    }

    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        let created = self.inner().create(id, record).await?;
        if let Some(record) = &created {
            self.note(id, record);
        }
        Ok(created)
    }

    async fn write(&self, id: PublicId, update: Arc<Update>) -> Result<Option<Written>> {
        let written = self.write_as_the_bug_says(id, &update).await?;
        if let Some(Ok(change)) = &written {
            self.note(id, &change.after);
            if change.before.verifier != change.after.verifier {
                self.notes.lock().old_verifiers.insert(id, change.before.verifier);
            }
        }
        Ok(written)
    }

    async fn destroy(&self, id: PublicId, claim: Claim) -> Result<Option<Removed>> {
        match self.bug {
            Some(Bug::DestroyAnswersEarly) => {
                let found = self.inner().read(id, Certainty::Current).await?;
                let (inner, holding) = (Arc::clone(&self.inner) as Arc<dyn Store>, claim.clone());
                tokio::spawn(async move {
                    for _ in 0..20 {
                        tokio::task::yield_now().await;
                    }
                    inner.destroy(id, holding).await
                });
                Ok(found.filter(|record| claim.holds(record)).map(Removed::Record))
            }
            Some(Bug::DestroyWithAnyId) if matches!(claim, Claim::Presented { .. }) => {
                self.inner().destroy(id, Claim::Operator).await
            }
            Some(Bug::DestroyMissesTheRolled) => {
                let claim = match claim {
                    Claim::Presented { verifier, .. } => Claim::valid_id(verifier),
                    other => other,
                };
                self.inner().destroy(id, claim).await
            }
            Some(Bug::RevokeTakesAnybodys) if matches!(claim, Claim::Principal(_)) => {
                self.inner().destroy(id, Claim::Operator).await
            }
            Some(Bug::RevokeLooksFirst) if matches!(claim, Claim::Principal(_)) => {
                let found = self.inner().read(id, Certainty::Current).await?;
                if !found.is_some_and(|record| claim.holds(&record)) {
                    return Ok(None);
                }
                self.dawdle().await;
                self.inner().destroy(id, Claim::Operator).await
            }
            _ => {
                let removed = self.inner().destroy(id, claim).await?;
                self.notes.lock().cache.remove(&id);
                Ok(removed)
            }
        }
    }

    async fn list(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
        certainty: Certainty,
    ) -> Result<Listed> {
        let mut listed = self.inner().list(principal, after, limit, certainty).await?;
        if self.has(Bug::ListForgetsLogins) {
            listed.records.retain(|(_, record)| record.version == 1);
        }
        Ok(listed)
    }

    async fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        if self.has(Bug::CleanupTakesTheLiving) {
            let mut due: Vec<_> = {
                let notes = self.notes.lock();
                let due = notes.first_deadlines.iter().filter(|(_, deadline)| **deadline <= now);
                due.map(|(id, _)| *id).collect()
            };
            // The iteration order of a HashMap differs in every process.
            due.sort_unstable();
            for id in due {
                if let Some(record) = self.inner().read(id, Certainty::Current).await? {
                    self.inner().destroy(id, Claim::valid_id(record.verifier)).await?;
                }
            }
        }
        self.inner().cleanup(now, limit).await
    }
}
