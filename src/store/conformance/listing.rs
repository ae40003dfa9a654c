//! The sessions of a principal.

use super::{
    answered, create, found,
    sample::{NOW, id, principal, record, update, verifier},
    stored,
};
use crate::session::{
    id::PublicId,
    record::{Claim, Principal, Record, Update},
    store::{Certainty, Listed, Store},
};

/// One page.
async fn page(store: &dyn Store, name: &str, after: Option<PublicId>, limit: usize) -> Listed {
    answered(store.list(principal(name), after, limit, Certainty::Current).await)
}

/// The ids of all records of a principal, in pages of two.
pub(super) async fn list(store: &dyn Store, name: &str) -> Vec<PublicId> {
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let listed = page(store, name, after, 2).await;
        let count = listed.records.len();
        assert!(count <= 2, "expected at most 2 records in a page, found {count}");
        let durable = answered(store.list(principal(name), after, 2, Certainty::Durable).await);
        assert_eq!(durable, listed, "expected the same list with both certainties");
        for (id, record) in &listed.records {
            assert_eq!(record.principal, principal(name), "expected only its own records");
            assert_eq!(stored(store, *id).await.as_ref(), Some(record), "expected what read finds");
        }
        ids.extend(listed.records.into_iter().map(|(id, _)| id));
        after = listed.next;
        if after.is_none() {
            return ids;
        }
    }
}

pub(super) async fn lists_a_principal_in_pages(store: &dyn Store) {
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
        assert_eq!(list(store, name).await, expected, "expected all of {name:?}, by id");
    }
    assert_eq!(list(store, "nobody").await, [], "expected nothing of an unknown principal");
    for certainty in [Certainty::Current, Certainty::Durable] {
        let anonymous = answered(store.list(Principal::default(), None, 9, certainty).await);
        assert_eq!(anonymous, Listed::default(), "expected anonymous records not to be listed");
    }
    let all = list(store, "cleo").await;
    let exact = page(store, "cleo", None, all.len()).await;
    let outcome = (exact.records.len(), exact.next);
    assert_eq!(outcome, (all.len(), None), "expected no page after one that holds all");
    let last = page(store, "cleo", all.last().copied(), 9).await;
    assert_eq!(last, Listed::default(), "expected nothing after the last id");
    let between = page(store, "cleo", Some(id(501)), 1).await;
    let first = between.records.first().map(|(id, _)| *id);
    assert_eq!(first, Some(all[1]), "expected the next id after one of another principal");
    let least = page(store, "cleo", None, 0).await;
    assert_eq!(least.next, Some(all[0]), "expected at least one entry with a limit of 0");
    for number in 500..521 {
        answered(store.destroy(id(number), Claim::Operator).await);
    }
    for name in names {
        assert_eq!(list(store, name).await, [], "expected nothing of {name:?} after destroy");
    }
}

pub(super) async fn follows_changes_of_the_principal(store: &dyn Store) {
    let anonymous = Record { principal: Principal::default(), ..record() };
    create(store, id(550), anonymous).await;
    let give = |name: &'static str, octet: u8| async move {
        let given = Some(principal(name));
        let next_verifier = verifier(octet + 1);
        let update =
            Update { principal: given, verifier: verifier(octet), next_verifier, ..update(NOW) };
        found(store.write(id(550), update.into()).await).expect("expected the write to succeed")
    };
    give("dora", 1).await;
    assert_eq!(list(store, "dora").await, [id(550)], "expected the record after a login");
    give("dora", 2).await;
    assert_eq!(list(store, "dora").await, [id(550)], "expected it with the same principal");
    give("emil", 2).await;
    assert_eq!(list(store, "dora").await, [], "expected it to leave its old principal");
    assert_eq!(list(store, "emil").await, [id(550)], "expected it at its new principal");
    give("", 3).await;
    assert_eq!(list(store, "emil").await, [], "expected nothing after it became anonymous");
    give("emil", 4).await;
    assert_eq!(list(store, "emil").await, [id(550)], "expected it after another login");
}

/// Pages are read while records come and go. Each record that stays is in them once.
pub(super) async fn lists_what_stays_during_changes(store: &dyn Store) {
    let of_fay = || Record { principal: principal("fay"), ..record() };
    for number in 0..10 {
        create(store, id(600 + number * 10), of_fay()).await;
    }
    let (mut ids, mut after) = (Vec::new(), None);
    for round in 0.. {
        let listed = page(store, "fay", after, 3).await;
        ids.extend(listed.records.iter().map(|(id, _)| *id));
        after = listed.next;
        let Some(last) = after else { break };
        // Before and after the current page, and the id after which it continues.
        create(store, id(601 + round), of_fay()).await;
        create(store, id(689 - round), of_fay()).await;
        if round == 0 {
            found(store.destroy(last, Claim::Operator).await);
        }
    }
    let mut stayed = (0..10).map(|number| id(600 + number * 10));
    assert!(stayed.all(|id| ids.contains(&id)), "expected all first records, found {ids:?}");
    let in_order = ids.is_sorted_by(|one, next| one < next);
    assert!(in_order, "expected each id once, in order, found {ids:?}");
    for left in list(store, "fay").await {
        answered(store.destroy(left, Claim::Operator).await);
    }
}
