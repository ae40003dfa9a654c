//! The states that a crash between two writes leaves in a sled store, and how the store repairs
//! them. The tests build the states directly in sled's trees, so that every possible place of a
//! crash is covered.

use std::{path::Path, time::Duration};

use sessiond::{
    session::{
        clock::Moment,
        data::Data,
        id::{PublicId, VerifierHash},
        lifetime::{Granularity, Lifetime},
        record::{Claim, Edit, Principal, Record, Touch, Update},
        store::{Certainty, Removed, Store},
    },
    store::sled::{Durability, IndexEntries, SledDatabase, SledOptions, SledStore},
};
use sha2::{Digest, Sha256};

use crate::support::sled;

const NOW: Moment = Moment::from_unix_millis(1_000_000);
const DEADLINE: Moment = Moment::from_unix_millis(2_000_000);

fn id(number: u8) -> PublicId {
    PublicId::from_bytes([number; 12])
}

fn principal(name: &str) -> Principal {
    Principal::new(name.as_bytes()).expect("short")
}

fn record(name: &str) -> Record {
    Record {
        verifier: VerifierHash::from_bytes([1; 32]),
        version: 1,
        create_time: NOW,
        deadline: DEADLINE,
        duration: None,
        principal: principal(name),
        data: Data::EMPTY,
        extension: Default::default(),
    }
}

fn open(directory: &Path) -> (SledDatabase, SledStore) {
    sled::open(sled::options(directory))
}

/// The database, used through sled.
struct Raw(::sled::Db);

impl Raw {
    /// Opens it as after a crash: no mark says that the indexes are complete.
    fn open(directory: &Path) -> Self {
        let raw = Self::untouched(directory);
        for mark in ["whole/default", "count/default"] {
            raw.0.open_tree("meta").expect("a tree").remove(mark).expect("removed");
        }
        raw
    }

    fn untouched(directory: &Path) -> Self {
        let config = ::sled::Config::new().path(directory.join("data")).segment_size(8 << 20);
        // sled releases its files some time after the drop.
        let opened = (0..500).find_map(|_| {
            config.open().ok().or_else(|| {
                std::thread::sleep(Duration::from_millis(10));
                None
            })
        });
        Self(opened.expect("sled opens its own database"))
    }

    fn tree(&self, kind: &str) -> ::sled::Tree {
        self.0.open_tree(format!("{kind}/default")).expect("a tree")
    }

    fn owner(name: &str, id: PublicId) -> Vec<u8> {
        [&Sha256::digest(name)[..16], id.as_bytes()].concat()
    }

    fn add_owner(&self, name: &str, id: PublicId) {
        let known = self.tree("principals").insert(Self::owner(name, id), &[]);
        assert!(known.expect("written").is_none(), "expected a new entry");
    }

    fn drop_owner(&self, name: &str, id: PublicId) {
        let known = self.tree("principals").remove(Self::owner(name, id)).expect("removed");
        assert!(known.is_some(), "expected an entry to remove");
    }

    fn add_deadline(&self, id: PublicId) {
        let key = [&DEADLINE.unix_millis().to_be_bytes()[..], id.as_bytes()].concat();
        self.tree("expiry").insert(key, &[]).expect("written");
    }

    fn close(self) {
        self.0.flush().expect("flushed");
    }
}

async fn listed(store: &SledStore, name: &str) -> Vec<PublicId> {
    let listed =
        store.list(principal(name), None, 1000, Certainty::Current).await.expect("the store works");
    listed.records.into_iter().map(|(id, _)| id).collect()
}

/// Runs a complete cleanup in small slices, at a time when no session is due. Returns how many
/// entries it examined.
async fn sweep(store: &SledStore) -> usize {
    let mut examined = 0;
    loop {
        let swept = store.cleanup(NOW, 2).await.expect("the store works");
        assert_eq!(swept.removed, [], "nothing has expired");
        assert!(swept.examined <= 2, "expected a slice within its limit");
        examined += swept.examined;
        if swept.examined < 2 {
            return examined;
        }
    }
}

/// Makes a store with three sessions of ann, one of bob and one anonymous session.
async fn furnish(directory: &Path) {
    let (_database, store) = open(directory);
    for (number, name) in [(1, "ann"), (2, "ann"), (3, "ann"), (4, "bob"), (5, "")] {
        store.create(id(number), record(name)).await.expect("it works").expect("it is free");
    }
}

const WHOLE: IndexEntries = IndexEntries { expiry: 5, principals: 4 };

/// Builds a state, and checks what a cleanup leaves of it.
async fn mended(state: impl FnOnce(&Raw), what: &str) {
    let directory = tempfile::tempdir().expect("a scratch folder");
    furnish(directory.path()).await;
    let raw = Raw::open(directory.path());
    state(&raw);
    raw.close();
    let (database, store) = open(directory.path());
    assert_eq!(store.count(), None, "{what}: expected an open that does not wait for the count");
    sweep(&store).await;
    assert_eq!(store.count(), Some(5), "{what}: expected the count after a cleanup");
    let entries = store.index_entries().expect("counted");
    assert_eq!(entries.principals, WHOLE.principals, "{what}: after one sweep");
    assert_eq!(listed(&store, "ann").await, [id(1), id(2), id(3)], "{what}");
    assert_eq!(listed(&store, "bob").await, [id(4)], "{what}");
    assert_eq!(sweep(&store).await, 0, "{what}: expected nothing left to do");
    drop((database, store));
    // A clean stop leaves a mark, so the next start has nothing to repair.
    let (_database, store) = open(directory.path());
    assert_eq!(store.count(), Some(5), "{what}: expected the count that a clean stop stored");
    assert_eq!(sweep(&store).await, 0, "{what}: after a clean stop");
    // An entry by deadline without a record is removed when its time comes.
    store.cleanup(DEADLINE, 1000).await.expect("the store works");
    let nothing = IndexEntries { expiry: 0, principals: 0 };
    assert_eq!(store.index_entries().expect("counted"), nothing, "{what}: at the end");
}

#[tokio::test]
async fn a_sweep_mends_every_state_that_a_crash_leaves() {
    mended(|_| {}, "nothing amiss").await;
    mended(|raw| raw.add_deadline(id(9)), "a creation after its first write").await;
    mended(
        |raw| {
            raw.add_deadline(id(9));
            raw.add_owner("ann", id(9));
        },
        "a creation before its last write",
    )
    .await;
    mended(|raw| raw.add_owner("ann", id(4)), "a login as ann, before the record is ann's").await;
    mended(|raw| raw.add_owner("cleo", id(4)), "a login as cleo, whose sessions are never listed")
        .await;
    mended(|raw| raw.add_owner("cleo", id(3)), "a login from cleo's session, after the record")
        .await;
    mended(|raw| raw.add_owner("cleo", id(5)), "a change to anonymous, after the record").await;
    mended(
        |raw| {
            raw.add_deadline(id(9));
            raw.add_owner("bob", id(9));
        },
        "a Destroy after its first write",
    )
    .await;
    mended(
        |raw| {
            for number in 10..30 {
                raw.add_owner("dan", id(number));
            }
        },
        "more entries than one slice examines",
    )
    .await;
    mended(|raw| drop(raw.tree("principals").insert(b"short", b"")), "an invalid key").await;
}

/// After normal operations the indexes are correct and a cleanup has nothing to repair.
#[tokio::test]
async fn every_change_takes_its_entry_along() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    furnish(directory.path()).await;
    let (_database, store) = open(directory.path());
    let entries = || store.index_entries().expect("counted");
    let lifetime = Lifetime {
        duration: Duration::from_secs(5000),
        granularity: Granularity::Auto,
        absolute: None,
    };
    let give = |name: &'static str| {
        let update = Update {
            verifier: VerifierHash::from_bytes([1; 32]),
            lifetime,
            now: NOW,
            if_version: None,
            edit: Edit { replace: false, unset: vec![], set: Data::EMPTY, limit_bytes: 100 },
            next_verifier: VerifierHash::from_bytes([1; 32]),
            roll_grace: Duration::from_secs(60),
            roll: false,
            principal: Some(principal(name)),
            duration: None,
            persistent: None,
            label: None,
        };
        let written = store.write(id(1), update.into());
        async { written.await.expect("it works").expect("it is there").expect("it is taken") }
    };
    give("cleo").await;
    assert_eq!(entries(), WHOLE, "expected one entry to replace the other");
    give("").await;
    assert_eq!(
        entries(),
        IndexEntries { principals: 3, ..WHOLE },
        "expected no entry for an anonymous session"
    );
    give("ann").await;
    assert_eq!(entries(), WHOLE);
    for claim in [Claim::valid_id(VerifierHash::from_bytes([1; 32])), Claim::Operator] {
        store.destroy(id(1), claim.clone()).await.expect("it works").expect("it is there");
        assert_eq!(entries(), IndexEntries { expiry: 4, principals: 3 }, "{claim:?}");
        store.create(id(1), record("ann")).await.expect("it works").expect("it is free");
    }
    store.cleanup(DEADLINE, 1000).await.expect("the store works");
    assert_eq!(entries(), IndexEntries { expiry: 0, principals: 0 }, "after a sweep of all");
}

/// No crash leaves these states. Damage may, or a version without this index.
#[tokio::test]
async fn a_sweep_finds_sessions_that_are_not_in_the_index() {
    mended(|raw| raw.drop_owner("ann", id(2)), "one is missing").await;
    mended(|raw| raw.tree("principals").clear().expect("cleared"), "all are missing").await;
}

/// A list removes orphaned entries that it finds, without a cleanup and without a crash before.
#[tokio::test]
async fn a_list_drops_the_entries_that_it_meets() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    furnish(directory.path()).await;
    let raw = Raw::untouched(directory.path());
    raw.add_owner("ann", id(4));
    raw.add_owner("ann", id(9));
    raw.add_owner("bob", id(9));
    raw.close();
    let (_database, store) = open(directory.path());
    assert_eq!(sweep(&store).await, 0, "expected nothing to repair after a clean stop");
    let first =
        store.list(principal("ann"), None, 2, Certainty::Current).await.expect("the store works");
    assert_eq!((first.records.len(), first.next), (2, Some(id(2))));
    let rest = store
        .list(principal("ann"), first.next, 9, Certainty::Current)
        .await
        .expect("the store works");
    assert_eq!(
        (rest.records.len(), rest.next),
        (1, None),
        "expected neither bob's nor anonymous sessions"
    );
    let left = store.index_entries().expect("counted");
    assert_eq!(
        left.principals,
        WHOLE.principals + 1,
        "expected the entry that only a list of bob's sessions would find"
    );
    assert_eq!(listed(&store, "bob").await, [id(4)]);
    assert_eq!(store.index_entries().expect("counted"), WHOLE);
}

/// A cleanup that finds a session by its deadline checks that it is listed.
#[tokio::test]
async fn a_sweep_that_meets_a_session_mends_its_entry() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    furnish(directory.path()).await;
    let raw = Raw::untouched(directory.path());
    raw.drop_owner("ann", id(2));
    raw.close();
    let (_database, store) = open(directory.path());
    assert_eq!(listed(&store, "ann").await, [id(1), id(3)], "expected the session to be missing");
    // The session was touched, so its entry by deadline is still an early one.
    let lifetime = Lifetime {
        duration: Duration::from_secs(5000),
        granularity: Granularity::Auto,
        absolute: None,
    };
    let verifier = VerifierHash::from_bytes([1; 32]);
    let touch = Touch { verifier, lifetime, now: NOW, duration: None };
    for number in 1..=3 {
        store.touch(id(number), touch).await.expect("it works").expect("it is there");
    }
    store.cleanup(DEADLINE, 1000).await.expect("the store works");
    assert_eq!(
        listed(&store, "ann").await,
        [id(1), id(2), id(3)],
        "expected it to be listed again"
    );
    assert_eq!(listed(&store, "bob").await, [], "expected bob's session to be expired");
}

/// An unreadable record and its entry stay until the session is ended.
#[tokio::test]
async fn an_unreadable_record_keeps_its_entry() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    furnish(directory.path()).await;
    let raw = Raw::open(directory.path());
    raw.tree("records").insert(id(2).as_bytes(), b"damaged").expect("written");
    raw.close();
    let (_database, store) = open(directory.path());
    sweep(&store).await;
    assert_eq!(listed(&store, "ann").await, [id(1), id(3)], "expected the other sessions");
    assert_eq!(store.index_entries().expect("counted"), WHOLE, "expected all entries to stay");
    let page = store.list(principal("ann"), None, 9, Certainty::Current).await.expect("it works");
    assert_eq!(page.unreadable, [id(2)], "expected its id among the unreadable ones");
    let stranger = Claim::valid_id(VerifierHash::from_bytes([9; 32]));
    let removed = store
        .destroy(id(2), stranger)
        .await
        .expect("expected no error, a Destroy needs no readable record");
    assert_eq!(removed, Some(Removed::Unreadable), "expected it to be ended");
    assert_eq!(store.read(id(2), Certainty::Current).await.expect("it works"), None);
    assert_eq!(listed(&store, "ann").await, [id(1), id(3)], "expected the other sessions");
    store.cleanup(DEADLINE + Duration::from_secs(7 * 24 * 3600), 1000).await.expect("it works");
    let left = store.index_entries().expect("counted");
    assert_eq!((left.expiry, left.principals), (0, 0), "expected no entries of it");
}

/// Copies what the operating system holds at this moment: a crash leaves at most that.
fn copy(directory: &Path) -> tempfile::TempDir {
    let copied = tempfile::tempdir().expect("a scratch folder");
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        let inside = folder.strip_prefix(directory).expect("expected a path below the directory");
        std::fs::create_dir_all(copied.path().join(inside)).expect("created");
        let entries = std::fs::read_dir(&folder).expect("a folder");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        // The mark before the log, which goes on meanwhile: it must not say more than is copied.
        paths.sort_by_key(|path| !path.ends_with("mark"));
        for path in paths {
            if path.is_dir() {
                folders.push(path);
            } else {
                let inside =
                    path.strip_prefix(directory).expect("expected a path below the directory");
                std::fs::copy(&path, copied.path().join(inside)).expect("copied");
            }
        }
    }
    copied
}

/// How many of ann's sessions are back after a crash, if before it a cleanup removed all of
/// them and a list found none.
async fn back_after_a_crash(for_good: bool) -> usize {
    let directory = tempfile::tempdir().expect("a scratch folder");
    furnish(directory.path()).await;
    let (_database, store) = sled::open(SledOptions {
        flush_interval: Duration::from_secs(3600),
        destroy: Durability::Synced,
        ..sled::options(directory.path())
    });
    // A cleanup does not wait for a flush of its removals.
    let swept = store.cleanup(DEADLINE, 3).await.expect("the store works");
    assert_eq!(swept.removed.len(), 3, "all of ann's");
    let listed = if for_good {
        store.list(principal("ann"), None, 9, Certainty::Durable).await
    } else {
        store.list(principal("ann"), None, 9, Certainty::Current).await
    };
    assert_eq!(listed.expect("the store works").records.len(), 0);
    let crashed = copy(directory.path());
    let (_database, store) = open(crashed.path());
    assert_eq!(self::listed(&store, "bob").await, [id(4)]);
    self::listed(&store, "ann").await.len()
}

/// A caller that ends a principal's sessions and finds none relies on this: a crash brings back
/// no session that a durable list left out. Tested with a flush; a sync uses the same commit.
#[tokio::test]
async fn what_a_durable_list_leaves_out_does_not_come_back() {
    for _ in 0..10 {
        assert_eq!(back_after_a_crash(true).await, 0);
    }
    // A list that is not durable does not wait. But sled's own thread may flush before it.
    let patience = std::time::Instant::now() + crate::support::program::PATIENCE;
    while back_after_a_crash(false).await == 0 {
        assert!(
            std::time::Instant::now() < patience,
            "expected a list that does not wait for a flush"
        );
    }
}
