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
    /// What is created is kept, and its creation fails: nothing has confirmed it.
    unconfirming: AtomicBool,
    unconfirmed: Mutex<Vec<PublicId>>,
    /// The session that can not be ended.
    pub endless: Mutex<Option<PublicId>>,
    /// Operations that have reached the store.
    pub reached: AtomicUsize,
}

impl Faults {
    pub fn new() -> Arc<Self> {
        let stopped = watch::Sender::new(false);
        let endless = Mutex::default();
        Arc::new(Self {
            failing: false.into(),
            stopped,
            unconfirming: false.into(),
            unconfirmed: Mutex::default(),
            endless,
            reached: 0.into(),
        })
    }

    /// Every operation fails from now on, or works again.
    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    /// No creation is confirmed from now on, or each is again.
    pub fn confirm(&self, confirming: bool) {
        self.unconfirming.store(!confirming, Ordering::SeqCst);
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

/// A memory store behind [`Faults`]. A clone is another handle.
#[derive(Clone)]
pub struct FlakyStore {
    store: Arc<MemoryStore>,
    faults: Arc<Faults>,
}

impl FlakyStore {
    pub fn new(faults: Arc<Faults>) -> Self {
        Self { store: Arc::default(), faults }
    }

    /// What was not confirmed is lost.
    pub async fn fail_over(&self) {
        let lost: Vec<_> = self.faults.unconfirmed.lock().drain(..).collect();
        for id in lost {
            self.store.destroy(id, Claim::Operator).await.expect("memory works");
        }
    }
}

impl Store for FlakyStore {
    async fn read(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        self.faults.pass().await?;
        self.store.read(id).await
    }

    async fn read_for_good(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        self.faults.pass().await?;
        self.faults.unconfirmed.lock().retain(|unconfirmed| *unconfirmed != id);
        self.store.read_for_good(id).await
    }

    async fn touch(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        self.faults.pass().await?;
        self.store.touch(id, touch).await
    }

    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        self.faults.pass().await?;
        let created = self.store.create(id, record).await?;
        if self.faults.unconfirming.load(Ordering::SeqCst) {
            self.faults.unconfirmed.lock().push(id);
            return Err(on_purpose());
        }
        Ok(created)
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
