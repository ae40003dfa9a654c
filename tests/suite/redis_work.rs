//! How operations of the redis store run: who has a place, a turn, and for how long,
//! and what waits for replicas.

use std::{pin::pin, sync::Arc, time::Duration};

use sessiond::{
    session::{
        id::VerifierHash,
        record::{Claim, Principal, Record},
        store::{Result, Store, StoreError, StoreErrorKind},
    },
    store::redis::{RedisStore, Wait},
};

use crate::{
    redis_store::{ID, KEY, NOW, OWN, assert_told, create, record, store_with, touch, update},
    support::{
        program::PATIENCE,
        redis::{RedisServer, is_missing},
    },
};

/// What comes of an operation when it has got a place.
async fn in_its_place<T, F: Future<Output = Result<T>>>(operation: impl Fn() -> F) -> Result<T> {
    let trying = async {
        loop {
            match operation().await {
                Err(error) if error.kind == StoreErrorKind::Overloaded => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                outcome => return outcome,
            }
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.expect("places and turns are given back")
}

async fn version(store: &RedisStore) -> u64 {
    in_its_place(|| store.read(ID)).await.expect("the store works").expect("it is there").version
}

/// As a body does while its peer takes nothing. On one thread, where no work is done
/// before the first poll returns.
#[tokio::test]
async fn a_caller_that_does_not_poll_holds_nobody_up() {
    if is_missing() {
        return;
    }
    for max_pending in [1, 10] {
        let server = RedisServer::start();
        let store = store_with(&server, |options| options.max_pending = max_pending);
        create(&store).await;
        let mut first = pin!(store.write(ID, update("{}")));
        assert!(futures_util::poll!(&mut first).is_pending(), "redis takes a while");
        let second = in_its_place(|| store.write(ID, update("{}"))).await;
        second.expect("the store works").expect("it is there").expect("it is taken");
        first.await.expect("the store works").expect("it is there").expect("it is taken");
        assert_eq!(version(&store).await, 3, "both were made");
    }
}

#[tokio::test]
async fn a_caller_that_has_gone_leaves_nothing_half_done() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let store = store_with(&server, |_| {});
    create(&store).await;
    {
        let mut write = pin!(store.write(ID, update("{}")));
        assert!(futures_util::poll!(&mut write).is_pending(), "redis takes a while");
    }
    let made = async { while version(&store).await < 2 {} };
    tokio::time::timeout(PATIENCE, made).await.expect("it goes on to its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_runs_out_also_when_nobody_polls() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let store = store_with(&server, |options| {
        options.max_pending = 1;
        options.timeout = Duration::from_millis(300);
    });
    in_its_place(|| store.read(ID)).await.expect("the store works");
    server.signal(rustix::process::Signal::STOP);
    let mut first = pin!(store.read(ID));
    assert!(futures_util::poll!(&mut first).is_pending(), "redis does not answer");
    let late = |error: &StoreError| assert_told(error, StoreErrorKind::Unavailable, "within 300ms");
    late(&in_its_place(|| store.read(ID)).await.expect_err("redis does not answer"));
    late(&first.await.expect_err("redis does not answer"));
    server.signal(rustix::process::Signal::CONT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_may_wait_is_refused() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let store = Arc::new(store_with(&server, |options| options.max_pending = 3));
    create(&store).await;
    server.signal(rustix::process::Signal::STOP);
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(store.read(ID))).collect();
    for read in &mut waiting {
        assert!(futures_util::poll!(read).is_pending(), "redis does not answer");
    }
    let error = store.read(ID).await.expect_err("three are waiting");
    assert_told(&error, StoreErrorKind::Overloaded, "store.redis.max_pending");
    server.signal(rustix::process::Signal::CONT);
    for read in waiting {
        assert!(read.await.expect("redis goes on").is_some());
    }
    assert!(store.read(ID).await.expect("there is room").is_some());
}

/// A change is acknowledged when a replica has it, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_wait_for_replicas() {
    if is_missing() {
        return;
    }
    let primary = RedisServer::start();
    let replica = RedisServer::with(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]);
    replica.wait_for(&["INFO", "replication"], "master_link_status:up");
    primary.wait_for(&["INFO", "replication"], "state=online");
    let wait = Wait { replicas: 1, timeout: Duration::from_millis(600) };
    let store = store_with(&primary, |options| options.wait = Some(wait));
    create(&store).await;
    assert_eq!(replica.ask(&["EXISTS", KEY]), ":1\r\n", "the replica has it by now");
    store.write(ID, update("{}")).await.expect("works").expect("there").expect("taken");

    replica.signal(rustix::process::Signal::STOP);
    let cause = "confirmed by 0 replicas, store.redis.wait_replicas asks for 1";
    let unconfirmed = |error: &StoreError| assert_told(error, StoreErrorKind::Unavailable, cause);
    unconfirmed(&store.write(ID, update("{}")).await.expect_err("the replica has stopped"));
    assert!(store.touch(ID, touch(NOW)).await.expect("a touch does not wait").is_some());
    unconfirmed(&store.destroy(ID, OWN).await.expect_err("the replica has stopped"));
    // It is gone, and yet nobody may rely on that.
    assert_eq!(primary.ask(&["EXISTS", KEY]), ":0\r\n");
    unconfirmed(&store.destroy(ID, OWN).await.expect_err("the replica has stopped"));
    replica.signal(rustix::process::Signal::CONT);
    let confirmed = async { while store.destroy(ID, OWN).await.is_err() {} };
    let patience = crate::support::program::PATIENCE;
    tokio::time::timeout(patience, confirmed).await.expect("the replica goes on");
    assert_eq!(replica.ask(&["EXISTS", KEY]), ":0\r\n", "the replica knows it by now");
}

fn offset(primary: &RedisServer) -> u64 {
    let told = primary.ask(&["INFO", "replication"]);
    let offset = told.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
    offset.expect("an offset").trim().parse().expect("a number")
}

/// WAIT looks at what its connection has changed last: so what is confirmed has to
/// be a change, or the replica may not know yet why there was nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroy_of_nothing_is_confirmed_by_something() {
    if is_missing() {
        return;
    }
    let primary = RedisServer::start();
    primary.ask(&["CONFIG", "SET", "repl-ping-replica-period", "3600"]);
    let replica = RedisServer::with(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]);
    replica.wait_for(&["INFO", "replication"], "master_link_status:up");
    primary.wait_for(&["INFO", "replication"], "state=online");
    let wait = Wait { replicas: 1, timeout: Duration::from_secs(10) };
    let waits = store_with(&primary, |options| options.wait = Some(wait));
    let does_not = store_with(&primary, |_| {});
    let ann = Principal::new(b"ann").expect("short");
    let claims = [OWN, Claim::Operator, Claim::Principal(ann)];
    // The servers' own words, as they come to know each other, are over.
    assert_eq!(waits.destroy(ID, OWN).await.expect("it is confirmed"), None);

    for claim in &claims {
        let (before, made) = (offset(&primary), replica.calls("del"));
        assert_eq!(does_not.destroy(ID, claim.clone()).await.expect("the store works"), None);
        assert_eq!(offset(&primary), before, "nobody waits");
        assert_eq!(waits.destroy(ID, claim.clone()).await.expect("it is confirmed"), None);
        assert!(offset(&primary) > before, "{claim:?}");
        assert_eq!(replica.calls("del"), made + 1, "the replica knows: {claim:?}");
        for server in [&primary, &replica] {
            assert_eq!(server.ask(&["EXISTS", KEY]), ":0\r\n");
        }
    }

    // What is another's by now.
    let others = Record { verifier: VerifierHash::from_bytes([9; 32]), ..record() };
    waits.create(ID, others.clone()).await.expect("the store works").expect("the id is free");
    let (value, life) = (primary.ask(&["GET", KEY]), primary.ask(&["PEXPIRETIME", KEY]));
    for claim in [&claims[0], &claims[2]] {
        let made = replica.calls("setrange");
        assert_eq!(does_not.destroy(ID, claim.clone()).await.expect("the store works"), None);
        assert_eq!(replica.calls("setrange"), made, "nobody waits");
        assert_eq!(waits.destroy(ID, claim.clone()).await.expect("it is confirmed"), None);
        assert_eq!(replica.calls("setrange"), made + 1, "the replica knows: {claim:?}");
        for server in [&primary, &replica] {
            assert_eq!(server.ask(&["GET", KEY]), value, "it is as it was");
            assert_eq!(server.ask(&["PEXPIRETIME", KEY]), life, "it is as it was");
        }
    }
    assert!(waits.destroy(ID, Claim::Operator).await.expect("it is confirmed").is_some());

    primary.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = waits.destroy(ID, OWN).await.expect_err("there is no room to confirm it");
    assert_told(&error, StoreErrorKind::Full, "OOM");
    assert_eq!(does_not.destroy(ID, OWN).await.expect("it needs no room"), None);
    assert_eq!(primary.ask(&["EXISTS", KEY]), ":0\r\n");
}
