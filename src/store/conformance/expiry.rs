//! Cleanup, and the number of records.

use std::time::Duration;

use super::{
    answered, create, found,
    listing::list,
    sample::{DURATION, GRANULARITY, NOW, id, own, principal, record, touch, update},
    stored,
};
use crate::session::{
    clock::Moment,
    record::{Principal, Record, Touch, Update},
    store::{Certainty, Expired, Store},
};

/// Removes all that is due, and returns how many records that were.
async fn sweep(store: &dyn Store, now: Moment) -> usize {
    let mut removed = 0;
    loop {
        let swept = answered(store.cleanup(now, 7).await);
        assert!(swept.examined <= 7, "expected at most 7 entries, found {}", swept.examined);
        removed += swept.removed.len();
        if swept.examined < 7 {
            let next = swept.next;
            assert!(next.is_none_or(|next| next > now), "expected no due entry to be left");
            return removed;
        }
    }
}

pub(super) async fn removes_expired_records(store: &dyn Store) {
    let start = NOW + Duration::from_secs(1_000_000);
    assert_eq!(sweep(store, start).await, 0, "expected an empty store");
    assert_eq!(store.count(), Some(0), "expected an empty store to count 0");
    for number in 0..20 {
        let deadline = start + Duration::from_secs(100 + u64::from(number));
        create(store, id(100 + number), Record { deadline, ..record() }).await;
    }
    // Number 3 is touched, so its index entry may be too early now.
    let alive = Touch { now: start + Duration::from_secs(90), ..touch(start) };
    found(store.touch(id(103), alive).await);
    // Number 4 is destroyed, and so is its index entry.
    found(store.destroy(id(104), own(1)).await);
    let at = |secs| start + Duration::from_secs(secs);
    let early = answered(store.cleanup(at(99), 100).await);
    let counts = (early.examined, early.removed.len());
    assert_eq!(counts, (0, 0), "expected nothing to be due");
    assert_eq!(early.next, Some(at(100)), "expected the earliest deadline");
    let due = answered(store.cleanup(at(109), 100).await);
    assert_eq!(due.examined, 9, "expected entries 0 to 9 without 4");
    assert_eq!(due.removed.len(), 8, "expected records 0 to 9 without 3 and 4");
    let reached = stored(store, id(109)).await;
    assert_eq!(reached, None, "expected a record to be removed when its deadline is reached");
    assert!(stored(store, id(110)).await.is_some(), "expected later records to stay");
    assert!(stored(store, id(103)).await.is_some(), "expected a touched record to stay");
    assert_eq!(sweep(store, at(109)).await, 0, "expected nothing more at the same time");
    assert_eq!(sweep(store, at(199)).await, 10, "expected records 10 to 19");
    assert!(stored(store, id(103)).await.is_some(), "expected the touched record to stay");
    assert_eq!(sweep(store, at(200)).await, 1, "expected the touched record at its deadline");
    assert_eq!(store.count(), Some(0), "expected all to be removed");
}

pub(super) async fn follows_a_shortened_deadline(store: &dyn Store) {
    let start = NOW + Duration::from_secs(3_000_000);
    let long =
        Record { deadline: start + DURATION * 100, duration: Some(DURATION * 100), ..record() };
    create(store, id(200), long).await;
    let shorten = Update { duration: Some(DURATION), ..update(start) };
    let change = found(store.write(id(200), shorten.into()).await);
    let deadline = change.expect("expected the write to succeed").after.deadline;
    assert_eq!(deadline, start + DURATION + GRANULARITY, "expected an earlier deadline");
    assert_eq!(sweep(store, deadline).await, 1, "expected it to be removed at its new deadline");
    let late = answered(store.cleanup(start + DURATION * 101, 100).await);
    assert_eq!(late.examined, 0, "expected no entry at the old deadline");
}

pub(super) async fn names_the_removed_records(store: &dyn Store) {
    let start = NOW + Duration::from_secs(5_000_000);
    create(store, id(250), Record { deadline: start, ..record() }).await;
    let anonymous = Record { principal: Principal::default(), deadline: start, ..record() };
    create(store, id(251), anonymous).await;
    let swept = answered(store.cleanup(start, 7).await);
    let expected = [
        Expired { id: id(250), principal: principal("ann") },
        Expired { id: id(251), principal: Principal::default() },
    ];
    assert_eq!(swept.removed, expected, "expected the ids and principals, in order");
}

pub(super) async fn lists_until_removed(store: &dyn Store) {
    create(store, id(560), Record { principal: principal("gus"), ..record() }).await;
    let far = NOW + Duration::from_secs(6_000_000);
    let listed = answered(store.list(principal("gus"), None, 9, Certainty::Current).await);
    let expired = listed.records.first().is_some_and(|(_, record)| record.deadline < far);
    assert!(expired, "expected an expired record to be listed until a cleanup removes it");
    sweep(store, far).await;
    assert_eq!(list(store, "gus").await, [], "expected nothing after the cleanup");
}

pub(super) async fn counts_its_records(store: &dyn Store) {
    assert_eq!(store.count(), Some(0), "expected an empty store to count 0");
    let start = NOW + Duration::from_secs(9_000_000);
    for number in 0..5 {
        create(store, id(300 + number), Record { deadline: start, ..record() }).await;
    }
    assert_eq!(store.count(), Some(5), "expected five new records to be counted");
    answered(store.destroy(id(300), own(1)).await);
    answered(store.destroy(id(300), own(1)).await);
    assert_eq!(store.count(), Some(4), "expected a destroyed record to be counted off once");
    assert_eq!(sweep(store, start).await, 4, "expected four records to be due");
    assert_eq!(store.count(), Some(0), "expected removed records to be counted off");
}
