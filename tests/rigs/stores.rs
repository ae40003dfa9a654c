//! The stores that a rig runs over, and what it puts around them.

use std::{path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use sessiond::{
    session::{
        clock::Moment,
        id::PublicId,
        record::{Claim, Principal, Record, Touch, Update},
        store::{Listed, Result, Store, Swept, Touched, Written},
    },
    store::{
        AnyStore,
        memory::MemoryStore,
        sled::{Durability, OnDamage, SledDatabase, SledOptions},
    },
};

use crate::rig::Random;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Memory,
    SledWithTable,
    /// The table is so small that nothing stays in it.
    SledWithoutTable,
}

/// A store, and the database that it is in.
pub struct Opened {
    pub database: Option<SledDatabase>,
    pub store: AnyStore,
}

/// Opens a store in `directory`. A memory store is always a new one.
pub fn open(kind: Kind, directory: &Path, durability: Durability) -> Opened {
    let cache_bytes = match kind {
        Kind::Memory => {
            let store = AnyStore::Memory(MemoryStore::default());
            return Opened { database: None, store };
        }
        Kind::SledWithTable => 1 << 22,
        Kind::SledWithoutTable => 512,
    };
    let options = SledOptions {
        path: directory.join("data"),
        cache_bytes,
        flush_interval: Duration::from_millis(20),
        threads: 2,
        max_pending: 100,
        min_free_bytes: 0,
        on_damage: OnDamage::Refuse,
        write: durability,
        destroy: durability,
        roll: durability,
    };
    let database = SledDatabase::open(options).expect("the database opens");
    let store = database.store("rig", 0).expect("the database has a store for the rig");
    Opened { database: Some(database), store: AnyStore::Sled(store) }
}

/// A store with several owners.
pub struct Shared<S>(pub Arc<S>);

impl<S: Store> Store for Shared<S> {
    async fn read(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        self.0.read(id).await
    }

    async fn touch(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        self.0.touch(id, touch).await
    }

    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        self.0.create(id, record).await
    }

    async fn write(&self, id: PublicId, update: Arc<Update>) -> Result<Option<Written>> {
        self.0.write(id, update).await
    }

    async fn destroy(&self, id: PublicId, claim: Claim) -> Result<Option<Arc<Record>>> {
        self.0.destroy(id, claim).await
    }

    async fn list(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> Result<Listed> {
        self.0.list(principal, after, limit).await
    }

    async fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        self.0.cleanup(now, limit).await
    }

    fn check(&self) -> Result<()> {
        self.0.check()
    }

    fn count(&self) -> u64 {
        self.0.count()
    }
}

/// Steps aside now and then, so that others run in between.
pub struct Pauses(Mutex<Random>);

impl Pauses {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(Random::stream(seed, u64::MAX - 1)))
    }

    /// Up to `most` yields.
    pub async fn pause(&self, most: u64) {
        let yields = self.0.lock().below(most + 1);
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
    }
}

/// Widens races: every operation pauses before and after.
pub struct Restless<S> {
    store: S,
    pauses: Pauses,
}

impl<S: Store> Restless<S> {
    pub fn new(store: S, seed: u64) -> Self {
        Self { store, pauses: Pauses::new(seed) }
    }

    async fn around<T>(&self, work: impl Future<Output = T>) -> T {
        self.pauses.pause(6).await;
        let done = work.await;
        self.pauses.pause(6).await;
        done
    }
}

impl<S: Store> Store for Restless<S> {
    async fn read(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        self.around(self.store.read(id)).await
    }

    async fn touch(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        self.around(self.store.touch(id, touch)).await
    }

    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        self.around(self.store.create(id, record)).await
    }

    async fn write(&self, id: PublicId, update: Arc<Update>) -> Result<Option<Written>> {
        self.around(self.store.write(id, update)).await
    }

    async fn destroy(&self, id: PublicId, claim: Claim) -> Result<Option<Arc<Record>>> {
        self.around(self.store.destroy(id, claim)).await
    }

    async fn list(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> Result<Listed> {
        self.around(self.store.list(principal, after, limit)).await
    }

    async fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        self.around(self.store.cleanup(now, limit)).await
    }

    fn check(&self) -> Result<()> {
        self.store.check()
    }

    fn count(&self) -> u64 {
        self.store.count()
    }
}
