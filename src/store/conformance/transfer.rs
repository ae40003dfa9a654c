//! Scan and restore, for export and import.

use std::{sync::Arc, time::Duration};

use super::{
    answered, create, found,
    listing::list,
    sample::{NOW, id, principal, record, update},
    stored,
};
use crate::session::{
    record::{Claim, Record, Update},
    store::{Change, Cursor, Restored, Store},
};

pub(super) async fn restores_later_states(store: &dyn Store) {
    let restore =
        |record: Record| async move { answered(store.restore(id(700), record, NOW).await) };
    let of = |name: &str, version, deadline| Record {
        principal: principal(name),
        version,
        deadline: NOW + Duration::from_secs(deadline),
        ..record()
    };
    let third = of("hugo", 3, 100);
    let created = Restored::Created(Arc::new(third.clone()));
    assert_eq!(restore(third.clone()).await, created, "expected a new record");
    assert_eq!(list(store, "hugo").await, [id(700)], "expected its principal to find it");
    let kept = Restored::Kept;
    assert_eq!(restore(third.clone()).await, kept, "expected no change by the same record");
    assert_eq!(restore(of("hugo", 2, 200)).await, kept, "expected no change by an older version");
    assert_eq!(restore(of("hugo", 3, 90)).await, kept, "expected no change by an older touch");
    let unchanged = stored(store, id(700)).await;
    assert_eq!(unchanged.as_deref(), Some(&third), "expected the record to stay");
    let mut before = third;
    // A later touch, then later versions: one with less time left, one of another principal.
    for later in [of("hugo", 3, 110), of("hugo", 4, 50), of("ines", 6, 300)] {
        let change = Change { before: Arc::new(before), after: Arc::new(later.clone()) };
        let replaced = Restored::Replaced(change);
        assert_eq!(restore(later.clone()).await, replaced, "expected the later record");
        let now = stored(store, id(700)).await;
        assert_eq!(now.as_deref(), Some(&later), "expected the later record to be stored");
        before = later;
    }
    assert_eq!(list(store, "hugo").await, [], "expected it to leave its old principal");
    assert_eq!(list(store, "ines").await, [id(700)], "expected it at its new principal");
    let write = Update { principal: Some(principal("hugo")), ..update(NOW) };
    let written = found(store.write(id(700), write.into()).await);
    written.expect("expected a write to a restored record to succeed");
    assert_eq!(list(store, "hugo").await, [id(700)], "expected the write to move it");
    assert_eq!(list(store, "ines").await, [], "expected the write to move it");
    answered(store.destroy(id(700), Claim::Operator).await);
}

/// Slices are read while records come and go. Each record that stays is in them.
pub(super) async fn scans_what_stays_during_changes(store: &dyn Store) {
    for number in 0..30 {
        create(store, id(800 + number * 100), record()).await;
    }
    let (mut ids, mut cursor) = (Vec::new(), None);
    for round in 0.. {
        let scanned = answered(store.scan(cursor, 4).await);
        assert_eq!(scanned.unreadable, 0, "expected every record to be readable");
        for (id, record) in scanned.records {
            assert_eq!(Some(record), stored(store, id).await, "expected what read finds");
            ids.push(id);
        }
        cursor = scanned.next;
        if cursor.is_none() {
            break;
        }
        create(store, id(801 + round), record()).await;
        create(store, id(3699 - round), record()).await;
        if let Some(last) = ids.last().filter(|last| **last >= id(801)) {
            answered(store.destroy(*last, Claim::Operator).await);
        }
    }
    let mut stayed = (0..30).map(|number| id(800 + number * 100));
    assert!(stayed.all(|id| ids.contains(&id)), "expected all first records, found {ids:?}");
    // A cursor of another store starts from the beginning.
    let mut cursor = Some(Cursor("of another store".into()));
    let mut again = Vec::new();
    while cursor.is_some() {
        let scanned = answered(store.scan(cursor, 4).await);
        again.extend(scanned.records.iter().map(|(id, _)| *id));
        cursor = scanned.next;
    }
    for id in ids {
        let is_there = stored(store, id).await.is_some();
        let is_found = again.contains(&id);
        assert_eq!(is_found, is_there, "expected {id:?} in a scan from the beginning if it exists");
        answered(store.destroy(id, Claim::Operator).await);
    }
    for id in again {
        answered(store.destroy(id, Claim::Operator).await);
    }
}
