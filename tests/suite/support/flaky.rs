//! A store that fails or waits when a test says so.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use sessiond::{
    session::{
        id::PublicId,
        record::{Claim, Record},
        store::{Certainty, Layer, Removed, Result, Store, StoreError, StoreFuture, Verb},
    },
    store::memory::MemoryStore,
};
use tokio::sync::watch;

/// The switches of the test, shared with the store.
pub(crate) struct Faults {
    failing: AtomicBool,
    stopped: watch::Sender<bool>,
    /// A creation stores its record and then fails, because nothing has confirmed it.
    unconfirming: AtomicBool,
    unconfirmed: Mutex<Vec<PublicId>>,
    /// The id of a session whose Destroy fails.
    pub endless: Mutex<Option<PublicId>>,
    /// How many operations have reached the store.
    pub reached: AtomicUsize,
}

impl Faults {
    pub(crate) fn new() -> Arc<Self> {
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

    /// Makes every operation fail from now on, or succeed again.
    pub(crate) fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    /// Makes every creation unconfirmed from now on, or confirmed again.
    pub(crate) fn confirm(&self, confirming: bool) {
        self.unconfirming.store(!confirming, Ordering::SeqCst);
    }

    /// Makes every operation wait from now on, or continue.
    pub(crate) fn stop(&self, stopped: bool) {
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
pub(crate) struct FlakyStore {
    store: MemoryStore,
    faults: Arc<Faults>,
}

impl FlakyStore {
    pub(crate) fn new(faults: Arc<Faults>) -> Self {
        Self { store: MemoryStore::default(), faults }
    }

    /// Loses the unconfirmed records.
    pub(crate) async fn fail_over(&self) {
        let lost: Vec<_> = self.faults.unconfirmed.lock().drain(..).collect();
        for id in lost {
            self.store.destroy(id, Claim::Operator).await.expect("memory works");
        }
    }
}

#[async_trait]
impl Layer for FlakyStore {
    fn inner(&self) -> &dyn Store {
        &self.store
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        _: Verb,
        operation: StoreFuture<'a, T>,
    ) -> StoreFuture<'a, T> {
        Box::pin(async {
            self.faults.pass().await?;
            operation.await
        })
    }

    /// Always `None`: an answer from memory could not fail.
    fn recall(&self, _: PublicId) -> Option<Arc<Record>> {
        None
    }

    async fn read(&self, id: PublicId, certainty: Certainty) -> Result<Option<Arc<Record>>> {
        if certainty == Certainty::Durable {
            self.faults.unconfirmed.lock().retain(|unconfirmed| *unconfirmed != id);
        }
        self.store.read(id, certainty).await
    }

    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        let created = self.store.create(id, record).await?;
        if self.faults.unconfirming.load(Ordering::SeqCst) {
            self.faults.unconfirmed.lock().push(id);
            return Err(on_purpose());
        }
        Ok(created)
    }

    async fn destroy(&self, id: PublicId, claim: Claim) -> Result<Option<Removed>> {
        if *self.faults.endless.lock() == Some(id) {
            return Err(on_purpose());
        }
        self.store.destroy(id, claim).await
    }
}
