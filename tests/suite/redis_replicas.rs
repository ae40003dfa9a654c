//! Operations that wait for replicas: changes, and answers that depend on an earlier change.

use std::time::Duration;

use rustix::process::Signal;
use sessiond::{
    grpc::pb::{DestroyScope, RevokeSessionsRequest},
    server::config::{Backend, Span},
    session::{
        id::{PublicId, VerifierHash},
        record::{Claim, Principal, Record, Update},
        store::{
            BulkStore, Certainty, Listed, Restored, Store, StoreError, StoreErrorKind, Written,
        },
    },
    store::redis::{RedisStore, Wait},
};
use tonic::{Code, Status};

use crate::{
    redis_store::{ID, KEY, NOW, OWN, assert_told, create, record, store_with, touch, update},
    support::{
        daemon::{Daemon, assert_fault},
        program::PATIENCE,
        redis::{RedisServer, is_missing},
    },
};

/// The timeout of a WAIT that is to fail, and of one that is not.
const SHORT: Duration = Duration::from_millis(600);
const LONG: Duration = Duration::from_secs(10);

/// A primary and its replica. Without requests, they exchange nothing.
fn pair() -> (RedisServer, RedisServer) {
    let primary = RedisServer::start();
    primary.ask(&["CONFIG", "SET", "repl-ping-replica-period", "3600"]);
    primary.ask(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    let replica = RedisServer::with(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]);
    replica.wait_for(&["INFO", "replication"], "master_link_status:up");
    primary.wait_for(&["INFO", "replication"], "state=online");
    (primary, replica)
}

/// A store whose changes wait for a replica.
fn patient(primary: &RedisServer, timeout: Duration) -> RedisStore {
    store_with(primary, |options| options.wait = Some(Wait { replicas: 1, timeout }))
}

#[track_caller]
fn unconfirmed(error: &StoreError) {
    let cause = "confirmed by 0 replicas, store.redis.wait_replicas asks for 1";
    assert_told(error, StoreErrorKind::Unavailable, cause);
}

fn principal(name: &str) -> Principal {
    Principal::new(name.as_bytes()).expect("short")
}

/// Gives a session to a principal, who may have it already.
async fn give(store: &RedisStore, id: PublicId, name: &str) -> Result<Option<Written>, StoreError> {
    let next_verifier = VerifierHash::from_bytes([1; 32]);
    let principal = Some(principal(name));
    let update = Update { principal, next_verifier, ..Update::clone(&update("{}")) };
    store.write(id, update.into()).await
}

/// A session that ann has logged in to.
async fn anns(store: &RedisStore, id: PublicId) {
    store.create(id, record()).await.expect("the store works").expect("the id is free");
    give(store, id, "ann").await.expect("works").expect("there").expect("taken");
}

/// Counts the entries in the index of principals.
const ENTRIES: &str = "local count = 0 \
    for _, key in ipairs(redis.call('KEYS', 'sessiond:default:p:*')) do \
    count = count + redis.call('ZCARD', key) end return count";

fn entries(server: &RedisServer) -> u32 {
    let count = server.ask(&["EVAL", ENTRIES, "0"]);
    count.trim_start_matches(':').trim().parse().expect("a number")
}

/// How many sessions a server has.
fn sessions(server: &RedisServer) -> usize {
    let keys = server.ask(&["KEYS", "sessiond:default:*"]);
    keys.lines().filter(|line| line.starts_with("sess") && !line.contains(":p:")).count()
}

/// Repeats an operation until it succeeds, which it does when the replica continues.
async fn at_last<T, E>(operation: impl AsyncFn() -> Result<T, E>) -> T {
    let trying = async {
        loop {
            if let Ok(done) = operation().await {
                return done;
            }
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.expect("the replica continues")
}

/// A change is acknowledged only after a replica has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_wait_for_replicas() {
    if is_missing() {
        return;
    }
    let (primary, replica) = pair();
    let store = patient(&primary, LONG);
    create(&store).await;
    assert_eq!(replica.ask(&["EXISTS", KEY]), ":1\r\n", "expected the record on the replica");
    store.write(ID, update("{}")).await.expect("works").expect("there").expect("taken");

    let store = patient(&primary, SHORT);
    replica.signal(Signal::STOP);
    unconfirmed(&store.write(ID, update("{}")).await.expect_err("the replica has stopped"));
    assert!(store.touch(ID, touch(NOW)).await.expect("a touch does not wait").is_some());
    unconfirmed(&store.destroy(ID, OWN).await.expect_err("the replica has stopped"));
    // The record is gone, but a replica may still have it.
    assert_eq!(primary.ask(&["EXISTS", KEY]), ":0\r\n");
    unconfirmed(&store.destroy(ID, OWN).await.expect_err("the replica has stopped"));
    replica.signal(Signal::CONT);
    at_last(async || store.destroy(ID, OWN).await).await;
    assert_eq!(replica.ask(&["EXISTS", KEY]), ":0\r\n", "expected no record on the replica");
}

fn offset(primary: &RedisServer) -> u64 {
    let told = primary.ask(&["INFO", "replication"]);
    let offset = told.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
    offset.expect("an offset").trim().parse().expect("a number")
}

/// A connection runs one WAIT at a time. Changes that come meanwhile share the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_come_together_share_a_wait() {
    if is_missing() {
        return;
    }
    let (primary, replica) = pair();
    let (store, hasty) = (patient(&primary, LONG), patient(&primary, SHORT));
    let ids: Vec<_> = (0..100).map(|number| PublicId::from_bytes([number; 12])).collect();
    anns(&store, ID).await;
    let before = primary.calls("wait");
    let created = ids.iter().map(|id| store.create(*id, record()));
    for created in futures_util::future::join_all(created).await {
        created.expect("the store works").expect("the id is free");
    }
    let waits = primary.calls("wait") - before;
    assert!(waits < 50, "expected far fewer WAITs than the 100 changes, found {waits}");

    // So all changes are made and reported as unconfirmed within the time of two WAITs.
    store.destroy(ID, OWN).await.expect("the store works").expect("Redis has cached the script");
    replica.signal(Signal::STOP);
    let ended = ids.iter().map(|id| hasty.destroy(*id, OWN));
    for ended in futures_util::future::join_all(ended).await {
        unconfirmed(&ended.expect_err("the replica has stopped"));
    }
    assert_eq!(sessions(&primary), 0);
    replica.signal(Signal::CONT);
}

/// A batch of WAITs ends when its connection is closed, even if its callers still wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_holds_no_round_up() {
    if is_missing() {
        return;
    }
    let (primary, _replica) = pair();
    let store = store_with(&primary, |options| {
        options.wait = Some(Wait { replicas: 1, timeout: SHORT });
        (options.connect_timeout, options.timeout) = (SHORT, Duration::from_secs(300));
    });
    create(&patient(&primary, LONG)).await;
    // This also opens the connection for changes.
    at_last(async || give(&store, ID, "ann").await).await;
    primary.signal(Signal::STOP);
    let error = tokio::time::timeout(PATIENCE, store.destroy(ID, OWN)).await;
    let error = error
        .expect("expected an answer before the timeout of the WAIT")
        .expect_err("expected an error, Redis hangs");
    assert_told(&error, StoreErrorKind::Unavailable, "the connection was abandoned");
    primary.signal(Signal::CONT);
    at_last(async || store.destroy(ID, OWN).await).await;
}

/// The store checks a connection by asking for the server's time. That command waits behind a
/// WAIT and may take as much longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_wait_is_no_lost_connection() {
    if is_missing() {
        return;
    }
    let (primary, replica) = pair();
    create(&patient(&primary, LONG)).await;
    let store = store_with(&primary, |options| {
        // The difference is what a busy machine may be late.
        options.wait = Some(Wait { replicas: 1, timeout: Duration::from_secs(8) });
        options.connect_timeout = Duration::from_secs(4);
    });
    // This opens the connection for changes while there is nothing to wait for.
    at_last(async || give(&store, ID, "ann").await).await;
    replica.signal(Signal::STOP);
    unconfirmed(&store.destroy(ID, OWN).await.expect_err("the replica has stopped"));
    replica.signal(Signal::CONT);
}

/// WAIT covers the last change on its connection. So a Destroy that finds nothing must make
/// some change to be confirmed. Otherwise the replica may still have the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroy_of_nothing_is_confirmed_by_something() {
    if is_missing() {
        return;
    }
    let (primary, replica) = pair();
    let waits = patient(&primary, LONG);
    let does_not = store_with(&primary, |_| {});
    let claims = [OWN, Claim::Operator, Claim::Principal(principal("ann"))];
    // The messages between the servers at their first contact are over.
    assert_eq!(waits.destroy(ID, OWN).await.expect("a Destroy is confirmed"), None);

    for claim in &claims {
        let (before, made) = (offset(&primary), replica.calls("del"));
        assert_eq!(does_not.destroy(ID, claim.clone()).await.expect("the store works"), None);
        assert_eq!(offset(&primary), before, "nobody waits");
        assert_eq!(waits.destroy(ID, claim.clone()).await.expect("a Destroy is confirmed"), None);
        assert!(offset(&primary) > before, "{claim:?}");
        assert_eq!(replica.calls("del"), made + 1, "{claim:?}: expected the change on the replica");
        for server in [&primary, &replica] {
            assert_eq!(server.ask(&["EXISTS", KEY]), ":0\r\n");
        }
    }

    // A session that belongs to someone else now.
    let others = Record { verifier: VerifierHash::from_bytes([9; 32]), ..record() };
    waits.create(ID, others.clone()).await.expect("the store works").expect("the id is free");
    let (value, life) = (primary.ask(&["GET", KEY]), primary.ask(&["PEXPIRETIME", KEY]));
    for claim in [&claims[0], &claims[2]] {
        let made = replica.calls("setrange");
        assert_eq!(does_not.destroy(ID, claim.clone()).await.expect("the store works"), None);
        assert_eq!(replica.calls("setrange"), made, "expected no change without a WAIT");
        assert_eq!(waits.destroy(ID, claim.clone()).await.expect("a Destroy is confirmed"), None);
        assert_eq!(
            replica.calls("setrange"),
            made + 1,
            "{claim:?}: expected the change on the replica"
        );
        for server in [&primary, &replica] {
            assert_eq!(server.ask(&["GET", KEY]), value, "expected no change of the record");
            assert_eq!(server.ask(&["PEXPIRETIME", KEY]), life, "expected no change of the expiry");
        }
    }
    assert!(waits.destroy(ID, Claim::Operator).await.expect("a Destroy is confirmed").is_some());

    primary.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = waits
        .destroy(ID, OWN)
        .await
        .expect_err("expected an error, there is no memory to confirm it");
    assert_told(&error, StoreErrorKind::Full, "OOM");
    assert_eq!(
        does_not.destroy(ID, OWN).await.expect("a Destroy without WAIT needs no memory"),
        None
    );
    assert_eq!(primary.ask(&["EXISTS", KEY]), ":0\r\n");
}

/// A caller that ends a principal's sessions and finds none must be able to rely on it.
/// Otherwise a session whose end was not confirmed may come back with a replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_list_is_confirmed() {
    if is_missing() {
        return;
    }
    let (primary, replica) = pair();
    let (store, hasty) = (patient(&primary, LONG), patient(&primary, SHORT));
    for is_destroyed in [true, false] {
        anns(&store, ID).await;
        replica.signal(Signal::STOP);
        let alive = hasty.list(principal("ann"), None, 9, Certainty::Durable).await;
        assert_eq!(alive.expect("expected the list without a confirmation").records.len(), 1);
        if is_destroyed {
            unconfirmed(&hasty.destroy(ID, OWN).await.expect_err("the replica has stopped"));
        } else {
            unconfirmed(&give(&hasty, ID, "").await.expect_err("the replica has stopped"));
        }
        let listed = hasty
            .list(principal("ann"), None, 9, Certainty::Current)
            .await
            .expect("a list with Certainty::Current does not wait");
        assert_eq!(listed, Listed::default(), "expected no session of ann");
        for _ in 0..2 {
            let listed = hasty.list(principal("ann"), None, 9, Certainty::Durable).await;
            unconfirmed(&listed.expect_err("the replica has stopped"));
        }
        replica.signal(Signal::CONT);
        let listed = store.list(principal("ann"), None, 9, Certainty::Durable).await;
        assert_eq!(
            listed.expect("expected a confirmation, the replica continues"),
            Listed::default()
        );
        assert_eq!(
            replica.ask(&["GET", KEY]),
            primary.ask(&["GET", KEY]),
            "expected the same record on the replica"
        );
        assert_eq!(entries(&primary), 0, "expected no entries");
        store.destroy(ID, Claim::Operator).await.expect("the store works");
    }
}

/// A list with Certainty::Current does not wait. It still removes orphaned entries, once that
/// is confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_drops_what_is_confirmed() {
    if is_missing() {
        return;
    }
    let (primary, replica) = pair();
    let (store, hasty) = (patient(&primary, LONG), patient(&primary, SHORT));
    anns(&store, ID).await;
    primary.ask(&["DEL", KEY]);
    replica.signal(Signal::STOP);
    let listed = async |store: &RedisStore| {
        let listed = store
            .list(principal("ann"), None, 9, Certainty::Current)
            .await
            .expect("the store works");
        assert_eq!(listed, Listed::default());
    };
    listed(&hasty).await;
    // The confirmation runs in the background. It fails together with a later request at the
    // latest.
    unconfirmed(&hasty.destroy(ID, OWN).await.expect_err("the replica has stopped"));
    assert_eq!(entries(&primary), 1, "expected the entry to stay while the Destroy is unconfirmed");
    replica.signal(Signal::CONT);
    listed(&store).await;
    primary.wait_for(&["EVAL", ENTRIES, "0"], ":0");
}

/// Many entries without a session, as expired sessions leave them, are confirmed by few WAITs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_are_gone_are_confirmed_together() {
    if is_missing() {
        return;
    }
    let (primary, _replica) = pair();
    let store = patient(&primary, LONG);
    let ids = (0..50).map(|number| PublicId::from_bytes([number; 12]));
    for id in ids.clone() {
        anns(&store, id).await;
    }
    for id in ids.clone().take(40) {
        primary.ask(&["DEL", &format!("sessiond:default:{id}")]);
    }
    let before = primary.calls("wait");
    let listed =
        store.list(principal("ann"), None, 50, Certainty::Durable).await.expect("it works");
    let found: Vec<_> = listed.records.into_iter().map(|(id, _)| id).collect();
    assert_eq!((found, listed.next), (ids.clone().skip(40).collect(), None));
    let waits = primary.calls("wait") - before;
    assert!(waits < 20, "expected far fewer WAITs than the 40 entries, found {waits}");
    assert_eq!(entries(&primary), 10);

    for id in ids.skip(40) {
        primary.ask(&["DEL", &format!("sessiond:default:{id}")]);
    }
    let listed =
        store.list(principal("ann"), None, 50, Certainty::Current).await.expect("the store works");
    assert_eq!(listed, Listed::default());
    primary.wait_for(&["EVAL", ENTRIES, "0"], ":0");
}

/// An import that was not confirmed finds its records in place when it is repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_kept_is_confirmed() {
    if is_missing() {
        return;
    }
    let (primary, replica) = pair();
    let store = patient(&primary, SHORT);
    replica.signal(Signal::STOP);
    for _ in 0..2 {
        let restored = store.restore(ID, record(), NOW).await;
        unconfirmed(&restored.expect_err("the replica has stopped"));
        assert_eq!(sessions(&primary), 1, "expected the record on the primary");
    }
    replica.signal(Signal::CONT);
    let restored = at_last(async || store.restore(ID, record(), NOW).await).await;
    assert_eq!(restored, Restored::Kept);
    assert_eq!(replica.ask(&["EXISTS", KEY]), ":1\r\n", "expected the record on the replica");
}

/// The same for an application that repeats a revocation without a confirmation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_is_sent_again_is_confirmed() {
    if is_missing() {
        return;
    }
    let (primary, replica) = pair();
    let daemon_with = async |timeout| {
        Daemon::with(Backend::Redis, |config| {
            let redis = &mut config.store.redis;
            redis.url = primary.url().parse().expect("a URL");
            redis.wait_replicas = 1;
            redis.wait_timeout = Span(timeout);
            redis.timeout = Span::secs(60);
        })
        .await
    };
    let (patient, daemon) = (daemon_with(LONG).await, daemon_with(SHORT).await);
    let revoke = async || {
        let request = RevokeSessionsRequest { principal: "ann".to_owned(), ..Default::default() };
        daemon.admin.clone().revoke_sessions(request).await.map(|_| ())
    };
    let own = patient.login("ann").await;
    let end_others =
        async || daemon.try_destroy_scope(&own, DestroyScope::Others).await.map(|_| ());
    let refused = |outcome: Result<(), Status>| {
        let status = outcome.expect_err("the replica has stopped");
        assert_fault(&status, Code::Unavailable, "STORE_UNAVAILABLE", None);
    };
    // More sessions than are ended at a time.
    for _ in 0..40 {
        patient.login("ann").await;
    }
    replica.signal(Signal::STOP);
    for _ in 0..2 {
        refused(end_others().await);
        assert_eq!(sessions(&primary), 1, "expected the other sessions to be ended on the primary");
    }
    replica.signal(Signal::CONT);
    at_last(&end_others).await;
    assert_eq!(sessions(&replica), 1, "expected the same on the replica");

    replica.signal(Signal::STOP);
    for _ in 0..2 {
        refused(revoke().await);
        assert_eq!(sessions(&primary), 0, "expected all sessions to be ended on the primary");
    }
    replica.signal(Signal::CONT);
    at_last(&revoke).await;
    assert_eq!(sessions(&replica), 0, "expected the same on the replica");
}
