//! The features of the redis store: the expiry of its keys, and a Redis that
//! refuses commands.

use std::{error::Error, sync::Arc, time::Duration};

use sessiond::{
    session::{
        clock::Moment,
        data::Data,
        id::{PublicId, VerifierHash},
        lifetime::{Granularity, Lifetime},
        record::{Claim, Edit, Principal, Record, Touch, Update},
        store::{Certainty, Removed, Store, StoreError, StoreErrorKind},
    },
    store::{
        codec,
        redis::{RedisDatabase, RedisOptions, RedisStore},
    },
};

use crate::support::{
    daemon::TestClock,
    redis::{RedisServer, ask_octets, is_missing, options},
};

pub(crate) const NOW: Moment = Moment::from_unix_millis(1_000_000);
const LIFETIME: Lifetime = Lifetime {
    duration: Duration::from_secs(100),
    granularity: Granularity::Fixed(Duration::from_secs(10)),
    absolute: None,
};
pub(crate) const ID: PublicId = PublicId::from_bytes([0xfb; 12]);
/// The key of [`ID`] in the store called "default".
pub(crate) const KEY: &str = "sessiond:default:-_v7-_v7-_v7-_v7";
const VERIFIER: VerifierHash = VerifierHash::from_bytes([1; 32]);
pub(crate) const OTHER: VerifierHash = VerifierHash::from_bytes([9; 32]);
pub(crate) const OWN: Claim = Claim::valid_id(VERIFIER);

pub(crate) fn record() -> Record {
    Record {
        verifier: VERIFIER,
        version: 1,
        create_time: NOW,
        deadline: LIFETIME.deadline(NOW, None, NOW),
        duration: None,
        principal: Principal::default(),
        data: Data::EMPTY,
        extension: Default::default(),
    }
}

pub(crate) fn touch(now: Moment) -> Touch {
    Touch { verifier: VERIFIER, lifetime: LIFETIME, now, duration: None }
}

pub(crate) fn update(text: &'static str) -> Arc<Update> {
    Arc::new(Update {
        verifier: VERIFIER,
        lifetime: LIFETIME,
        now: NOW,
        if_version: None,
        edit: Edit {
            replace: false,
            unset: vec![],
            set: Data::parse(bytes::Bytes::from_static(text.as_bytes())).expect("JSON"),
            limit_bytes: 1 << 20,
        },
        next_verifier: VerifierHash::from_bytes([2; 32]),
        roll_grace: Duration::from_secs(60),
        roll: false,
        principal: None,
        duration: None,
        persistent: None,
        label: None,
    })
}

pub(crate) fn store_with(
    server: &RedisServer,
    change: impl FnOnce(&mut RedisOptions),
) -> RedisStore {
    let mut options = options(&server.url(), "sessiond");
    change(&mut options);
    RedisDatabase::start(options, TestClock::new()).store("default")
}

pub(crate) fn store(server: &RedisServer) -> RedisStore {
    store_with(server, |_| {})
}

/// Creates a user with these permissions, see [`as_app`].
pub(crate) fn permit(server: &RedisServer, rules: &[&str]) {
    server.ask(&[&["ACL", "SETUSER", "app", "on", ">hunter2", "~sessiond:*"], rules].concat());
}

pub(crate) fn as_app(options: &mut RedisOptions) {
    options.login.username = "app".to_owned();
    options.login.password = "hunter2".to_owned().into();
}

pub(crate) async fn create(store: &RedisStore) {
    store.create(ID, record()).await.expect("the store works").expect("the id is free");
}

/// Checks that the error is of this kind, and that the log text contains `cause`.
#[track_caller]
pub(crate) fn assert_told(error: &StoreError, kind: StoreErrorKind, cause: &str) {
    let found = error.source().expect("a store error has a cause").to_string();
    assert_eq!(error.kind, kind, "{found}");
    assert!(found.contains(cause), "expected {cause:?} in {found:?}");
}

pub(crate) fn encoded(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(record, codec::Layout::LATEST, &mut bytes);
    bytes
}

/// The time to live of the key, in milliseconds.
fn life(server: &RedisServer) -> i64 {
    let answer = server.ask(&["PTTL", KEY]);
    answer.trim().trim_start_matches(':').parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_lives_a_little_longer_than_its_session() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let store = store_with(&server, |options| options.expiry_grace = Duration::from_secs(7));
    create(&store).await;
    let near = |expected: i64| {
        let found = life(&server);
        assert!((expected - 5_000..=expected).contains(&found), "{found}, expected {expected} ms");
    };
    near(117_000);
    let later = NOW + Duration::from_secs(50);
    assert!(store.touch(ID, touch(later)).await.expect("works").expect("there").moved);
    near(117_000);
    let short = Update { duration: Some(Duration::from_secs(20)), ..(*update("{}")).clone() };
    let written = store.write(ID, Arc::new(short)).await.expect("works").expect("there");
    written.expect("it is taken");
    near(20_000 + 10_000 + 7_000);
}

/// Redis removes it without a cleanup.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_goes_by_itself() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let store = store_with(&server, |options| options.expiry_grace = Duration::from_millis(1));
    let short = Record { deadline: NOW + Duration::from_millis(30), ..record() };
    store.create(ID, short).await.expect("the store works").expect("the id is free");
    server.wait_for(&["EXISTS", KEY], ":0");
    assert_eq!(store.read(ID, Certainty::Current).await.expect("the store works"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_value_is_named_and_left_alone() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let store = store(&server);
    let mut damaged = encoded(&record());
    *damaged.last_mut().expect("not empty") = 0xff;
    let other_layout = [&[9], &encoded(&record())[1..]].concat();
    let values: [(&[&[u8]], &str); 5] = [
        (&[b"RPUSH", KEY.as_bytes(), b"mine"], "WRONGTYPE"),
        (&[b"SET", KEY.as_bytes(), b"mine"], "the record has layout 109"),
        (&[b"SET", KEY.as_bytes(), b"\x01mine"], "the record is truncated: it has only 5 bytes"),
        (&[b"SET", KEY.as_bytes(), &other_layout], "the record has layout 9"),
        (&[b"SET", KEY.as_bytes(), &damaged], "text that is not UTF-8"),
    ];
    for (set, cause) in values {
        server.ask(&["DEL", KEY]);
        ask_octets(server.port, set);
        let before = server.ask(&["DUMP", KEY]);
        let unreadable = |error: &StoreError| {
            assert_told(error, StoreErrorKind::Unreadable, cause);
            assert_told(error, StoreErrorKind::Unreadable, KEY);
        };
        unreadable(&store.read(ID, Certainty::Current).await.expect_err(cause));
        if set[2] != damaged {
            // A record that is damaged at its end begins like a valid one.
            unreadable(&store.touch(ID, touch(NOW)).await.expect_err(cause));
        }
        unreadable(&store.write(ID, update("{}")).await.expect_err(cause));
        assert!(store.create(ID, record()).await.expect("the store works").is_none(), "{cause}");
        assert_eq!(server.ask(&["DUMP", KEY]), before, "{cause}: it is as it was");
        // A Destroy needs no readable record.
        let removed = store.destroy(ID, Claim::valid_id(OTHER)).await.expect("the store works");
        assert_eq!(removed, Some(Removed::Unreadable), "{cause}: expected it to be ended");
        assert_eq!(server.ask(&["EXISTS", KEY]), ":0\r\n", "{cause}: expected it to be gone");
    }
    create(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_memory_sessions_go_on_and_new_ones_are_refused() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let store = store(&server);
    create(&store).await;
    let other = PublicId::from_bytes([3; 12]);
    store.create(other, record()).await.expect("the store works").expect("the id is free");
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let full = |error: &StoreError| assert_told(error, StoreErrorKind::Full, "OOM");
    let third = PublicId::from_bytes([4; 12]);
    full(&store.create(third, record()).await.expect_err("there is no room"));
    full(&store.write(ID, update("{}")).await.expect_err("there is no room"));
    let later = NOW + Duration::from_secs(50);
    let touched = store.touch(ID, touch(later)).await.expect("a touch needs no room");
    assert!(touched.expect("it is there").moved);
    assert!(store.read(ID, Certainty::Current).await.expect("a read needs no room").is_some());
    assert!(store.destroy(other, OWN).await.expect("it makes room").is_some());
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    store.create(third, record()).await.expect("there is room again").expect("the id is free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_refused_until_it_is_promoted() {
    if is_missing() {
        return;
    }
    let (primary, server) = (RedisServer::start(), RedisServer::start());
    let store = store(&server);
    create(&store).await;
    server.ask(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
    let unavailable =
        |error: &StoreError| assert_told(error, StoreErrorKind::Unavailable, "it is a replica");
    unavailable(
        &store
            .destroy(ID, OWN)
            .await
            .map(|_| ())
            .and(refusal(&store).await)
            .expect_err("it is a replica"),
    );
    server.ask(&["REPLICAOF", "NO", "ONE"]);
    recovered(&store).await;
}

/// The first error that does not come from opening a connection.
async fn refusal(store: &RedisStore) -> Result<(), StoreError> {
    store.create(PublicId::from_bytes([5; 12]), record()).await.map(drop)
}

/// Waits until the store works.
async fn recovered(store: &RedisStore) {
    let waiting = async {
        while store.read(ID, Certainty::Current).await.is_err() || store.check().is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let patience = crate::support::program::PATIENCE;
    tokio::time::timeout(patience, waiting).await.expect("it recovers by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_is_named() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    permit(&server, &["+@all", "-setrange", "-set"]);
    let limited = store_with(&server, as_app);
    create(&store(&server)).await;
    let unavailable =
        |error: &StoreError, cause| assert_told(error, StoreErrorKind::Unavailable, cause);
    let other = PublicId::from_bytes([3; 12]);
    unavailable(&limited.create(other, record()).await.expect_err("no SET"), "'set'");
    unavailable(&limited.write(ID, update("{}")).await.expect_err("no SET"), "+set +setrange");
    let later = NOW + Duration::from_secs(50);
    let before = server.ask(&["GET", KEY]);
    let touched = limited.touch(ID, touch(later)).await.expect("no SETRANGE, and yet GET");
    assert!(!touched.expect("it is there").moved);
    assert_eq!(server.ask(&["GET", KEY]), before, "nothing is half done");
    assert_told(
        &limited.check().expect_err("no SET"),
        StoreErrorKind::Unavailable,
        "+set +setrange",
    );
    limited.check_reading().expect_err("it was never fit for use");
    assert!(limited.read(ID, Certainty::Current).await.expect("GET is allowed").is_some());
    assert!(limited.touch(ID, touch(NOW)).await.expect("nothing is due").is_some());
    assert!(life(&server) > 100_000, "and nothing ends early");
    server.ask(&["ACL", "SETUSER", "app", "+@all"]);
    assert!(limited.touch(ID, touch(later)).await.expect("it is allowed").expect("there").moved);
    recovered(&limited).await;
    server.ask(&["ACL", "SETUSER", "app", "-get"]);
    let later = later + Duration::from_secs(50);
    unavailable(&limited.touch(ID, touch(later)).await.expect_err("no GET"), "+get +set");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_and_not_repeated() {
    if is_missing() {
        return;
    }
    let server = RedisServer::with(&["--requirepass", "correct"]);
    let with = |password: &str| {
        let password = password.to_owned().into();
        store_with(&server, |options| options.login.password = password)
    };
    let error =
        with("hunter2").read(ID, Certainty::Current).await.expect_err("the password is wrong");
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    let text = error.source().expect("a cause").to_string();
    assert!(text.contains("assword"), "{text}");
    assert!(!text.contains("hunter2") && !text.contains("correct"), "{text}");
    let error = store(&server).read(ID, Certainty::Current).await.expect_err("no password");
    assert_told(&error, StoreErrorKind::Unavailable, "NOAUTH");
    assert_eq!(
        with("correct").read(ID, Certainty::Current).await.expect("the password is right"),
        None
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_redis_forgot_are_sent_again() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let store = store(&server);
    create(&store).await;
    for _ in 0..2 {
        server.ask(&["SCRIPT", "FLUSH"]);
        assert!(store.touch(ID, touch(NOW)).await.expect("the store works").is_some());
        let written = store.write(ID, update("{}")).await.expect("the store works");
        written.expect("it is there").expect("it is taken");
    }
    server.ask(&["SCRIPT", "FLUSH"]);
    assert!(store.destroy(ID, OWN).await.expect("the store works").is_some());
}

/// Commands of concurrent requests are sent together.
#[tokio::test]
async fn commands_of_different_requests_share_round_trips() {
    if is_missing() {
        return;
    }
    const AT_ONCE: usize = 64;
    const ROUNDS: usize = 20;
    let server = RedisServer::start();
    let store = store(&server);
    create(&store).await;
    let counts = || {
        let stats = server.ask(&["INFO", "stats"]);
        ["total_commands_processed:", "total_reads_processed:"].map(|name| {
            let count = stats.lines().find_map(|line| line.strip_prefix(name));
            count.expect("Redis counts it").trim().parse::<usize>().expect("a number")
        })
    };
    let before = counts();
    for _ in 0..ROUNDS {
        let touches = (0..AT_ONCE).map(|_| store.touch(ID, touch(NOW)));
        for touched in futures_util::future::join_all(touches).await {
            touched.expect("the store works").expect("it is there");
        }
    }
    let after = counts();
    let [commands, reads] = [0, 1].map(|at| after[at] - before[at]);
    assert!(commands >= AT_ONCE * ROUNDS, "expected a command for each: {commands}");
    assert!(reads * 8 < commands, "expected far fewer reads than commands: {reads} of {commands}");
}
