//! What every store does with records on their way to another one.

use std::{sync::Arc, time::Duration};

use sessiond::session::{
    record::{Claim, Record, Update},
    store::{Change, Cursor, Restored, Store},
};

use super::{NOW, create, id, listing::list, principal, record, stored, update};

pub async fn restores_later_states(store: &impl Store) {
    let restore = |record: Record| async move {
        store.restore(id(700), record, NOW).await.expect("the store works")
    };
    let of = |name: &str, version, deadline| Record {
        principal: principal(name),
        version,
        deadline: NOW + Duration::from_secs(deadline),
        ..record()
    };
    let third = of("hugo", 3, 100);
    assert_eq!(restore(third.clone()).await, Restored::Created(Arc::new(third.clone())));
    assert_eq!(list(store, "hugo").await, [id(700)], "its principal finds it");
    assert_eq!(restore(third.clone()).await, Restored::Kept, "the same once more");
    assert_eq!(restore(of("hugo", 2, 200)).await, Restored::Kept, "an earlier version");
    assert_eq!(restore(of("hugo", 3, 90)).await, Restored::Kept, "an earlier touch");
    assert_eq!(stored(store, id(700)).await.as_deref(), Some(&third));
    let mut before = third;
    // A later touch; later versions, also of somebody else's and with less time left.
    for later in [of("hugo", 3, 110), of("hugo", 4, 50), of("ines", 6, 300)] {
        let change = Change { before: Arc::new(before), after: Arc::new(later.clone()) };
        assert_eq!(restore(later.clone()).await, Restored::Replaced(change));
        assert_eq!(stored(store, id(700)).await.as_deref(), Some(&later));
        before = later;
    }
    assert_eq!((list(store, "hugo").await, list(store, "ines").await), (vec![], vec![id(700)]));
    let write = Update { principal: Some(principal("hugo")), ..update(NOW) };
    let written = store.write(id(700), write.into()).await.expect("the store works");
    written.expect("it is there").expect("what was restored goes on as any other");
    assert_eq!((list(store, "hugo").await, list(store, "ines").await), (vec![id(700)], vec![]));
    store.destroy(id(700), Claim::Operator).await.expect("the store works");
}

/// Slices go on while others come and go; what stays is in them, as it was or is.
pub async fn scans_what_stays_while_others_come_and_go(store: &impl Store) {
    for number in 0..30 {
        create(store, id(800 + number * 100), record()).await;
    }
    let (mut found, mut cursor) = (Vec::new(), None);
    for round in 0.. {
        let scanned = store.scan(cursor, 4).await.expect("the store works");
        assert_eq!(scanned.unreadable, 0);
        for (id, record) in scanned.records {
            assert_eq!(Some(record), stored(store, id).await, "as it is");
            found.push(id);
        }
        cursor = scanned.next;
        if cursor.is_none() {
            break;
        }
        create(store, id(801 + round), record()).await;
        create(store, id(3699 - round), record()).await;
        if let Some(last) = found.last().filter(|last| **last >= id(801)) {
            store.destroy(*last, Claim::Operator).await.expect("the store works");
        }
    }
    let mut stayed = (0..30).map(|number| id(800 + number * 100));
    assert!(stayed.all(|id| found.contains(&id)), "all that were there at first: {found:?}");
    // One that means nothing begins anew.
    let mut cursor = Some(Cursor("of another store".into()));
    let mut again = Vec::new();
    while cursor.is_some() {
        let scanned = store.scan(cursor, 4).await.expect("the store works");
        again.extend(scanned.records.iter().map(|(id, _)| *id));
        cursor = scanned.next;
    }
    for id in found {
        let is_there = stored(store, id).await.is_some();
        assert_eq!(again.contains(&id), is_there, "{id:?} in a scan from the beginning");
        store.destroy(id, Claim::Operator).await.expect("the store works");
    }
    for id in again {
        store.destroy(id, Claim::Operator).await.expect("the store works");
    }
}
