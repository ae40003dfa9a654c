//! Scans of all records of an engine in Redis: their results, and when a scan starts again.

use std::collections::BTreeSet;

use sessiond::{
    grpc::pb::ExportSessionsRequest,
    server::config::Backend,
    session::{
        clock::Moment,
        data::Data,
        id::{PublicId, VerifierHash},
        record::{Principal, Record},
        store::{BulkStore, Certainty, Cursor, Store},
    },
    store::redis::{RedisDatabase, RedisStore},
};

use crate::support::{
    daemon::{Daemon, TestClock},
    redis::{RedisCluster, RedisServer, is_missing, options},
};

const NOW: Moment = Moment::from_unix_millis(1_800_000_000_000);
/// More than the records on a server, so that one slice has all of them.
const ALL: usize = 10_000;

fn id(number: u8) -> PublicId {
    PublicId::from_bytes([number; 12])
}

fn ann() -> Principal {
    Principal::new(b"ann").expect("short")
}

fn record(version: u64) -> Record {
    Record {
        verifier: VerifierHash::from_bytes([1; 32]),
        version,
        create_time: NOW,
        deadline: NOW + std::time::Duration::from_secs(1000),
        duration: None,
        principal: ann(),
        data: Data::EMPTY,
        extension: Default::default(),
    }
}

fn stores(url: &str, key_prefix: &str) -> (RedisStore, RedisStore) {
    let database = RedisDatabase::start(options(url, key_prefix), TestClock::new());
    (database.store("default"), database.store("default/adopted"))
}

/// Sessions with a principal, so that the index has entries, too.
async fn fill(store: &RedisStore, count: u8) -> BTreeSet<PublicId> {
    for number in 0..count {
        store.create(id(number), record(1)).await.expect("the store works").expect("it is free");
    }
    (0..count).map(id).collect()
}

/// The rest of a scan: the ids, and the number of unreadable records.
async fn scan(
    store: &RedisStore,
    mut cursor: Option<Cursor>,
    limit: usize,
) -> (BTreeSet<PublicId>, usize) {
    let (mut found, mut unreadable) = (BTreeSet::new(), 0);
    loop {
        let scanned = store.scan(cursor, limit).await.expect("the store works");
        found.extend(scanned.records.into_iter().map(|(id, _)| id));
        unreadable += scanned.unreadable;
        cursor = scanned.next;
        if cursor.is_none() {
            return (found, unreadable);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_records_of_the_engine_are_given() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let (odd, marks) = stores(&server.url(), "a[b]*?-^\\");
    let (other, _) = stores(&server.url(), "ab");
    let expected = fill(&odd, 20).await;
    fill(&marks, 3).await;
    fill(&other, 30).await;
    assert_eq!(
        scan(&odd, None, 4).await,
        (expected, 0),
        "expected sessions only: no marks, index keys or other prefixes"
    );
    let key = format!("ab:default:{}", id(7));
    server.ask(&["SET", &key, "somebody else's"]);
    let (found, unreadable) = scan(&other, None, 4).await;
    assert_eq!((found.len(), unreadable), (29, 1), "expected the unreadable record to be counted");
    assert_eq!(
        server.ask(&["GET", &key]),
        "$15\r\nsomebody else's\r\n",
        "expected it to be unchanged"
    );
}

/// The cursors of one process of a server are meaningless to the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_started_again_is_scanned_anew() {
    if is_missing() {
        return;
    }
    // With a sync for each write, because writes since the last sync would be lost.
    let mut server = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (store, _) = stores(&server.url(), "sessiond");
    let expected = fill(&store, 200).await;
    let first = store.scan(None, 10).await.expect("the store works");
    assert!(first.next.is_some() && first.records.len() < 200, "expected more records");
    server.kill();
    server.restart();
    // A new store, because the old one has to notice the lost connection first.
    let (store, _) = stores(&server.url(), "sessiond");
    assert_eq!(
        scan(&store, first.next, 10).await.0,
        expected,
        "expected all records, from the beginning"
    );
}

/// A key moves from a server that is not scanned yet to one that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_makes_the_scan_begin_anew() {
    if is_missing() {
        return;
    }
    let cluster = RedisCluster::start(3, 0);
    let (store, _) = stores(&cluster.url(), "sessiond");
    let expected = fill(&store, 100).await;
    assert_eq!(scan(&store, None, 7).await.0, expected);
    let first = store.scan(None, ALL).await.expect("the store works");
    let key = |id: PublicId| format!("sessiond:default:{id}");
    let holder = |id: PublicId| {
        let holds = |node: &&RedisServer| node.ask(&["GET", &key(id)]).starts_with('$');
        cluster.nodes.iter().find(holds).expect("one node has the slot")
    };
    let scanned = holder(first.records[0].0);
    let moving = expected.iter().find(|id| holder(**id).port != scanned.port);
    let moving = *moving.expect("the keys are on several servers");
    cluster.move_slot(&key(moving), holder(moving), scanned);
    let (rest, _) = scan(&store, first.next, ALL).await;
    assert!(rest.contains(&moving), "expected the key that moved during the scan");
}

/// While a slot is being moved, its keys may be on either server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_on_its_way_holds_the_scan_up() {
    if is_missing() {
        return;
    }
    let cluster = RedisCluster::start(3, 0);
    let (store, _) = stores(&cluster.url(), "sessiond");
    let expected = fill(&store, 10).await;
    let [from, to, _] = &cluster.nodes[..] else { panic!("there are three nodes") };
    let to_id = to.ask(&["CLUSTER", "MYID"]).lines().nth(1).expect("an id").to_owned();
    // The first node has slot 0.
    from.ask(&["CLUSTER", "SETSLOT", "0", "MIGRATING", &to_id]);
    let (mut cursor, mut refused) = (None, None);
    for _ in 0..3 {
        match store.scan(cursor.take(), ALL).await {
            Ok(scanned) => cursor = scanned.next,
            Err(error) => refused = Some(error),
        }
    }
    let refused = refused.expect("expected an error, a slot is being moved");
    let cause = std::error::Error::source(&refused).expect("a cause").to_string();
    assert!(cause.contains("slots of the cluster are being moved"), "{cause}");
    from.ask(&["CLUSTER", "SETSLOT", "0", "STABLE"]);
    assert_eq!(scan(&store, None, ALL).await.0, expected);
}

/// A Redis may contain many other keys. A page of an export must be small all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_ends_although_nothing_is_found() {
    if is_missing() {
        return;
    }
    let daemon = Daemon::start(Backend::Redis).await;
    let redis = daemon.redis().expect("the daemon has a Redis");
    // More than 100 slices of 100 keys.
    redis.ask(&["DEBUG", "POPULATE", "20000", "other"]);
    let browser = daemon.visitor("{}").await;
    let (mut pages, mut found, mut page_token) = (0, Vec::new(), String::new());
    loop {
        let request = ExportSessionsRequest { page_token, ..Default::default() };
        let page = daemon.admin.clone().export_sessions(request).await;
        let page = page.expect("a page").into_inner();
        pages += 1;
        found.extend(page.records.into_iter().map(|record| record.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert!(pages > 1, "expected several pages");
    assert_eq!(found, [daemon.id(&browser).await]);
}

/// A list that finds an entry before its record is written leaves the entry in place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_forgets_nothing_that_is_being_restored() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let (store, _) = stores(&server.url(), "sessiond");
    let lister = {
        let (store, _) = stores(&server.url(), "sessiond");
        tokio::spawn(async move {
            loop {
                store.list(ann(), None, 1000, Certainty::Current).await.expect("the store works");
            }
        })
    };
    for number in 0..=255 {
        store.restore(id(number), record(7), NOW).await.expect("the store works");
    }
    assert!(!lister.is_finished(), "expected the lister to run during the whole import");
    lister.abort();
    let listed = store.list(ann(), None, 1000, Certainty::Current).await.expect("the store works");
    assert_eq!(listed.records.len(), 256, "expected all sessions");
}
