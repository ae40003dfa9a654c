//! Each store passes [`conformance::check`], with one test for each store. Also tests that only
//! concern the sled store.

use std::sync::Arc;

use sessiond::{
    session::{
        id::PublicId,
        record::{Record, Update},
        store::{Certainty, Store},
    },
    store::{
        conformance::{
            self, Expiry,
            sample::{DURATION, NOW, id, own, record, update},
        },
        memory::MemoryStore,
        redis::{RedisDatabase, RedisStore},
        sled::{Durability, SledDatabase, SledOptions, SledStore},
    },
};

use crate::support::{
    self,
    daemon::TestClock,
    redis::{RedisCluster, RedisServer, is_missing, options},
};

async fn stored(store: &SledStore, id: PublicId) -> Option<Arc<Record>> {
    store.read(id, Certainty::Current).await.expect("the store works")
}

async fn create(store: &SledStore, id: PublicId) {
    let created = store.create(id, record()).await.expect("the store works");
    created.expect("the id is free");
}

/// How many sessions a cleanup removes after all have expired.
async fn removed(store: &SledStore) -> usize {
    let swept = store.cleanup(NOW + DURATION * 3, 100).await.expect("the store works");
    swept.removed.len()
}

fn sled(directory: &tempfile::TempDir, cache_bytes: u64) -> (SledDatabase, SledStore) {
    support::sled::open(SledOptions {
        cache_bytes,
        destroy: Durability::Synced,
        roll: Durability::Synced,
        ..support::sled::options(directory.path())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    conformance::check(Arc::new(MemoryStore::default()), Expiry::Cleanup).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sled_with_a_table_in_front() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let (_database, store) = sled(&directory, 1 << 24);
    conformance::check(Arc::new(store), Expiry::Cleanup).await;
}

/// If the table has no room, every operation reaches the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sled_without_a_table() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let (_database, store) = sled(&directory, 512);
    conformance::check(Arc::new(store), Expiry::Cleanup).await;
}

/// The database keeps its records when it is closed and opened again.
#[tokio::test]
async fn sled_keeps_records_over_a_restart() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let (database, store) = sled(&directory, 1 << 20);
    create(&store, id(1)).await;
    create(&store, id(2)).await;
    store.destroy(id(2), own(1)).await.expect("the store works");
    let roll = Update { roll: true, ..update(NOW) };
    let change = store.write(id(1), roll.into()).await.expect("the store works");
    let after = change.expect("the session exists").expect("it is taken").after;
    drop((database, store));
    let (_database, store) = sled(&directory, 1 << 20);
    assert_eq!(stored(&store, id(1)).await, Some(after));
    assert_eq!(stored(&store, id(2)).await, None);
    assert_eq!(store.count(), Some(1));
    assert_eq!(removed(&store).await, 1, "expected the index to be kept");
}

/// An operation that has begun is completed, even if the caller stops waiting.
#[tokio::test]
async fn sled_finishes_what_was_begun() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let (database, store) = sled(&directory, 1 << 20);
    let mut begun: Vec<_> =
        (0..50).map(|number| Box::pin(store.create(id(number), record()))).collect();
    for create in &mut begun {
        let _ = futures_util::poll!(create);
    }
    drop(begun);
    // Waits for the operations in flight.
    drop((database, store));
    let (_database, store) = sled(&directory, 1 << 20);
    assert_eq!(
        store.count(),
        Some(50),
        "expected all creations to complete, although no caller waits"
    );
}

/// Engines share a database, but not their records.
#[tokio::test]
async fn sled_keeps_engines_apart() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let (database, first) = sled(&directory, 1 << 20);
    let second = database.store("second").expect("a store");
    create(&first, id(1)).await;
    assert_eq!(stored(&second, id(1)).await, None);
    assert_eq!(removed(&second).await, 0);
    assert!(stored(&first, id(1)).await.is_some());
    let mut engines = database.engines();
    engines.sort();
    assert_eq!(engines, ["default", "second"]);
}

fn redis(url: &str) -> RedisStore {
    RedisDatabase::start(options(url, "sessiond"), TestClock::new()).store("default")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_on_one_server() {
    if !is_missing() {
        let server = RedisServer::start();
        conformance::check(Arc::new(redis(&server.url())), Expiry::Store).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_in_a_cluster() {
    if !is_missing() {
        let cluster = RedisCluster::start(3, 0);
        conformance::check(Arc::new(redis(&cluster.url())), Expiry::Store).await;
    }
}
