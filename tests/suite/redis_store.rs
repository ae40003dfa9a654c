//! The features of the redis store: its scripts, the expiry of its keys, and a Redis that
//! refuses commands.

use std::{error::Error, sync::Arc, time::Duration};

use proptest::{
    prelude::*,
    test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner},
};
use sessiond::{
    session::{
        clock::Moment,
        data::Data,
        id::{PublicId, VerifierHash},
        lifetime::{Granularity, Lifetime},
        record::{Claim, Edit, Extension, Former, Principal, Record, Touch, Update},
        store::{Certainty, Removed, Store, StoreError, StoreErrorKind},
    },
    store::{
        codec,
        redis::{RedisDatabase, RedisOptions, RedisStore},
    },
};

use tokio::runtime::Runtime;

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
const OTHER: VerifierHash = VerifierHash::from_bytes([9; 32]);
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
    Touch { verifier: VERIFIER, lifetime: LIFETIME, now }
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

/// Compares a script on a real server with the rule in this test, over many cases.
fn over_cases<V: std::fmt::Debug>(
    cases: u32,
    of: &impl Strategy<Value = V>,
    hold: impl Fn(&RedisServer, &Runtime, &RedisStore, V) -> Result<(), TestCaseError>,
) {
    let server = RedisServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let store = runtime.block_on(async { store(&server) });
    let failure_persistence = Some(Box::new(FileFailurePersistence::Off) as _);
    let config = Config { cases, failure_persistence, ..Config::default() };
    let outcome = TestRunner::new(config).run(of, |case| hold(&server, &runtime, &store, case));
    outcome.unwrap_or_else(|error| panic!("{error}"));
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

fn encoded(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(record, codec::Layout::LATEST, &mut bytes);
    bytes
}

prop_compose! {
    /// A record and a touch near all limits of the rule.
    fn record_and_touch()(
        duration in prop_oneof![1..2_000u64, 1..34_560_000_000u64],
        nanos in prop_oneof![Just(0), 1..1_000_000u32],
        fixed in prop::option::of(prop_oneof![Just(0), 1..70_000u64]),
        absolute in prop::option::of(1..40_000_000_000u64),
        own in prop::option::of(prop_oneof![1..200u64, 1..34_560_000_000u64]),
        created in prop_oneof![0..5_000u64, Just(1_800_000_000_000)],
        age in prop_oneof![0..3_000u64, 0..40_000_000_000u64],
        left in prop_oneof![-3..3i64, -70_000..70_000i64, -4_000_000_000..40_000_000_000i64],
        toward_promise in any::<bool>(),
        same_verifier in prop::bool::weighted(0.9),
    ) -> (Record, Touch) {
        let duration = Duration::from_millis(duration) + Duration::from_nanos(nanos.into());
        let granularity = match fixed {
            None => Granularity::Auto,
            Some(millis) => Granularity::Fixed(Duration::from_millis(millis)
                + Duration::from_nanos(nanos.into())),
        };
        let lifetime =
            Lifetime { duration, granularity, absolute: absolute.map(Duration::from_millis) };
        let create_time = Moment::from_unix_millis(created);
        let now = created + age;
        let own = own.map(Duration::from_millis);
        // Either about now, or about the time at which a touch begins to have an effect.
        let base = match toward_promise {
            true => Moment::from_unix_millis(now) + lifetime.duration(own),
            false => Moment::from_unix_millis(now),
        };
        let deadline = Moment::from_unix_millis(base.unix_millis().saturating_add_signed(left));
        let verifier = VerifierHash::from_bytes([if same_verifier { 1 } else { 2 }; 32]);
        let record = Record { create_time, deadline, duration: own, ..record() };
        (record, Touch { verifier, lifetime, now: Moment::from_unix_millis(now) })
    }
}

prop_compose! {
    /// A record and a claim that may or may not match.
    fn record_and_claim()(
        whose in name(),
        claimed in prop_oneof![Just(None), name().prop_map(Some)],
        kind in 0..5,
        verifier in prop_oneof![Just([1; 32]), Just([2; 32]), any::<[u8; 32]>()],
        flipped in prop::option::of(0..32usize),
        data in prop_oneof![Just("{}"), Just(r#"{"ann":"ann"}"#)],
        former in prop::collection::vec((0..3u8, 0..4u64), 0..4),
        rolled_after in 0..4u64,
        unknown in prop_oneof![Just(&b""[..]), Just(&b"\xee\0\x02ab"[..])],
    ) -> (Record, Claim) {
        let principal = |name: &str| Principal::new(name.as_bytes()).expect("short");
        let mut presented = verifier;
        if let Some(at) = flipped {
            presented[at] ^= 1;
        }
        let claim = match kind {
            0 | 1 => Claim::Presented {
                verifier: VerifierHash::from_bytes(presented),
                rolled_after: Moment::from_unix_millis(rolled_after),
            },
            2 | 3 => Claim::Principal(principal(&claimed.unwrap_or_else(|| whose.clone()))),
            _ => Claim::Operator,
        };
        let data = Data::parse(bytes::Bytes::from_static(data.as_bytes())).expect("JSON");
        let verifier = VerifierHash::from_bytes(verifier);
        let former = former.into_iter().map(|(octet, rolled)| Former {
            verifier: VerifierHash::from_bytes([octet; 32]),
            rolled: Moment::from_unix_millis(rolled),
        });
        let extension = Extension { former: former.collect(), unknown: unknown.into() };
        (Record { verifier, principal: principal(&whose), data, extension, ..record() }, claim)
    }
}

fn name() -> impl Strategy<Value = String> {
    let long = "a".repeat(Principal::MAX_LEN);
    let names = ["", "a", "an", "ann", "ann\0", "operator", "zo\u{eb}", "{}"].map(str::to_owned);
    prop_oneof![
        prop::sample::select(names.to_vec()),
        Just(long.clone()),
        Just(long[1..].to_owned()),
        "[a-b]{0,2}",
    ]
}

/// The other rule that is written a second time in a script.
#[test]
fn the_script_judges_a_claim_as_the_rule_does() {
    if is_missing() {
        return;
    }
    let held = std::cell::Cell::new(0);
    over_cases(1_000, &record_and_claim(), |server, runtime, store, (record, claim)| {
        ask_octets(server.port, &[b"SET", KEY.as_bytes(), &encoded(&record)]);
        let holds = claim.holds(&record);
        let record = Arc::new(record);
        held.set(held.get() + u32::from(holds));
        let removed = runtime.block_on(store.destroy(ID, claim)).expect("the store works");
        let kept = runtime.block_on(store.read(ID, Certainty::Current)).expect("the store works");
        let (expected_removed, expected_kept) =
            if holds { (Some(Removed::Record(record)), None) } else { (None, Some(record)) };
        prop_assert_eq!(removed, expected_removed);
        prop_assert_eq!(kept, expected_kept);
        Ok(())
    });
    assert!((200..800).contains(&held.get()), "both outcomes are common: {held:?} held");
}

/// Valid and invalid UTF-8.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let pieces = ["a\0", "\u{80}", "\u{7ff}", "\u{800}", "\u{d7ff}", "\u{e000}", "\u{ffff}"];
    let pieces = pieces.into_iter().chain(["\u{10000}", "\u{fffff}", "\u{10ffff}"]);
    let broken: [&[u8]; 8] = [
        b"\x80",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xff",
    ];
    let pieces: Vec<_> = pieces.map(str::as_bytes).chain(broken).map(<[u8]>::to_vec).collect();
    let cut =
        (prop::sample::select(pieces), prop::bool::weighted(0.05)).prop_map(|(mut piece, cut)| {
            piece.truncate(piece.len() - usize::from(cut));
            piece
        });
    prop::collection::vec(cut, 0..3).prop_map(|pieces| pieces.concat())
}

/// An extension area, which may be malformed.
fn area() -> impl Strategy<Value = Vec<u8>> {
    let field = (0..3u8, prop_oneof![Just(0usize), Just(40), Just(80), 0..90usize], -1..2i16)
        .prop_map(|(tag, len, off)| {
            let claimed = (len as i16 + off).max(0) as u16;
            [&[tag][..], &claimed.to_be_bytes(), &vec![1; len]].concat()
        });
    prop_oneof![
        3 => Just(Vec::new()),
        3 => prop::collection::vec(field, 0..3).prop_map(|fields| fields.concat()),
        1 => prop::collection::vec(any::<u8>(), 0..50),
    ]
}

/// A Destroy removes a record that cannot be decoded, with any claim.
#[test]
fn a_destroy_removes_what_cannot_be_decoded() {
    if is_missing() {
        return;
    }
    let readable = std::cell::Cell::new(0);
    let values = (text(), prop::option::of(area()), text(), any::<bool>());
    over_cases(2_000, &values, |server, runtime, store, (principal, area, data, own)| {
        let mut octets = encoded(&record())[..codec::HEADER_LEN].to_vec();
        octets[0] = if area.is_some() { 2 } else { 1 };
        octets.extend((principal.len() as u16).to_be_bytes());
        octets.extend(principal);
        if let Some(area) = area {
            octets.extend((area.len() as u16).to_be_bytes());
            octets.extend(area);
        }
        octets.extend(data);
        ask_octets(server.port, &[b"SET", KEY.as_bytes(), &octets]);
        let decoded = codec::decode(octets.into()).ok();
        readable.set(readable.get() + u32::from(decoded.is_some()));
        // Of a record that can be read, only its own id may end it.
        let claim = if own { OWN } else { Claim::valid_id(OTHER) };
        let removed = runtime.block_on(store.destroy(ID, claim)).expect("the store works");
        let expected = match decoded {
            None => Some(Removed::Unreadable),
            Some(record) if own => Some(Removed::Record(Arc::new(record))),
            Some(_) => None,
        };
        let is_left = server.ask(&["EXISTS", KEY]) == ":1\r\n";
        prop_assert_eq!(is_left, expected.is_none());
        prop_assert_eq!(removed, expected);
        Ok(())
    });
    assert!((400..1600).contains(&readable.get()), "both are common: {readable:?} readable");
}

/// A rule that is written a second time in a script.
#[test]
fn the_script_judges_a_touch_as_the_rule_does() {
    if is_missing() {
        return;
    }
    let moved = std::cell::Cell::new(0);
    over_cases(2_000, &record_and_touch(), |server, runtime, store, (record, touch)| {
        let key = KEY.as_bytes();
        ask_octets(server.port, &[b"SET", key, &encoded(&record), b"PX", b"100000000000"]);
        let expected = touch.apply(&record);
        moved.set(moved.get() + u32::from(expected.is_some()));
        let found = runtime.block_on(store.touch(ID, touch)).expect("the store works");
        let found = found.expect("it is there");
        prop_assert_eq!(found.moved, expected.is_some());
        let after = Record { deadline: expected.unwrap_or(record.deadline), ..record };
        prop_assert_eq!(found.record.as_ref(), &after);
        let kept = runtime.block_on(store.read(ID, Certainty::Current)).expect("the store works");
        prop_assert_eq!(kept, Some(Arc::new(after)));
        Ok(())
    });
    assert!((200..1800).contains(&moved.get()), "expected both outcomes often, {moved:?} moved");
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
