//! What every store does with the sessions of a principal.

use std::time::Duration;

use sessiond::session::{
    id::PublicId,
    record::{Claim, Principal, Record, Update},
    store::{Certainty, Listed, Store},
};

use super::{NOW, create, id, principal, record, stored, sweep, update, verifier};

/// The ids of all that a principal has, in pages of two.
pub async fn list(store: &impl Store, name: &str) -> Vec<PublicId> {
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let listed = store
            .list(principal(name), after, 2, Certainty::Current)
            .await
            .expect("the store works");
        assert!(listed.records.len() <= 2, "a page has a limit");
        let durable = store
            .list(principal(name), after, 2, Certainty::Durable)
            .await
            .expect("the store works");
        assert_eq!(durable, listed, "it finds the same");
        for (id, record) in &listed.records {
            assert_eq!(record.principal, principal(name), "it lists nobody else's");
            assert_eq!(stored(store, *id).await.as_ref(), Some(record));
        }
        ids.extend(listed.records.into_iter().map(|(id, _)| id));
        after = listed.next;
        if after.is_none() {
            return ids;
        }
    }
}

pub async fn lists_a_principal_in_pages(store: &impl Store) {
    let names = ["cleo", "cle", "cleo\0", &"c".repeat(256)];
    for number in 0..20 {
        let principal = principal(names[number as usize % 4]);
        // Not in the order of ids.
        let id = id(500 + number * 7 % 20);
        create(store, id, Record { principal, ..record() }).await;
    }
    create(store, id(520), Record { principal: Principal::default(), ..record() }).await;
    for (at, name) in names.iter().enumerate() {
        let mut expected: Vec<_> = (0..20)
            .filter(|number| number % 4 == at)
            .map(|n| id(500 + n as u32 * 7 % 20))
            .collect();
        expected.sort_unstable();
        assert_eq!(list(store, name).await, expected, "{name:?}, in the order of ids");
    }
    assert_eq!(list(store, "nobody").await, []);
    let nobodys = store
        .list(Principal::default(), None, 9, Certainty::Current)
        .await
        .expect("the store works");
    assert_eq!(nobodys, Listed::default(), "what is nobody's can not be listed");
    let nobodys =
        store.list(Principal::default(), None, 9, Certainty::Durable).await.expect("it works");
    assert_eq!(nobodys, Listed::default(), "for good either");
    let all = list(store, "cleo").await;
    let exact = store
        .list(principal("cleo"), None, all.len(), Certainty::Current)
        .await
        .expect("the store works");
    assert_eq!((exact.records.len(), exact.next), (all.len(), None), "there is no page after it");
    let last = store
        .list(principal("cleo"), all.last().copied(), 9, Certainty::Current)
        .await
        .expect("it works");
    assert_eq!(last, Listed::default(), "nothing comes after the last");
    let between = store
        .list(principal("cleo"), Some(id(501)), 1, Certainty::Current)
        .await
        .expect("it works");
    assert_eq!(between.records[0].0, all[1], "after an id that is somebody else's");
    let least =
        store.list(principal("cleo"), None, 0, Certainty::Current).await.expect("the store works");
    assert_eq!(least.next, Some(all[0]), "it always goes on");
    for number in 500..521 {
        store.destroy(id(number), Claim::Operator).await.expect("the store works");
    }
    for name in names {
        assert_eq!(list(store, name).await, [], "{name:?} has none any more");
    }
}

pub async fn lists_what_it_has_become(store: &impl Store) {
    let nobodys = Record { principal: Principal::default(), ..record() };
    create(store, id(550), nobodys).await;
    let give = |name: &'static str, octet: u8| async move {
        let given = Some(principal(name));
        let next_verifier = verifier(octet + 1);
        let update =
            Update { principal: given, verifier: verifier(octet), next_verifier, ..update(NOW) };
        store.write(id(550), update.into()).await.expect("it works").expect("there").expect("taken")
    };
    give("dora", 1).await;
    assert_eq!(list(store, "dora").await, [id(550)], "after a login");
    give("dora", 2).await;
    assert_eq!(list(store, "dora").await, [id(550)], "the same again");
    give("emil", 2).await;
    assert_eq!((list(store, "dora").await, list(store, "emil").await), (vec![], vec![id(550)]));
    give("", 3).await;
    assert_eq!(list(store, "emil").await, [], "after it became anonymous");
    give("emil", 4).await;
    assert_eq!(list(store, "emil").await, [id(550)], "and his again");
}

pub async fn lists_until_it_is_swept(store: &impl Store) {
    create(store, id(560), Record { principal: principal("gus"), ..record() }).await;
    let far = NOW + Duration::from_secs(6_000_000);
    let due =
        store.list(principal("gus"), None, 9, Certainty::Current).await.expect("the store works");
    assert!(due.records[0].1.deadline < far, "listed until it is swept");
    sweep(store, far).await;
    assert_eq!(list(store, "gus").await, [], "after the sweep");
}

/// Pages go on while others come and go; what stays is in them, once.
pub async fn lists_what_stays_while_others_come_and_go(store: &impl Store) {
    let of_fay = || Record { principal: principal("fay"), ..record() };
    for number in 0..10 {
        create(store, id(600 + number * 10), of_fay()).await;
    }
    let (mut found, mut after) = (Vec::new(), None);
    for round in 0.. {
        let listed = store
            .list(principal("fay"), after, 3, Certainty::Current)
            .await
            .expect("the store works");
        found.extend(listed.records.iter().map(|(id, _)| *id));
        after = listed.next;
        if after.is_none() {
            break;
        }
        // Behind and before where the pages are, and the one they go on after.
        create(store, id(601 + round), of_fay()).await;
        create(store, id(689 - round), of_fay()).await;
        if round == 0 {
            let last = after.expect("there is more");
            store.destroy(last, Claim::Operator).await.expect("it works").expect("it is there");
        }
    }
    let mut stayed: Vec<_> = (0..10).map(|number| id(600 + number * 10)).collect();
    stayed.retain(|id| found.contains(id));
    assert_eq!(stayed.len(), 10, "all that were there at first were found: {found:?}");
    assert!(found.is_sorted_by(|one, next| one < next), "in order, each once: {found:?}");
    for left in list(store, "fay").await {
        store.destroy(left, Claim::Operator).await.expect("the store works");
    }
}
