//! The scripts of the redis store, on a real server, beside the rules that they write a second
//! time.

use std::{sync::Arc, time::Duration};

use proptest::{
    prelude::*,
    test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner},
};
use sessiond::{
    session::{
        clock::Moment,
        data::Data,
        id::VerifierHash,
        lifetime::{Granularity, Lifetime, Times},
        record::{Claim, Extension, Former, Principal, Record, Touch},
        store::{Certainty, Removed, Store},
    },
    store::{codec, redis::RedisStore},
};
use tokio::runtime::Runtime;

use crate::{
    redis_store::{ID, KEY, OTHER, OWN, encoded, record, store},
    support::redis::{RedisServer, ask_octets, is_missing},
};

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
        touched_for in prop::option::weighted(0.2, prop_oneof![1..200u64, 1..34_560_000_000u64]),
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
        let duration = touched_for.map(Duration::from_millis);
        (record, Touch { verifier, lifetime, now: Moment::from_unix_millis(now), duration })
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
        let extension = Extension {
            former: former.collect(),
            unknown: unknown.into(),
            ..Extension::default()
        };
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
        let moves = expected.is_some_and(|times| times.deadline != record.deadline);
        prop_assert_eq!(found.moved, moves);
        let Times { deadline, duration, .. } = expected.unwrap_or(record.times());
        let after = Record { deadline, duration, ..record };
        prop_assert_eq!(found.record.as_ref(), &after);
        let kept = runtime.block_on(store.read(ID, Certainty::Current)).expect("the store works");
        prop_assert_eq!(kept, Some(Arc::new(after)));
        Ok(())
    });
    assert!((200..1800).contains(&moved.get()), "expected both outcomes often, {moved:?} moved");
}
