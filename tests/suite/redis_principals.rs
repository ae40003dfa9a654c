//! The redis store's index of principals: what a crash leaves, what is removed without help,
//! and that an entry never ends before its session.

use std::time::Duration;

use sessiond::{
    session::{
        clock::Moment,
        data::Data,
        id::{PublicId, VerifierHash},
        lifetime::{Granularity, Lifetime},
        record::{Claim, Edit, Principal, Record, Touch, Update},
        store::{BulkStore, Certainty, Store, StoreErrorKind},
    },
    store::{codec, redis::RedisStore},
};

use crate::{
    redis_store::{as_app, permit, store, store_with},
    support::redis::{RedisServer, ask_octets, is_missing},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);
/// Noon of a day in UTC.
const NOW: Moment =
    Moment::from_unix_millis(1_800_000_000_000 - 1_800_000_000_000 % 86_400_000 + 43_200_000);
const LIFETIME: Lifetime =
    Lifetime { duration: HOUR, granularity: Granularity::Fixed(Duration::ZERO), absolute: None };

fn id(number: u32) -> PublicId {
    let mut bytes = [7; 12];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    PublicId::from_bytes(bytes)
}

fn principal(name: &str) -> Principal {
    Principal::new(name.as_bytes()).expect("short")
}

fn record(name: &str) -> Record {
    Record {
        verifier: VerifierHash::from_bytes([1; 32]),
        version: 1,
        create_time: NOW,
        deadline: NOW + HOUR,
        duration: None,
        principal: principal(name),
        data: Data::EMPTY,
        extension: Default::default(),
    }
}

fn update(name: &str) -> Update {
    Update {
        verifier: VerifierHash::from_bytes([1; 32]),
        lifetime: LIFETIME,
        now: NOW,
        if_version: None,
        edit: Edit { replace: false, unset: vec![], set: Data::EMPTY, limit_bytes: 1000 },
        next_verifier: VerifierHash::from_bytes([1; 32]),
        roll_grace: Duration::from_secs(60),
        roll: false,
        principal: Some(principal(name)),
        duration: None,
        persistent: None,
        label: None,
    }
}

fn touch(now: Moment) -> Touch {
    Touch { verifier: VerifierHash::from_bytes([1; 32]), lifetime: LIFETIME, now, duration: None }
}

async fn create(store: &RedisStore, id: PublicId, name: &str) {
    store.create(id, record(name)).await.expect("the store works").expect("the id is free");
}

async fn listed(store: &RedisStore, name: &str) -> Vec<PublicId> {
    let listed =
        store.list(principal(name), None, 1000, Certainty::Current).await.expect("the store works");
    assert_eq!(listed.next, None);
    listed.records.into_iter().map(|(id, _)| id).collect()
}

/// The keys of the index.
fn index_keys(server: &RedisServer) -> Vec<String> {
    let answer = server.ask(&["KEYS", "sessiond:default:p:*"]);
    answer.lines().filter(|line| line.starts_with("sessiond:")).map(str::to_owned).collect()
}

/// The key of the only principal.
fn index_key(server: &RedisServer) -> String {
    let keys = index_keys(server);
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys.into_iter().next().expect("one")
}

fn number(answer: &str) -> i64 {
    answer.trim().trim_start_matches(':').parse().expect("a number")
}

fn entries(server: &RedisServer, key: &str) -> i64 {
    number(&server.ask(&["ZCARD", key]))
}

/// Milliseconds, by the server's clock.
fn server_time(server: &RedisServer) -> u64 {
    let answer = server.ask(&["TIME"]);
    let seconds = answer.lines().nth(2).expect("seconds");
    seconds.parse::<u64>().expect("a number") * 1000
}

/// Writes an entry directly, in the form that the table in the module documents.
fn put_entry(server: &RedisServer, key: &str, id: PublicId, version: u64, written: u64, end: u64) {
    let mut entry = id.as_bytes().to_vec();
    for number in [version, written, end] {
        entry.extend(number.to_be_bytes());
    }
    let added = ask_octets(server.port, &[b"ZADD", key.as_bytes(), b"0", &entry]);
    assert_eq!(added, b":1\r\n");
}

fn put_record(server: &RedisServer, id: PublicId, record: &Record) {
    let mut bytes = Vec::new();
    codec::encode(record, codec::Layout::LATEST, &mut bytes);
    let key = format!("sessiond:default:{id}");
    assert_eq!(ask_octets(server.port, &[b"SET", key.as_bytes(), &bytes]), b"+OK\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anonymous_sessions_cost_nothing() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let store = store(&server);
    create(&store, id(9), "").await;
    // What the store needs was tried out when it connected.
    server.ask(&["CONFIG", "RESETSTAT"]);
    create(&store, id(1), "").await;
    store.touch(id(1), touch(NOW + DAY / 48)).await.expect("works").expect("there");
    let written = store.write(id(1), update("").into()).await.expect("works").expect("there");
    written.expect("the change is accepted");
    store.destroy(id(1), Claim::Operator).await.expect("works").expect("there");
    let nobodys = store
        .list(Principal::default(), None, 9, Certainty::Current)
        .await
        .expect("the store works");
    assert_eq!(nobodys.records, []);
    let asked = server.ask(&["INFO", "commandstats"]);
    for command in ["cmdstat_zadd", "cmdstat_zrem", "cmdstat_zrange"] {
        assert!(!asked.contains(command), "expected no {command}: {asked}");
    }
}

/// The entry is written first. So a crash can leave an entry without a record, but never a
/// record without an entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_did_not_come_is_not_listed() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    permit(&server, &["+@all", "-set"]);
    let stops_half_way = store_with(&server, as_app);
    stops_half_way.create(id(1), record("ann")).await.expect_err("no SET");
    let store = store(&server);
    create(&store, id(2), "").await;
    stops_half_way.write(id(2), update("ann").into()).await.expect_err("no SET");
    let key = index_key(&server);
    assert_eq!(entries(&server, &key), 2, "expected both entries before the changes");
    assert_eq!(listed(&store, "ann").await, []);
    assert_eq!(
        entries(&server, &key),
        2,
        "expected the entries to stay, because the changes may still be in progress"
    );
    create(&store, id(1), "ann").await;
    store.write(id(2), update("ann").into()).await.expect("works").expect("there").expect("taken");
    assert_eq!(listed(&store, "ann").await, [id(1), id(2)]);
    assert_eq!(entries(&server, &key), 2, "expected one entry for each session");
}

/// Each half-written state, and whether a change in progress may still need it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_drops_what_nothing_can_need() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let store = store(&server);
    create(&store, id(0), "ann").await;
    let key = index_key(&server);
    let (young, old) = (server_time(&server), server_time(&server) - 400_000);
    let end = young + 1_000_000_000;
    let bobs = |version| Some(Record { version, ..record("bob") });
    let cases = [
        (1, young, None, true, "a creation in progress"),
        (1, old, None, false, "a creation that never happened, or a session that has ended"),
        (2, young, None, false, "a session that has ended: only a creation makes one"),
        (3, young, bobs(2), true, "a login in progress"),
        (3, old, bobs(2), false, "a login that never happened"),
        (3, young, bobs(3), false, "a login that another change overtook"),
        (3, young, bobs(4), false, "a session that belongs to another principal"),
    ];
    for (at, (version, written, stored, ..)) in cases.iter().enumerate() {
        let id = id(1 + at as u32);
        put_entry(&server, &key, id, *version, *written, end);
        if let Some(record) = stored {
            put_record(&server, id, record);
        }
    }
    // An id with two entries, and an unreadable record.
    put_entry(&server, &key, id(0), 9, old, end);
    put_entry(&server, &key, id(20), 1, old, end);
    server.ask(&["SET", &format!("sessiond:default:{}", id(20)), "mine"]);
    assert_eq!(listed(&store, "ann").await, [id(0)]);
    for (at, (.., stays, what)) in cases.iter().enumerate() {
        let id = id(1 + at as u32);
        let (from, to) = (
            [b"[", id.as_bytes().as_slice()].concat(),
            [b"[", id.as_bytes().as_slice(), &[0xff]].concat(),
        );
        let counted = ask_octets(server.port, &[b"ZLEXCOUNT", key.as_bytes(), &from, &to]);
        let expected = if *stays { b":1\r\n" } else { b":0\r\n" };
        assert_eq!(counted, expected, "{what}");
    }
    assert_eq!(
        entries(&server, &key),
        2 + 2 + 1,
        "expected the entries of unreadable records to stay"
    );
}

/// An end of a session removes its entry, but no later one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_is_tidied_up() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let store = store(&server);
    create(&store, id(1), "ann").await;
    create(&store, id(2), "ann").await;
    let key = index_key(&server);
    for round in 0..50 {
        for name in ["", "ann"] {
            let written = store.write(id(1), update(name).into()).await.expect("works");
            written.expect("there").expect("taken");
        }
        assert_eq!(listed(&store, "ann").await, [id(1), id(2)], "after {round} logouts and logins");
    }
    store.destroy(id(1), Claim::Principal(principal("ann"))).await.expect("works").expect("there");
    server.wait_for(&["ZCARD", &key], ":1\r\n");
    store.destroy(id(2), Claim::Operator).await.expect("works").expect("there");
    server.wait_for(&["EXISTS", &key], ":0\r\n");
    // The entry of a login that follows the end of ann's sessions must stay.
    create(&store, id(3), "ann").await;
    let now = server_time(&server);
    put_entry(&server, &key, id(3), 3, now, now + 1_000_000_000);
    store.write(id(3), update("").into()).await.expect("works").expect("there").expect("taken");
    server.wait_for(&["ZCARD", &key], ":1\r\n");
}

/// Redis removes expired sessions without a notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_are_over_go_with_new_ones() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let store = store(&server);
    create(&store, id(1000), "ann").await;
    let key = index_key(&server);
    let long_ago = server_time(&server) - 1_000_000_000;
    for number in 0..100 {
        put_entry(&server, &key, id(number), 1, long_ago, long_ago + 1);
    }
    for number in 1001..1100 {
        create(&store, id(number), "ann").await;
    }
    let found = entries(&server, &key);
    assert!(
        (100..=110).contains(&found),
        "expected 100 live entries and few others, found {found}"
    );
    assert_eq!(listed(&store, "ann").await.len(), 100);
    assert_eq!(entries(&server, &key), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_ends_no_earlier_than_its_sessions() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let store = store_with(&server, |options| options.expiry_grace = Duration::from_secs(7));
    create(&store, id(1), "ann").await;
    let key = index_key(&server);
    let near = |key: &str, expected: Duration| {
        let expected = expected.as_millis() as i64 + 7_000;
        let found = number(&server.ask(&["PTTL", key]));
        assert!(
            (expected - 20_000..=expected).contains(&found),
            "expected about {expected} ms, found {found}"
        );
    };
    // From noon to the end of the next day, plus the duration of the session.
    near(&key, HOUR * 37);
    let shorter = Record { deadline: NOW + Duration::from_secs(1), ..record("ann") };
    store.create(id(2), shorter).await.expect("the store works").expect("the id is free");
    near(&key, HOUR * 37);
    let added = || {
        let asked = server.ask(&["INFO", "commandstats"]);
        let line = asked.lines().find(|line| line.starts_with("cmdstat_zadd:"));
        line.and_then(|line| line.split(['=', ',']).nth(1)).expect("a count").to_owned()
    };
    let before = added();
    for minutes in 1..600 {
        let now = NOW + Duration::from_secs(60 * minutes);
        assert!(store.touch(id(1), touch(now)).await.expect("works").expect("there").moved);
    }
    assert_eq!(added(), before, "expected no index entries for touches within a day");
    // At 22:50 and at 23:40. At 23:40 the new deadline is on the next day.
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    for minutes in [650, 700] {
        let now = NOW + Duration::from_secs(60 * minutes);
        assert!(store.touch(id(1), touch(now)).await.expect("works").expect("there").moved);
    }
    let renewed = || number(&server.ask(&["PTTL", &key])) > (HOUR * 40).as_millis() as i64;
    let since = std::time::Instant::now();
    while !renewed() {
        assert!(
            since.elapsed() < crate::support::program::PATIENCE,
            "expected the entry to be renewed even without memory"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The end of the last entry in the index, by the server's clock.
fn last_end(server: &RedisServer, key: &str) -> u64 {
    let entries = ask_octets(server.port, &[b"ZRANGE", key.as_bytes(), b"-1", b"-1"]);
    let entry = entries.strip_suffix(b"\r\n").expect("an answer");
    u64::from_be_bytes(*entry.last_chunk().expect("an entry"))
}

/// With one operation at a time, no renewal in the background gets a slot: all are lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_much_longer_life_is_in_the_index_before_the_session_has_it() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    permit(&server, &["+@all", "-set"]);
    let store = store_with(&server, |options| options.max_pending = 1);
    let stops_half_way = store_with(&server, |options| {
        options.max_pending = 1;
        as_app(options);
    });
    create(&store, id(1), "ann").await;
    let key = index_key(&server);
    let covers = |life: Duration, what: &str| {
        let life = life.as_millis() as u64;
        assert!(number(&server.ask(&["PTTL", &key])) as u64 > life, "the key: {what}");
        assert!(last_end(&server, &key) > server_time(&server) + life, "the entry: {what}");
    };
    let longer = |days| Update { duration: Some(DAY * days), ..update("ann") };
    store.write(id(1), update("ann").into()).await.expect("works").expect("there").expect("taken");
    assert!(number(&server.ask(&["PTTL", &key])) < (DAY * 3).as_millis() as i64);
    stops_half_way.write(id(1), longer(10).into()).await.expect_err("no SET");
    covers(DAY * 10, "before the change");
    store.write(id(1), longer(30).into()).await.expect("works").expect("there").expect("taken");
    covers(DAY * 30, "after a Write");
    assert_eq!(entries(&server, &key), 1, "expected one entry for each session");
    let later = Record { version: 9, deadline: NOW + DAY * 90, ..record("ann") };
    store.restore(id(1), later, NOW).await.expect("the store works");
    covers(DAY * 90, "after an import");
    assert_eq!(listed(&store, "ann").await, [id(1)]);
}

/// A login without free memory leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_memory_a_login_is_refused() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let store = store(&server);
    create(&store, id(1), "").await;
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let created =
        store.create(id(2), record("ann")).await.expect_err("expected an error without memory");
    let written = store
        .write(id(1), update("ann").into())
        .await
        .expect_err("expected an error without memory");
    for error in [created, written] {
        assert_eq!(error.kind, StoreErrorKind::Full, "{error}");
    }
    assert_eq!(index_keys(&server), [""; 0]);
}
