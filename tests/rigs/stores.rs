//! The stores that a rig tests, and the layers that it puts around them.

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
    session::store::{Layer, Store, StoreFuture, Verb},
    store::{
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
pub(crate) enum Kind {
    Memory,
    SledWithTable,
    /// The table of decoded records is too small to keep a record.
    SledWithoutTable,
    /// A single server.
    Redis,
    RedisCluster,
}

impl Kind {
    pub(crate) fn is_redis(self) -> bool {
        matches!(self, Self::Redis | Self::RedisCluster)
    }
}

/// The Redis of a rig, or nothing if the rig needs none. The cases of a rig share it, because a
/// server takes a moment to start and a cluster takes seconds.
pub(crate) enum Engine {
    None,
    Server(RedisServer),
    Cluster(RedisCluster),
}

impl Engine {
    /// Returns `None`, with a message on stderr, if `redis-server` is missing.
    pub(crate) fn start(kind: Kind) -> Option<Self> {
        Some(match kind {
            Kind::Memory | Kind::SledWithTable | Kind::SledWithoutTable => Self::None,
            _ if is_missing() => return None,
            Kind::Redis => Self::Server(RedisServer::start()),
            Kind::RedisCluster => Self::Cluster(RedisCluster::start(3, 0)),
        })
    }

    /// A store in this Redis. Each `world` has its own keys. Needs a tokio runtime.
    pub(crate) fn store(&self, world: &str) -> RedisStore {
        let url = match self {
            Self::None => panic!("expected a kind that needs Redis"),
            Self::Server(server) => server.url(),
            Self::Cluster(cluster) => cluster.url(),
        };
        RedisDatabase::start(options(&url, world), Arc::new(TaskClock)).store("rig")
    }
}

/// A store and its database.
pub(crate) struct Opened {
    pub database: Option<SledDatabase>,
    pub store: Arc<dyn Store>,
}

/// Opens the store in `directory`, or the store of the same name in `engine`. A memory store is
/// always new and empty.
pub(crate) fn open(
    kind: Kind,
    engine: &Engine,
    directory: &Path,
    durability: Durability,
) -> Opened {
    let cache_bytes = match kind {
        Kind::Redis | Kind::RedisCluster => {
            let world = directory.file_name().expect("a folder has a name").to_string_lossy();
            let store = Arc::new(engine.store(world.trim_start_matches('.')));
            return Opened { database: None, store };
        }
        Kind::Memory => {
            return Opened { database: None, store: Arc::new(MemoryStore::default()) };
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
    let store = database.store("rig").expect("the database has a store for the rig");
    Opened { database: Some(database), store: Arc::new(store) }
}

/// Two handles of one store. Operations use them in turn.
pub(crate) struct EitherOf {
    stores: [Arc<dyn Store>; 2],
    taken: AtomicUsize,
}

impl EitherOf {
    pub(crate) fn new(one: Arc<dyn Store>, other: Arc<dyn Store>) -> Self {
        Self { stores: [one, other], taken: AtomicUsize::new(0) }
    }
}

impl Layer for EitherOf {
    fn inner(&self) -> &dyn Store {
        self.stores[self.taken.fetch_add(1, Ordering::Relaxed) % 2].as_ref()
    }
}

/// Yields at random, so that other tasks run in between.
pub(crate) struct Pauses(Mutex<Random>);

impl Pauses {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(Random::stream(seed, u64::MAX - 1)))
    }

    /// Yields at most `most` times.
    pub(crate) async fn pause(&self, most: u64) {
        let yields = self.0.lock().below(most + 1);
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
    }
}

/// Makes races more likely: pauses before and after every operation.
pub(crate) struct Restless {
    store: Arc<dyn Store>,
    pauses: Pauses,
}

impl Restless {
    pub(crate) fn new(store: Arc<dyn Store>, seed: u64) -> Self {
        Self { store, pauses: Pauses::new(seed) }
    }
}

impl Layer for Restless {
    fn inner(&self) -> &dyn Store {
        self.store.as_ref()
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        _: Verb,
        operation: StoreFuture<'a, T>,
    ) -> StoreFuture<'a, T> {
        Box::pin(async {
            self.pauses.pause(6).await;
            let done = operation.await;
            self.pauses.pause(6).await;
            done
        })
    }
}
