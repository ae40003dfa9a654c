//! A store that fails or stops when a test says so.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use sessiond::{
    session::{
        clock::Moment,
        id::PublicId,
        record::{Claim, Principal, Record, Touch, Update},
        store::{
            Cursor, Listed, Restored, Result, Scanned, Store, StoreError, Swept, Touched, Written,
        },
    },
    store::memory::MemoryStore,
};
use tokio::sync::watch;

/// What the test moves; shared with the store.
pub struct Faults {
    failing: AtomicBool,
    stopped: watch::Sender<bool>,
    /// The session that can not be ended.
    pub endless: Mutex<Option<PublicId>>,
    /// Operations that have reached the store.
    pub reached: AtomicUsize,
}

impl Faults {
    pub fn new() -> Arc<Self> {
        let stopped = watch::Sender::new(false);
        let endless = Mutex::default();
        Arc::new(Self { failing: false.into(), stopped, endless, reached: 0.into() })
    }

    /// Every operation fails from now on, or works again.
    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    /// Every operation waits from now on, or goes on.
    pub fn stop(&self, stopped: bool) {
        self.stopped.send_replace(stopped);
    }

    async fn pass(&self) -> Result<()> {
        self.reached.fetch_add(1, Ordering::SeqCst);
        let mut stopped = self.stopped.subscribe();
        stopped.wait_for(|stopped| !stopped).await.expect("the sender is in self");
        if self.failing.load(Ordering::SeqCst) { Err(on_purpose()) } else { Ok(()) }
    }
}

fn on_purpose() -> StoreError {
    StoreError::unavailable("work", "a test says so: hunter2")
}

/// A memory store behind [`Faults`].
pub struct FlakyStore {
    store: MemoryStore,
    faults: Arc<Faults>,
}

impl FlakyStore {
    pub fn new(faults: Arc<Faults>) -> Self {
        Self { store: MemoryStore::default(), faults }
    }
}

impl Store for FlakyStore {
    async fn read(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        self.faults.pass().await?;
        self.store.read(id).await
    }

    async fn touch(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        self.faults.pass().await?;
        self.store.touch(id, touch).await
    }

    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        self.faults.pass().await?;
        self.store.create(id, record).await
    }

    async fn write(&self, id: PublicId, update: Arc<Update>) -> Result<Option<Written>> {
        self.faults.pass().await?;
        self.store.write(id, update).await
    }

    async fn destroy(&self, id: PublicId, claim: Claim) -> Result<Option<Arc<Record>>> {
        self.faults.pass().await?;
        if *self.faults.endless.lock() == Some(id) {
            return Err(on_purpose());
        }
        self.store.destroy(id, claim).await
    }

    async fn list(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> Result<Listed> {
        self.faults.pass().await?;
        self.store.list(principal, after, limit).await
    }

    async fn list_for_good(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> Result<Listed> {
        self.faults.pass().await?;
        self.store.list_for_good(principal, after, limit).await
    }

    async fn scan(&self, from: Option<Cursor>, limit: usize) -> Result<Scanned> {
        self.faults.pass().await?;
        self.store.scan(from, limit).await
    }

    async fn restore(&self, id: PublicId, record: Record, now: Moment) -> Result<Restored> {
        self.faults.pass().await?;
        self.store.restore(id, record, now).await
    }

    async fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        self.faults.pass().await?;
        self.store.cleanup(now, limit).await
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn count(&self) -> Option<u64> {
        self.store.count()
    }
}
