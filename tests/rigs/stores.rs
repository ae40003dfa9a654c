//! The stores that a rig runs over, and what it puts around them.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use sessiond::{
    session::{
        clock::Moment,
        id::PublicId,
        record::{Claim, Principal, Record, Touch, Update},
        store::{Cursor, Listed, Restored, Result, Scanned, Store, Swept, Touched, Written},
    },
    store::{
        AnyStore,
        memory::MemoryStore,
        redis::{RedisDatabase, RedisStore},
        sled::{Durability, OnDamage, SledDatabase, SledOptions},
    },
};

use crate::{
    rig::{Random, TaskClock},
    support::redis::{RedisCluster, RedisServer, is_missing, options},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Memory,
    SledWithTable,
    /// The table is so small that nothing stays in it.
    SledWithoutTable,
    /// One server.
    Redis,
    RedisCluster,
}

impl Kind {
    pub fn is_redis(self) -> bool {
        matches!(self, Self::Redis | Self::RedisCluster)
    }
}

/// Redis for a whole rig, or nothing for what needs none: a server takes a moment
/// to start, and a cluster seconds.
pub enum Engine {
    None,
    Server(RedisServer),
    Cluster(RedisCluster),
}

impl Engine {
    /// `None`, with a word on stderr, where there is no `redis-server`.
    pub fn start(kind: Kind) -> Option<Self> {
        Some(match kind {
            Kind::Memory | Kind::SledWithTable | Kind::SledWithoutTable => Self::None,
            _ if is_missing() => return None,
            Kind::Redis => Self::Server(RedisServer::start()),
            Kind::RedisCluster => Self::Cluster(RedisCluster::start(3, 0)),
        })
    }

    /// A store in it, with keys of its own for each `world`. Needs a tokio runtime.
    pub fn store(&self, world: &str) -> RedisStore {
        let url = match self {
            Self::None => panic!("expected a kind that needs redis"),
            Self::Server(server) => server.url(),
            Self::Cluster(cluster) => cluster.url(),
        };
        RedisDatabase::start(options(&url, world), Arc::new(TaskClock)).store("rig")
    }
}

/// A store, and the database that it is in.
pub struct Opened {
    pub database: Option<SledDatabase>,
    pub store: AnyStore,
}

/// Opens a store in `directory`, or the one of that name in `engine`. A memory store
/// is always a new one.
pub fn open(kind: Kind, engine: &Engine, directory: &Path, durability: Durability) -> Opened {
    let cache_bytes = match kind {
        Kind::Redis | Kind::RedisCluster => {
            let world = directory.file_name().expect("a folder has a name").to_string_lossy();
            let store = AnyStore::Redis(engine.store(world.trim_start_matches('.')));
            return Opened { database: None, store };
        }
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
    fn recall(&self, id: PublicId) -> Option<Arc<Record>> {
        self.0.recall(id)
    }

    async fn read(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        self.0.read(id).await
    }

    async fn read_for_good(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        self.0.read_for_good(id).await
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

    async fn list_for_good(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> Result<Listed> {
        self.0.list_for_good(principal, after, limit).await
    }

    async fn scan(&self, from: Option<Cursor>, limit: usize) -> Result<Scanned> {
        self.0.scan(from, limit).await
    }

    async fn restore(&self, id: PublicId, record: Record, now: Moment) -> Result<Restored> {
        self.0.restore(id, record, now).await
    }

    async fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        self.0.cleanup(now, limit).await
    }

    fn check(&self) -> Result<()> {
        self.0.check()
    }

    fn count(&self) -> Option<u64> {
        self.0.count()
    }
}

/// Two handles of one store, each taken in turn.
pub struct EitherOf<S> {
    stores: [S; 2],
    taken: AtomicUsize,
}

impl<S: Store> EitherOf<S> {
    pub fn new(one: S, other: S) -> Self {
        Self { stores: [one, other], taken: AtomicUsize::new(0) }
    }

    fn next(&self) -> &S {
        &self.stores[self.taken.fetch_add(1, Ordering::Relaxed) % 2]
    }
}

impl<S: Store> Store for EitherOf<S> {
    fn recall(&self, id: PublicId) -> Option<Arc<Record>> {
        self.next().recall(id)
    }

    async fn read(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        self.next().read(id).await
    }

    async fn read_for_good(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        self.next().read_for_good(id).await
    }

    async fn touch(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        self.next().touch(id, touch).await
    }

    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        self.next().create(id, record).await
    }

    async fn write(&self, id: PublicId, update: Arc<Update>) -> Result<Option<Written>> {
        self.next().write(id, update).await
    }

    async fn destroy(&self, id: PublicId, claim: Claim) -> Result<Option<Arc<Record>>> {
        self.next().destroy(id, claim).await
    }

    async fn list(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> Result<Listed> {
        self.next().list(principal, after, limit).await
    }

    async fn list_for_good(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> Result<Listed> {
        self.next().list_for_good(principal, after, limit).await
    }

    async fn scan(&self, from: Option<Cursor>, limit: usize) -> Result<Scanned> {
        self.next().scan(from, limit).await
    }

    async fn restore(&self, id: PublicId, record: Record, now: Moment) -> Result<Restored> {
        self.next().restore(id, record, now).await
    }

    async fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        self.next().cleanup(now, limit).await
    }

    fn check(&self) -> Result<()> {
        self.next().check()
    }

    fn count(&self) -> Option<u64> {
        self.next().count()
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
    fn recall(&self, id: PublicId) -> Option<Arc<Record>> {
        self.store.recall(id)
    }

    async fn read(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        self.around(self.store.read(id)).await
    }

    async fn read_for_good(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        self.around(self.store.read_for_good(id)).await
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

    async fn list_for_good(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> Result<Listed> {
        self.around(self.store.list_for_good(principal, after, limit)).await
    }

    async fn scan(&self, from: Option<Cursor>, limit: usize) -> Result<Scanned> {
        self.around(self.store.scan(from, limit)).await
    }

    async fn restore(&self, id: PublicId, record: Record, now: Moment) -> Result<Restored> {
        self.around(self.store.restore(id, record, now)).await
    }

    async fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        self.around(self.store.cleanup(now, limit)).await
    }

    fn check(&self) -> Result<()> {
        self.store.check()
    }

    fn count(&self) -> Option<u64> {
        self.store.count()
    }
}
