//! What waits for replicas: changes, and what says that a change was made before.

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

/// Of a WAIT that is to fail, and of one that is not.
const SHORT: Duration = Duration::from_millis(600);
const LONG: Duration = Duration::from_secs(10);

/// A primary and its replica, which say nothing to each other but what is asked for.
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

/// Makes a session somebody's, who may have had it before.
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

/// How many entries there are in the index of principals.
const ENTRIES: &str = "local count = 0 \
    for _, key in ipairs(redis.call('KEYS', 'sessiond:default:p:*')) do \
    count = count + redis.call('ZCARD', key) end return count";

fn entries(server: &RedisServer) -> u32 {
    let count = server.ask(&["EVAL", ENTRIES, "0"]);
    count.trim_start_matches(':').trim().parse().expect("a number")
}

/// The sessions that a server has.
fn sessions(server: &RedisServer) -> usize {
    let keys = server.ask(&["KEYS", "sessiond:default:*"]);
    keys.lines().filter(|line| line.starts_with("sess") && !line.contains(":p:")).count()
}

/// Tries until it is done, which a replica that goes on allows.
async fn at_last<T, E>(operation: impl AsyncFn() -> Result<T, E>) -> T {
    let trying = async {
        loop {
            if let Ok(done) = operation().await {
                return done;
            }
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.expect("the replica goes on")
}

/// A change is acknowledged when a replica has it, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_wait_for_replicas() {
    if is_missing() {
        return;
    }
    let (primary, replica) = pair();
    let store = patient(&primary, LONG);
    create(&store).await;
    assert_eq!(replica.ask(&["EXISTS", KEY]), ":1\r\n", "the replica has it by now");
    store.write(ID, update("{}")).await.expect("works").expect("there").expect("taken");

    let store = patient(&primary, SHORT);
    replica.signal(Signal::STOP);
    unconfirmed(&store.write(ID, update("{}")).await.expect_err("the replica has stopped"));
    assert!(store.touch(ID, touch(NOW)).await.expect("a touch does not wait").is_some());
    unconfirmed(&store.destroy(ID, OWN).await.expect_err("the replica has stopped"));
    // It is gone, and yet nobody may rely on that.
    assert_eq!(primary.ask(&["EXISTS", KEY]), ":0\r\n");
    unconfirmed(&store.destroy(ID, OWN).await.expect_err("the replica has stopped"));
    replica.signal(Signal::CONT);
    at_last(async || store.destroy(ID, OWN).await).await;
    assert_eq!(replica.ask(&["EXISTS", KEY]), ":0\r\n", "the replica knows it by now");
}

fn offset(primary: &RedisServer) -> u64 {
    let told = primary.ask(&["INFO", "replication"]);
    let offset = told.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
    offset.expect("an offset").trim().parse().expect("a number")
}

/// One WAIT at a time on a connection: what comes meanwhile shares the next one.
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

    // So all are made, and told to be unconfirmed, in the time that two of them take.
    store.destroy(ID, OWN).await.expect("the store works").expect("the script is known now");
    replica.signal(Signal::STOP);
    let ended = ids.iter().map(|id| hasty.destroy(*id, OWN));
    for ended in futures_util::future::join_all(ended).await {
        unconfirmed(&ended.expect_err("the replica has stopped"));
    }
    assert_eq!(sessions(&primary), 0);
    replica.signal(Signal::CONT);
}

/// A batch ends when its connection is abandoned, and not when its callers give up.
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
    // The connection for changes is there by then.
    at_last(async || give(&store, ID, "ann").await).await;
    primary.signal(Signal::STOP);
    let error = tokio::time::timeout(PATIENCE, store.destroy(ID, OWN)).await;
    let error = error.expect("it is answered long before its time").expect_err("redis hangs");
    assert_told(&error, StoreErrorKind::Unavailable, "the connection was abandoned");
    primary.signal(Signal::CONT);
    at_last(async || store.destroy(ID, OWN).await).await;
}

/// The question for the server's time, by which a connection is known to work, comes
/// after a WAIT, and may take as much longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_wait_is_no_lost_connection() {
    if is_missing() {
        return;
    }
    let (primary, replica) = pair();
    create(&patient(&primary, LONG)).await;
    let store = store_with(&primary, |options| {
        options.wait = Some(Wait { replicas: 1, timeout: Duration::from_secs(3) });
        options.connect_timeout = Duration::from_millis(900);
    });
    at_last(async || store.read(ID, Certainty::Current).await).await;
    replica.signal(Signal::STOP);
    unconfirmed(&store.destroy(ID, OWN).await.expect_err("the replica has stopped"));
    replica.signal(Signal::CONT);
}

/// WAIT looks at what its connection has changed last: so what is confirmed has to
/// be a change, or the replica may not know yet why there was nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroy_of_nothing_is_confirmed_by_something() {
    if is_missing() {
        return;
    }
    let (primary, replica) = pair();
    let waits = patient(&primary, LONG);
    let does_not = store_with(&primary, |_| {});
    let claims = [OWN, Claim::Operator, Claim::Principal(principal("ann"))];
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

/// Who ends what a principal has, and finds nothing, must be able to rely on that:
/// else what was ended before, unconfirmed, may come back with a replica.
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
        assert_eq!(alive.expect("whoever ends it waits").records.len(), 1);
        if is_destroyed {
            unconfirmed(&hasty.destroy(ID, OWN).await.expect_err("the replica has stopped"));
        } else {
            unconfirmed(&give(&hasty, ID, "").await.expect_err("the replica has stopped"));
        }
        let listed = hasty
            .list(principal("ann"), None, 9, Certainty::Current)
            .await
            .expect("a list does not wait");
        assert_eq!(listed, Listed::default(), "it is not ann's any more");
        for _ in 0..2 {
            let listed = hasty.list(principal("ann"), None, 9, Certainty::Durable).await;
            unconfirmed(&listed.expect_err("the replica has stopped"));
        }
        replica.signal(Signal::CONT);
        let listed = store.list(principal("ann"), None, 9, Certainty::Durable).await;
        assert_eq!(listed.expect("the replica goes on"), Listed::default());
        assert_eq!(replica.ask(&["GET", KEY]), primary.ask(&["GET", KEY]), "the replica knows");
        assert_eq!(entries(&primary), 0, "nothing needs them any more");
        store.destroy(ID, Claim::Operator).await.expect("the store works");
    }
}

/// A list waits for nobody. What it meets goes all the same, when that is confirmed.
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
    // It is confirmed aside, which fails with what is asked for after it at the latest.
    unconfirmed(&hasty.destroy(ID, OWN).await.expect_err("the replica has stopped"));
    assert_eq!(entries(&primary), 1, "nobody knows whether it will be needed");
    replica.signal(Signal::CONT);
    listed(&store).await;
    primary.wait_for(&["EVAL", ENTRIES, "0"], ":0");
}

/// Many entries without a session, as those who have expired leave them, are confirmed
/// by few WAITs.
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
    assert!(waits < 20, "expected far fewer WAITs than the 40 that are gone, found {waits}");
    assert_eq!(entries(&primary), 10);

    for id in ids.skip(40) {
        primary.ask(&["DEL", &format!("sessiond:default:{id}")]);
    }
    let listed =
        store.list(principal("ann"), None, 50, Certainty::Current).await.expect("the store works");
    assert_eq!(listed, Listed::default());
    primary.wait_for(&["EVAL", ENTRIES, "0"], ":0");
}

/// An import that was not confirmed finds its records when it is made again.
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
        assert_eq!(sessions(&primary), 1, "it is there, and yet nobody may rely on that");
    }
    replica.signal(Signal::CONT);
    let restored = at_last(async || store.restore(ID, record(), NOW).await).await;
    assert_eq!(restored, Restored::Kept);
    assert_eq!(replica.ask(&["EXISTS", KEY]), ":1\r\n", "the replica has it by now");
}

/// What an application sees of it, which sends again what was not confirmed.
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
    // More than are ended at a time.
    for _ in 0..40 {
        patient.login("ann").await;
    }
    replica.signal(Signal::STOP);
    for _ in 0..2 {
        refused(end_others().await);
        assert_eq!(sessions(&primary), 1, "the others have ended, unconfirmed");
    }
    replica.signal(Signal::CONT);
    at_last(&end_others).await;
    assert_eq!(sessions(&replica), 1, "the replica knows it by now");

    replica.signal(Signal::STOP);
    for _ in 0..2 {
        refused(revoke().await);
        assert_eq!(sessions(&primary), 0, "all have ended, unconfirmed");
    }
    replica.signal(Signal::CONT);
    at_last(&revoke).await;
    assert_eq!(sessions(&replica), 0, "the replica knows it by now");
}
