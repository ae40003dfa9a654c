//! One record: create, touch, write, destroy.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    answered, create, found,
    sample::{
        DURATION, GRANULARITY, NOW, id, json, own, principal, record, touch, update, verifier,
    },
    stored,
};
use crate::session::{
    clock::Moment,
    record::{Claim, Edit, Extension, Former, Principal, Record, Refusal, Touch, Update},
    store::{Change, Removed, Store},
};

/// The change of a write that must succeed.
async fn written(store: &dyn Store, number: u32, update: Update) -> Change {
    let written = found(store.write(id(number), Arc::new(update)).await);
    written.unwrap_or_else(|refusal| panic!("expected the write to succeed, found {refusal:?}"))
}

pub(super) async fn creates_once(store: &dyn Store) {
    assert_eq!(stored(store, id(1)).await, None, "expected an empty store");
    let created = create(store, id(1), record()).await;
    assert_eq!(*created, record(), "expected create to return the record");
    let other = Record { version: 9, ..record() };
    let again = answered(store.create(id(1), other).await);
    assert_eq!(again, None, "expected None, because the id is taken");
    let first = stored(store, id(1)).await;
    assert_eq!(first.as_deref(), Some(&record()), "expected the first record to stay");
}

pub(super) async fn touches_live_records(store: &dyn Store) {
    create(store, id(2), record()).await;
    let touched = |touch| async move { found(store.touch(id(2), touch).await) };
    let early = touched(touch(NOW + Duration::from_secs(9))).await;
    assert!(!early.moved, "expected no change while the deadline is late enough");
    let due = NOW + Duration::from_secs(11);
    let late = touched(touch(due)).await;
    assert!(late.moved, "expected the deadline to move after the granularity");
    assert_eq!(late.record.deadline, due + DURATION + GRANULARITY, "expected this deadline");
    let kept = stored(store, id(2)).await;
    assert_eq!(kept, Some(late.record.clone()), "expected the touch to be stored");
    assert_eq!(late.record.version, 1, "expected a touch to keep the version");
    let rolled = touched(Touch { verifier: verifier(9), ..touch(due + DURATION / 2) }).await;
    assert!(!rolled.moved, "expected a touch with another verifier to change nothing");
    let dead = touched(touch(due + DURATION * 2)).await;
    assert!(!dead.moved, "expected an expired record to stay expired");
    let kept = stored(store, id(2)).await;
    assert_eq!(kept, Some(late.record), "expected these two touches to store nothing");
    let absent = answered(store.touch(id(99), touch(NOW)).await);
    assert!(absent.is_none(), "expected None for a touch without a record");
    assert_eq!(stored(store, id(99)).await, None, "expected a touch to create nothing");
}

pub(super) async fn writes_live_records(store: &dyn Store) {
    create(store, id(3), record()).await;
    let later = NOW + Duration::from_secs(50);
    let change = written(store, 3, update(later)).await;
    assert_eq!(*change.before, record(), "expected the record as it was before");
    let after = change.after;
    assert_eq!(after.version, 2, "expected the next version");
    assert_eq!(after.data, json(r#"{"a":3,"b":2}"#), "expected the members to be merged");
    let deadline = later + DURATION + GRANULARITY;
    assert_eq!(after.deadline, deadline, "expected a write to move the deadline as a touch does");
    assert_eq!(after.verifier, verifier(1), "expected the same verifier without a roll");
    assert_eq!(stored(store, id(3)).await, Some(after), "expected the write to be stored");
    let rolled = written(store, 3, Update { roll: true, ..update(later) }).await.after;
    let (next, version) = (rolled.verifier, rolled.version);
    assert_eq!((next, version), (verifier(2), 3), "expected the next verifier and version");
    assert_eq!(stored(store, id(3)).await, Some(rolled), "expected the roll to be stored");
    let absent = answered(store.write(id(99), Arc::new(update(NOW))).await);
    assert!(absent.is_none(), "expected None for a write without a record");
    assert_eq!(stored(store, id(99)).await, None, "expected a write to create nothing");
}

pub(super) async fn refuses_without_a_change(store: &dyn Store) {
    create(store, id(4), record()).await;
    let over = NOW + DURATION + GRANULARITY;
    let tight = Edit { set: json(r#"{"c":3}"#), limit_bytes: 5, ..update(NOW).edit };
    for (update, expected) in [
        (Update { verifier: verifier(9), ..update(NOW) }, Refusal::Superseded),
        (update(over), Refusal::Expired),
        (Update { if_version: Some(2), ..update(NOW) }, Refusal::VersionMismatch { current: 1 }),
        (
            Update { edit: tight, ..update(NOW) },
            Refusal::TooLarge { len_bytes: 19, limit_bytes: 5 },
        ),
    ] {
        let refused = found(store.write(id(4), Arc::new(update)).await);
        assert_eq!(refused, Err(expected), "expected the write to be refused");
        let kept = stored(store, id(4)).await;
        assert_eq!(kept.as_deref(), Some(&record()), "expected a refused write to store nothing");
    }
}

pub(super) async fn destroys_durably(store: &dyn Store) {
    create(store, id(5), record()).await;
    let destroy = |octet| async move { answered(store.destroy(id(5), own(octet)).await) };
    assert_eq!(destroy(9).await, None, "expected None with another verifier");
    assert!(stored(store, id(5)).await.is_some(), "expected the record to stay");
    let removed = destroy(1).await;
    let expected = Removed::Record(Arc::new(record()));
    assert_eq!(removed, Some(expected), "expected the removed record");
    assert_eq!(destroy(1).await, None, "expected None, because it is destroyed already");
    assert_eq!(stored(store, id(5)).await, None, "expected the record to be gone");
    let touched = answered(store.touch(id(5), touch(NOW)).await);
    assert!(touched.is_none(), "expected None for a touch of a destroyed record");
    let written = answered(store.write(id(5), Arc::new(update(NOW))).await);
    assert!(written.is_none(), "expected None for a write of a destroyed record");
    assert_eq!(stored(store, id(5)).await, None, "expected it to stay destroyed");
}

pub(super) async fn destroys_by_claim(store: &dyn Store) {
    create(store, id(260), record()).await;
    let destroy = |claim| async move { answered(store.destroy(id(260), claim).await) };
    let of = |name| Claim::Principal(principal(name));
    assert_eq!(destroy(of("bob")).await, None, "expected None, because ann owns the record");
    let anonymous = Claim::Principal(Principal::default());
    assert_eq!(destroy(anonymous).await, None, "expected None, because ann owns the record");
    assert!(stored(store, id(260)).await.is_some(), "expected the record to stay");
    assert!(destroy(of("ann")).await.is_some(), "expected ann's record to be removed");
    assert_eq!(destroy(of("ann")).await, None, "expected None, because it is gone");
    create(store, id(260), record()).await;
    let removed = destroy(Claim::Operator).await;
    assert!(removed.is_some(), "expected the operator to remove any record");
    assert_eq!(destroy(Claim::Operator).await, None, "expected None, because it is gone");
}

/// An id that was rolled a moment before still ends the session, and nothing else does.
pub(super) async fn destroys_by_a_former_id(store: &dyn Store) {
    let rolled = async |number, rolls: u8| {
        create(store, id(number), record()).await;
        for octet in 1..=rolls {
            let update = Update {
                verifier: verifier(octet),
                next_verifier: verifier(octet + 1),
                roll: true,
                ..update(NOW + Duration::from_secs(octet.into()))
            };
            let written = found(store.write(id(number), Arc::new(update)).await);
            written.expect("expected the write to roll the id");
        }
    };
    let destroy = async |number, octet, rolled_after: Moment| {
        let claim = Claim::Presented { verifier: verifier(octet), rolled_after };
        answered(store.destroy(id(number), claim).await)
    };
    let at = |secs| NOW + Duration::from_secs(secs);
    rolled(270, 2).await;
    for (octet, rolled_after) in [(1, at(1)), (2, at(2)), (9, NOW)] {
        let destroyed = destroy(270, octet, rolled_after).await;
        assert_eq!(destroyed, None, "expected None for verifier {octet}, rolled too long ago");
    }
    let kept = stored(store, id(270)).await.expect("expected the record to stay");
    let former = |octet, secs| Former { verifier: verifier(octet), rolled: at(secs) };
    assert_eq!(kept.extension.former, [former(1, 1), former(2, 2)], "expected both rolls");
    assert!(destroy(270, 1, NOW).await.is_some(), "expected the first id to end the session");
    assert_eq!(stored(store, id(270)).await, None, "expected the record to be gone");
    rolled(270, 2).await;
    assert!(destroy(270, 2, at(1)).await.is_some(), "expected the former id to end the session");
    rolled(270, 1).await;
    assert!(destroy(270, 2, Moment::LAST).await.is_some(), "expected the valid id to end it");
    // Only some are kept.
    let most = Extension::MAX_FORMER as u8;
    rolled(270, most + 1).await;
    assert_eq!(destroy(270, 1, NOW).await, None, "expected the oldest of too many to be dropped");
    assert!(destroy(270, 2, NOW).await.is_some(), "expected the others to be kept");
}

/// A change keeps what a later release has written.
pub(super) async fn keeps_unknown_fields(store: &dyn Store) {
    let unknown = Bytes::from_static(b"\xee\x00\x03new");
    let extension = Extension { unknown: unknown.clone(), ..Extension::default() };
    create(store, id(280), Record { extension, ..record() }).await;
    let found_unknown = async || {
        let record = stored(store, id(280)).await.expect("expected the record to be there");
        record.extension.unknown.clone()
    };
    assert_eq!(found_unknown().await, unknown, "expected them after a create");
    found(store.touch(id(280), touch(NOW + DURATION / 2)).await);
    assert_eq!(found_unknown().await, unknown, "expected them after a touch");
    let roll = Update { roll: true, ..update(NOW) };
    found(store.write(id(280), Arc::new(roll)).await).expect("expected the write to succeed");
    assert_eq!(found_unknown().await, unknown, "expected them after a write");
    assert!(answered(store.destroy(id(280), own(2)).await).is_some(), "expected it to be ended");
}

/// Many writers on one record: each version is given once, and no write is lost.
pub(super) async fn serializes_writes(store: Arc<dyn Store>) {
    const WRITERS: u64 = 8;
    const WRITES: u64 = 25;
    create(store.as_ref(), id(400), record()).await;
    let writers = (0..WRITERS).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut versions = Vec::new();
            for write in 0..WRITES {
                let set = json(&format!(r#"{{"w{writer}":{write}}}"#));
                let edit = Edit { set, ..update(NOW).edit };
                let change = written(store.as_ref(), 400, Update { edit, ..update(NOW) }).await;
                versions.push(change.after.version);
            }
            versions
        })
    });
    let writers: Vec<_> = writers.collect();
    // A touch in between must not write back what it has read before a write.
    let toucher = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for step in 1..100 {
                answered(store.touch(id(400), touch(NOW + GRANULARITY * 2 * step)).await);
            }
        })
    };
    let mut versions = Vec::new();
    for writer in writers {
        versions.extend(writer.await.expect("expected a writer to finish"));
    }
    toucher.await.expect("expected the touches to finish");
    versions.sort_unstable();
    let all: Vec<_> = (2..2 + WRITERS * WRITES).collect();
    assert_eq!(versions, all, "expected each version once");
    let last = stored(store.as_ref(), id(400)).await.expect("expected the record to be there");
    let data: BTreeMap<String, u64> =
        serde_json::from_slice(last.data.text()).expect("expected numbers by name");
    for writer in 0..WRITERS {
        let last = data.get(&format!("w{writer}"));
        assert_eq!(last, Some(&(WRITES - 1)), "expected the last write of writer {writer}");
    }
}
