//! How operations of the redis store run: the limits on concurrent operations, their order, and
//! their timeouts.

use std::{pin::pin, sync::Arc, time::Duration};

use sessiond::{
    session::store::{Certainty, Result, Store, StoreError, StoreErrorKind},
    store::redis::RedisStore,
};

use crate::{
    redis_store::{ID, assert_told, create, store_with, update},
    support::{
        program::PATIENCE,
        redis::{RedisServer, is_missing},
    },
};

/// Runs an operation, and repeats it while it is refused because too many are running.
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
    tokio::time::timeout(PATIENCE, trying)
        .await
        .expect("expected running operations to release their slots")
}

async fn version(store: &RedisStore) -> u64 {
    in_its_place(|| store.read(ID, Certainty::Current))
        .await
        .expect("the store works")
        .expect("the session exists")
        .version
}

/// As with a response body whose peer reads nothing. On one thread, no work is done before the
/// first poll returns.
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
        assert!(futures_util::poll!(&mut first).is_pending(), "expected Redis to need some time");
        let second = in_its_place(|| store.write(ID, update("{}"))).await;
        second
            .expect("the store works")
            .expect("the session exists")
            .expect("the change is accepted");
        first
            .await
            .expect("the store works")
            .expect("the session exists")
            .expect("the change is accepted");
        assert_eq!(version(&store).await, 3, "expected both changes");
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
        assert!(futures_util::poll!(&mut write).is_pending(), "expected Redis to need some time");
    }
    let made = async { while version(&store).await < 2 {} };
    tokio::time::timeout(PATIENCE, made).await.expect("expected the operation to complete");
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
    // A busy machine may take longer for the first connection.
    let ready = async { while store.read(ID, Certainty::Current).await.is_err() {} };
    tokio::time::timeout(PATIENCE, ready).await.expect("the store works");
    server.signal(rustix::process::Signal::STOP);
    let mut first = pin!(store.read(ID, Certainty::Current));
    assert!(
        futures_util::poll!(&mut first).is_pending(),
        "expected no answer yet, Redis is stopped"
    );
    let late = |error: &StoreError| assert_told(error, StoreErrorKind::Unavailable, "within 300ms");
    late(
        &in_its_place(|| store.read(ID, Certainty::Current))
            .await
            .expect_err("expected an error, Redis is stopped"),
    );
    late(&first.await.expect_err("expected an error, Redis is stopped"));
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
    let mut waiting: Vec<_> =
        (0..3).map(|_| Box::pin(store.read(ID, Certainty::Current))).collect();
    for read in &mut waiting {
        assert!(futures_util::poll!(read).is_pending(), "expected no answer yet, Redis is stopped");
    }
    let error = store
        .read(ID, Certainty::Current)
        .await
        .expect_err("expected an error, three operations are waiting");
    assert_told(&error, StoreErrorKind::Overloaded, "store.redis.max_pending");
    server.signal(rustix::process::Signal::CONT);
    for read in waiting {
        assert!(read.await.expect("Redis continues").is_some());
    }
    assert!(store.read(ID, Certainty::Current).await.expect("a slot is free").is_some());
}
