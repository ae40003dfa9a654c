//! What every store must do. A new store is one more line at the end.

mod listing;
mod transfer;

use std::{sync::Arc, time::Duration};

use sessiond::{
    session::{
        clock::Moment,
        data::Data,
        id::{PublicId, VerifierHash},
        lifetime::{Granularity, Lifetime},
        record::{Claim, Edit, Principal, Record, Refusal, Touch, Update},
        store::{Certainty, Expired, Store},
    },
    store::{
        memory::MemoryStore,
        redis::{RedisDatabase, RedisStore},
        sled::{Durability, SledDatabase, SledOptions, SledStore},
    },
};

use crate::support::{
    self,
    daemon::TestClock,
    redis::{RedisCluster, RedisServer, is_missing, options},
};

const NOW: Moment = Moment::from_unix_millis(1_000_000);
const DURATION: Duration = Duration::from_secs(100);
const GRANULARITY: Duration = Duration::from_secs(10);
const LIFETIME: Lifetime =
    Lifetime { duration: DURATION, granularity: Granularity::Fixed(GRANULARITY), absolute: None };

fn id(number: u32) -> PublicId {
    let mut bytes = [7; 12];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    PublicId::from_bytes(bytes)
}

fn verifier(octet: u8) -> VerifierHash {
    VerifierHash::from_bytes([octet; 32])
}

fn own(octet: u8) -> Claim {
    Claim::Verifier(verifier(octet))
}

fn principal(name: &str) -> Principal {
    Principal::new(name.as_bytes()).expect("short")
}

fn json(text: &str) -> Data {
    Data::parse(bytes::Bytes::copy_from_slice(text.as_bytes())).expect("JSON")
}

fn record() -> Record {
    Record {
        verifier: verifier(1),
        version: 1,
        create_time: NOW,
        deadline: LIFETIME.deadline(NOW, None, NOW),
        duration: None,
        principal: principal("ann"),
        data: json(r#"{"a":1,"b":2}"#),
    }
}

fn update(now: Moment) -> Update {
    Update {
        verifier: verifier(1),
        lifetime: LIFETIME,
        now,
        if_version: None,
        edit: Edit { replace: false, unset: vec![], set: json(r#"{"a":3}"#), limit_bytes: 1000 },
        next_verifier: verifier(2),
        roll: false,
        principal: None,
        duration: None,
    }
}

fn touch(now: Moment) -> Touch {
    Touch { verifier: verifier(1), lifetime: LIFETIME, now }
}

async fn stored(store: &impl Store, id: PublicId) -> Option<Arc<Record>> {
    store.read(id, Certainty::Current).await.expect("the store works")
}

async fn create(store: &impl Store, id: PublicId, record: Record) -> Arc<Record> {
    let created = store.create(id, record).await.expect("the store works");
    created.expect("the id is free")
}

/// What every store does, on one that is empty.
async fn keeps_sessions(store: Arc<impl Store>) {
    creates_once(store.as_ref()).await;
    touches_what_is_live(store.as_ref()).await;
    writes_what_is_live(store.as_ref()).await;
    refuses_without_a_trace(store.as_ref()).await;
    destroys_for_good(store.as_ref()).await;
    destroys_by_claim(store.as_ref()).await;
    listing::lists_a_principal_in_pages(store.as_ref()).await;
    listing::lists_what_it_has_become(store.as_ref()).await;
    listing::lists_what_stays_while_others_come_and_go(store.as_ref()).await;
    transfer::restores_later_states(store.as_ref()).await;
    transfer::scans_what_stays_while_others_come_and_go(store.as_ref()).await;
    keeps_writes_in_step(store).await;
}

/// What a store does beside that has to be swept, on one that is empty.
async fn sweeps(store: &impl Store) {
    sweeps_what_has_expired(store).await;
    sweeps_after_a_shortened_deadline(store).await;
    says_what_it_swept(store).await;
    listing::lists_until_it_is_swept(store).await;
    counts_what_it_keeps(store).await;
}

async fn conforms(store: impl Store) {
    sweeps(&store).await;
    keeps_sessions(Arc::new(store)).await;
}

async fn creates_once(store: &impl Store) {
    assert_eq!(stored(store, id(1)).await, None, "an empty store holds nothing");
    let created = create(store, id(1), record()).await;
    assert_eq!(*created, record());
    let other = Record { version: 9, ..record() };
    assert!(
        store.create(id(1), other).await.expect("the store works").is_none(),
        "the id is taken"
    );
    assert_eq!(stored(store, id(1)).await.as_deref(), Some(&record()), "the first one stays");
}

async fn touches_what_is_live(store: &impl Store) {
    create(store, id(2), record()).await;
    let touched = |touch| async move {
        store.touch(id(2), touch).await.expect("the store works").expect("it is there")
    };
    let early = touched(touch(NOW + Duration::from_secs(9))).await;
    assert!(!early.moved, "the deadline still keeps the promise, nothing is stored");
    let due = NOW + Duration::from_secs(11);
    let late = touched(touch(due)).await;
    assert!(late.moved);
    assert_eq!(late.record.deadline, due + DURATION + GRANULARITY);
    assert_eq!(stored(store, id(2)).await, Some(late.record.clone()));
    assert_eq!(late.record.version, 1, "a touch is no new version");
    let rolled = touched(Touch { verifier: verifier(9), ..touch(due + DURATION / 2) }).await;
    assert!(!rolled.moved, "another verifier keeps nothing alive");
    let dead = touched(touch(due + DURATION * 2)).await;
    assert!(!dead.moved, "what is over stays over");
    assert_eq!(stored(store, id(2)).await, Some(late.record));
    let absent = store.touch(id(99), touch(NOW)).await.expect("the store works");
    assert!(absent.is_none(), "a touch never creates");
    assert_eq!(stored(store, id(99)).await, None);
}

async fn writes_what_is_live(store: &impl Store) {
    create(store, id(3), record()).await;
    let later = NOW + Duration::from_secs(50);
    let change = store.write(id(3), update(later).into()).await.expect("the store works");
    let change = change.expect("it is there").expect("it is taken");
    assert_eq!(*change.before, record());
    assert_eq!(change.after.version, 2);
    assert_eq!(change.after.data, json(r#"{"a":3,"b":2}"#));
    assert_eq!(change.after.deadline, later + DURATION + GRANULARITY, "a write is a touch");
    assert_eq!(change.after.verifier, verifier(1), "nobody asked to roll");
    assert_eq!(stored(store, id(3)).await, Some(change.after));
    let roll = Update { roll: true, ..update(later) };
    let change = store.write(id(3), roll.into()).await.expect("the store works");
    let rolled = change.expect("it is there").expect("it is taken").after;
    assert_eq!((rolled.verifier, rolled.version), (verifier(2), 3));
    assert_eq!(stored(store, id(3)).await, Some(rolled));
    let absent = store.write(id(99), update(NOW).into()).await.expect("the store works");
    assert!(absent.is_none(), "a write never creates");
    assert_eq!(stored(store, id(99)).await, None);
}

async fn refuses_without_a_trace(store: &impl Store) {
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
        let refused = store.write(id(4), update.into()).await.expect("the store works");
        assert_eq!(refused.expect("it is there").expect_err("it is refused"), expected);
        assert_eq!(stored(store, id(4)).await.as_deref(), Some(&record()), "{expected:?}");
    }
}

async fn destroys_for_good(store: &impl Store) {
    create(store, id(5), record()).await;
    let destroy =
        |octet| async move { store.destroy(id(5), own(octet)).await.expect("the store works") };
    assert_eq!(destroy(9).await, None, "another verifier ends nothing");
    assert!(stored(store, id(5)).await.is_some());
    assert_eq!(destroy(1).await.as_deref(), Some(&record()));
    assert_eq!(destroy(1).await, None, "it is gone");
    assert_eq!(stored(store, id(5)).await, None);
    assert!(store.touch(id(5), touch(NOW)).await.expect("the store works").is_none());
    let written = store.write(id(5), update(NOW).into()).await.expect("the store works");
    assert!(written.is_none(), "a write does not bring it back");
    assert_eq!(stored(store, id(5)).await, None);
}

async fn sweep(store: &impl Store, now: Moment) -> usize {
    let mut removed = 0;
    loop {
        let swept = store.cleanup(now, 7).await.expect("the store works");
        assert!(swept.examined <= 7, "a slice has a limit");
        removed += swept.removed.len();
        if swept.examined < 7 {
            assert!(swept.next.is_none_or(|next| next > now), "nothing that is due is left");
            return removed;
        }
    }
}

async fn sweeps_what_has_expired(store: &impl Store) {
    let far = Duration::from_secs(1_000_000);
    sweep(store, NOW + far).await;
    assert_eq!(store.count(), Some(0), "a sweep removes all that has expired");
    let start = NOW + far;
    for number in 0..20 {
        let deadline = start + Duration::from_secs(100 + u64::from(number));
        create(store, id(100 + number), Record { deadline, ..record() }).await;
    }
    // Number 3 is touched: its index entry is early now.
    let alive = Touch { now: start + Duration::from_secs(90), ..touch(start) };
    store.touch(id(103), alive).await.expect("the store works").expect("it is there");
    // Number 4 is gone, and its index entry with it.
    store.destroy(id(104), own(1)).await.expect("the store works").expect("it is there");
    let at = |secs| start + Duration::from_secs(secs);
    let early = store.cleanup(at(99), 100).await.expect("the store works");
    assert_eq!((early.examined, early.removed.len()), (0, 0), "nothing is due");
    assert_eq!(early.next, Some(at(100)));
    let due = store.cleanup(at(109), 100).await.expect("the store works");
    assert_eq!(due.examined, 9, "0 to 9 without 4");
    assert_eq!(due.removed.len(), 8, "0 to 9 without 3 and 4");
    assert_eq!(stored(store, id(109)).await, None, "a deadline that is reached is over");
    assert!(stored(store, id(110)).await.is_some());
    assert!(stored(store, id(103)).await.is_some(), "a touched session is not swept");
    assert_eq!(sweep(store, at(109)).await, 0);
    assert_eq!(sweep(store, at(199)).await, 10);
    assert!(stored(store, id(103)).await.is_some());
    assert_eq!(sweep(store, at(200)).await, 1, "until its own deadline");
    assert_eq!(store.count(), Some(0));
}

async fn sweeps_after_a_shortened_deadline(store: &impl Store) {
    let start = NOW + Duration::from_secs(3_000_000);
    let long =
        Record { deadline: start + DURATION * 100, duration: Some(DURATION * 100), ..record() };
    create(store, id(200), long).await;
    let shorten = Update { duration: Some(DURATION), ..update(start) };
    let change = store.write(id(200), shorten.into()).await.expect("the store works");
    let deadline = change.expect("it is there").expect("it is taken").after.deadline;
    assert_eq!(deadline, start + DURATION + GRANULARITY);
    assert_eq!(sweep(store, deadline).await, 1, "it is swept at its new deadline, not its old one");
    let late = store.cleanup(start + DURATION * 101, 100).await.expect("the store works");
    assert_eq!(late.examined, 0, "the old entry is gone");
}

async fn says_what_it_swept(store: &impl Store) {
    let start = NOW + Duration::from_secs(5_000_000);
    create(store, id(250), Record { deadline: start, ..record() }).await;
    let nobodys = Record { principal: Principal::default(), deadline: start, ..record() };
    create(store, id(251), nobodys).await;
    let swept = store.cleanup(start, 7).await.expect("the store works");
    let whose = |id, principal| Expired { id, principal };
    let expected = [whose(id(250), principal("ann")), whose(id(251), Principal::default())];
    assert_eq!(swept.removed, expected);
}

async fn destroys_by_claim(store: &impl Store) {
    create(store, id(260), record()).await;
    let destroy =
        |claim| async move { store.destroy(id(260), claim).await.expect("the store works") };
    assert_eq!(destroy(Claim::Principal(principal("bob"))).await, None, "it is not bob's");
    assert_eq!(destroy(Claim::Principal(Principal::default())).await, None, "nor nobody's");
    assert!(stored(store, id(260)).await.is_some());
    assert!(destroy(Claim::Principal(principal("ann"))).await.is_some());
    assert_eq!(destroy(Claim::Principal(principal("ann"))).await, None, "it is gone");
    create(store, id(260), record()).await;
    assert!(destroy(Claim::Operator).await.is_some(), "whoever's it is");
    assert_eq!(destroy(Claim::Operator).await, None, "it is gone");
}

async fn counts_what_it_keeps(store: &impl Store) {
    assert_eq!(store.count(), Some(0));
    let start = NOW + Duration::from_secs(9_000_000);
    for number in 0..5 {
        create(store, id(300 + number), Record { deadline: start, ..record() }).await;
    }
    assert_eq!(store.count(), Some(5));
    store.destroy(id(300), own(1)).await.expect("the store works");
    store.destroy(id(300), own(1)).await.expect("the store works");
    assert_eq!(store.count(), Some(4));
    assert_eq!(sweep(store, start).await, 4);
    assert_eq!(store.count(), Some(0));
}

/// Many writers on one record: every version is given once, no write is lost.
async fn keeps_writes_in_step(store: Arc<impl Store>) {
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
                let written = store.write(id(400), Update { edit, ..update(NOW) }.into()).await;
                let change = written.expect("the store works").expect("there").expect("taken");
                versions.push(change.after.version);
            }
            versions
        })
    });
    // Touches in between must not write back what they read before a write.
    let toucher = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for step in 1..100 {
                let now = NOW + GRANULARITY * 2 * step;
                store.touch(id(400), touch(now)).await.expect("the store works");
            }
        })
    };
    let mut versions = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        versions.extend(writer.await.expect("a writer"));
    }
    toucher.await.expect("a toucher");
    versions.sort_unstable();
    assert_eq!(versions, (2..2 + WRITERS * WRITES).collect::<Vec<_>>());
    let last = stored(store.as_ref(), id(400)).await.expect("it is there");
    let data: std::collections::BTreeMap<String, u64> =
        serde_json::from_slice(last.data.text()).expect("JSON");
    for writer in 0..WRITERS {
        assert_eq!(data.get(&format!("w{writer}")), Some(&(WRITES - 1)), "writer {writer}");
    }
}

fn sled(directory: &tempfile::TempDir, cache_bytes: u64) -> (SledDatabase, SledStore) {
    support::sled::open(SledOptions {
        cache_bytes,
        destroy: Durability::Synced,
        roll: Durability::Synced,
        ..support::sled::options(directory.path())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    conforms(MemoryStore::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sled_with_a_table_in_front() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    conforms(sled(&directory, 1 << 24).1).await;
}

/// With no room in the table every operation goes to the database itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sled_without_a_table() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    conforms(sled(&directory, 512).1).await;
}

/// What was stored is there after the database was closed and opened again.
#[tokio::test]
async fn sled_keeps_records_over_a_restart() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let (database, store) = sled(&directory, 1 << 20);
    create(&store, id(1), record()).await;
    create(&store, id(2), record()).await;
    store.destroy(id(2), own(1)).await.expect("the store works");
    let roll = Update { roll: true, ..update(NOW) };
    let change = store.write(id(1), roll.into()).await.expect("the store works");
    let after = change.expect("it is there").expect("it is taken").after;
    drop((database, store));
    let (_database, store) = sled(&directory, 1 << 20);
    assert_eq!(stored(&store, id(1)).await, Some(after));
    assert_eq!(stored(&store, id(2)).await, None);
    assert_eq!(store.count(), Some(1));
    assert_eq!(sweep(&store, NOW + DURATION * 3).await, 1, "the index was kept, too");
}

/// Who gives up waiting does not take back what was begun.
#[tokio::test]
async fn sled_does_what_was_begun() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let (database, store) = sled(&directory, 1 << 20);
    let mut begun: Vec<_> =
        (0..50).map(|number| Box::pin(store.create(id(number), record()))).collect();
    for create in &mut begun {
        let _ = futures_util::poll!(create);
    }
    drop(begun);
    // Waits for what is being done.
    drop((database, store));
    let (_database, store) = sled(&directory, 1 << 20);
    assert_eq!(store.count(), Some(50), "creations that were given up and yet done");
}

/// Engines share a database and see nothing of each other.
#[tokio::test]
async fn sled_keeps_engines_apart() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let (database, first) = sled(&directory, 1 << 20);
    let second = database.store("second").expect("a store");
    create(&first, id(1), record()).await;
    assert_eq!(stored(&second, id(1)).await, None);
    assert_eq!(sweep(&second, NOW + DURATION * 3).await, 0);
    assert!(stored(&first, id(1)).await.is_some());
    let mut engines = database.engines();
    engines.sort();
    assert_eq!(engines, ["default", "second"]);
}

fn redis(url: &str) -> RedisStore {
    RedisDatabase::start(options(url, "sessiond"), TestClock::new()).store("default")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_on_one_server() {
    if !is_missing() {
        let server = RedisServer::start();
        keeps_sessions(Arc::new(redis(&server.url()))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_in_a_cluster() {
    if !is_missing() {
        let cluster = RedisCluster::start(3, 0);
        keeps_sessions(Arc::new(redis(&cluster.url()))).await;
    }
}
