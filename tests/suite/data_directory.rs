//! The data directory of the sled store: what is not ours is never touched, what
//! is gone is noticed, what is missing is told, and nobody else may read it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use sessiond::{
    grpc::pb::{
        DestroyRequest, ResolveRequest, SessionState, session_service_client::SessionServiceClient,
    },
    store::sled::{OnDamage, OpenError, SledDatabase, SledOptions},
};
use tonic::{Code, transport::Channel};

use crate::support::{
    browser::Browser,
    daemon::{assert_fault, set},
    health::{self, ServingStatus},
    program::{Program, run, stderr},
    sled,
};

/// Of the database in `directory/data`.
fn options(directory: &Path, on_damage: OnDamage) -> SledOptions {
    SledOptions { on_damage, ..sled::options(directory) }
}

/// sled's own threads may hold the log for a moment after the last handle.
fn open(directory: &Path, on_damage: OnDamage) -> Result<SledDatabase, OpenError> {
    SledDatabase::open(options(directory, on_damage))
}

/// What is done to a data directory, by name.
type Deed = (&'static str, fn(&Path));

/// Octets without a pattern, always the same.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut octets: Vec<u8> = std::iter::repeat_with(next).take(len / 8 + 1).flatten().collect();
    octets.truncate(len);
    octets
}

/// All that is in a directory, by path, with the content of files.
fn content(directory: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let inside = path.strip_prefix(directory).expect("it is below").to_owned();
            if path.is_dir() {
                folders.push(path);
                found.insert(inside, None);
            } else {
                found.insert(inside, Some(fs::read(&path).expect("readable")));
            }
        }
    }
    found
}

/// The names that sled uses, and ours, and others.
const NAMES: &[&str] = &[
    "db",
    "conf",
    "blobs/7",
    "blobs/notes",
    "snap.0000000000000010",
    "snap.0000000000000010.generating",
    "snap.notes",
    "snap.00.in___motion",
    "damaged.snap.0000000000000010",
    "layout",
    "layout.unfinished",
    "layout.new",
    "lock",
    "mark",
    "probe",
    "quarantine/2026/db",
    "quarantine/unfinished/db",
    "quarantine/unfinished/why.txt",
    "notes.txt",
    "folder/notes.txt",
];

#[test]
fn what_is_not_ours_is_refused_and_stays_as_it_is() {
    for on_damage in [OnDamage::Refuse, OnDamage::Quarantine] {
        for name in NAMES {
            for octets in [noise(100), noise(5000), b"short".to_vec()] {
                let scratch = tempfile::tempdir().expect("a scratch folder");
                let file = scratch.path().join("data").join(name);
                fs::create_dir_all(file.parent().expect("a folder")).expect("made");
                fs::write(&file, octets).expect("written");
                let before = content(scratch.path());
                let refused = open(scratch.path(), on_damage).map(drop);
                let Err(refused) = refused else {
                    panic!("{name}, {on_damage:?}: expected a refusal, it was opened")
                };
                let said = refused.to_string();
                let path = scratch.path().join("data").display().to_string();
                assert!(said.contains(&path), "{name}: expected the path in {said:?}");
                assert!(content(scratch.path()) == before, "{name}, {on_damage:?}: it has changed");
            }
        }
    }
}

/// As an operator meets it: 20 MB of somebody else's under the name of sled's log.
#[test]
fn a_foreign_log_is_refused_by_the_program() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let data = scratch.path().join("data");
    fs::create_dir(&data).expect("made");
    let foreign = noise(20_000_000);
    fs::write(data.join("db"), &foreign).expect("written");
    let path = format!("--set=store.sled.path={}", data.display());
    let secret = "--set=engine.default.cookie.secrets=a-signing-secret-for-tests-long-enough";
    for on_damage in ["refuse", "quarantine"] {
        let on_damage = format!("--set=store.sled.on_damage={on_damage}");
        let refused =
            run(["serve", "--set=listen.grpc=127.0.0.1:0", path.as_str(), secret, &on_damage]);
        assert_eq!(refused.status.code(), Some(1));
        let said = stderr(&refused);
        let expected = format!("{} holds db, which is not sessiond's", data.display());
        assert!(said.contains(&expected), "expected {expected:?} in {said}");
        assert_eq!(content(&data).len(), 1, "nothing is added");
        assert!(fs::read(data.join("db")).expect("readable") == foreign, "byte for byte");
    }
}

#[test]
fn a_place_without_content_is_fine() {
    let places: [Deed; 9] = [
        ("missing", |data| fs::remove_dir(data).expect("removed")),
        ("empty", |_| ()),
        ("a lock", |data| fs::write(data.join("lock"), "").expect("written")),
        ("our mark", |data| {
            fs::write(data.join("layout.unfinished"), "sessiond sled 2\n").expect("written");
        }),
        ("our mark, torn", |data| fs::write(data.join("layout.unfinished"), "").expect("written")),
        ("our mark, of zeros", |data| {
            fs::write(data.join("layout.unfinished"), [0; 16]).expect("written");
        }),
        ("a fresh volume", |data| fs::create_dir(data.join("lost+found")).expect("made")),
        ("a mounted volume", |data| {
            fs::create_dir(data.join("..2026_11_28")).expect("made");
            symlink("..2026_11_28", data.join("..data")).expect("made");
        }),
        ("hidden files", |data| fs::write(data.join(".keep"), "mine").expect("written")),
    ];
    for (what, make) in places {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let data = scratch.path().join("data");
        fs::create_dir(&data).expect("made");
        make(&data);
        let before = if data.exists() { content(&data) } else { BTreeMap::new() };
        for time in ["the first time", "once more"] {
            let opened = open(scratch.path(), OnDamage::Refuse).map(drop);
            assert!(opened.is_ok(), "{what}, {time}: expected it to open, found {opened:?}");
        }
        let after = content(&data);
        for (name, octets) in before.iter().filter(|(name, _)| !name.starts_with("lock")) {
            let is_ours = name.to_string_lossy().starts_with("layout");
            assert!(
                is_ours || after.get(name) == Some(octets),
                "{what}: {} has changed",
                name.display()
            );
        }
    }
}

/// With our marker there, too: what sled would read or delete because of its name.
#[test]
fn a_foreign_file_beside_a_database_stays() {
    for on_damage in [OnDamage::Refuse, OnDamage::Quarantine] {
        for name in ["snap.notes", "snap.0A", "probe", "layout.new", "mark.txt", "notes.txt"] {
            let scratch = tempfile::tempdir().expect("a scratch folder");
            drop(open(scratch.path(), on_damage).expect("it opens"));
            let file = scratch.path().join("data").join(name);
            fs::write(&file, noise(5000)).expect("written");
            let opened = open(scratch.path(), on_damage).map(drop);
            if name.starts_with("snap.") {
                let said = opened.expect_err("sled would take it for its own").to_string();
                assert!(said.contains(name), "expected its name in {said:?}");
            } else {
                opened.expect("it does not matter");
            }
            // Damage, which may lead to quarantine.
            fs::write(scratch.path().join("data/db"), noise(100)).expect("written");
            drop(open(scratch.path(), on_damage));
            assert!(fs::read(&file).ok() == Some(noise(5000)), "{name} has changed");
        }
    }
}

async fn client(program: &Program) -> SessionServiceClient<Channel> {
    let uri = format!("http://{}", program.address("grpc"));
    SessionServiceClient::connect(uri).await.expect("the daemon is there")
}

/// Creates sessions, many at a time.
async fn fill(program: &Program, count: usize, data_bytes: usize) -> Vec<Browser> {
    let client = client(program).await;
    let created = stream::iter(0..count).map(|number| {
        let mut client = client.clone();
        let text = format!(r#"{{"n":{number},"x":"{}"}}"#, "x".repeat(data_bytes));
        async move {
            let created = client.write(set(&text)).await.expect("a Write is taken").into_inner();
            Browser::with(&created.set_cookie)
        }
    });
    created.buffer_unordered(64).collect().await
}

async fn are_active(program: &Program, browsers: &[Browser]) -> usize {
    let client = client(program).await;
    let asked = stream::iter(browsers).map(|browser| {
        let mut client = client.clone();
        let request = ResolveRequest { credential: browser.credential(), ..Default::default() };
        async move { client.resolve(request).await.expect("it is answered").into_inner().state() }
    });
    let states: Vec<_> = asked.buffer_unordered(64).collect().await;
    states.into_iter().filter(|state| *state == SessionState::Active).count()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    // The mark before the log: it must not say more than the copy has.
    let mut names: Vec<_> = fs::read_dir(from)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    names.sort_by_key(|path| !path.ends_with("mark"));
    for path in names {
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("copied");
        }
    }
}

/// What may happen to the directory of a daemon that runs.
const LOSSES: [Deed; 6] = [
    ("the directory is removed", |data| fs::remove_dir_all(data).expect("removed")),
    ("the log is unlinked", |data| fs::remove_file(data.join("db")).expect("removed")),
    ("another log has its name", |data| {
        fs::copy(data.join("db"), data.join("other")).expect("copied");
        fs::rename(data.join("other"), data.join("db")).expect("renamed");
    }),
    ("the directory is renamed", |data| {
        fs::rename(data, data.with_extension("old")).expect("moved")
    }),
    ("the directory is swapped for a copy", |data| {
        copy(data, &data.with_extension("new"));
        fs::rename(data, data.with_extension("old")).expect("moved");
        fs::rename(data.with_extension("new"), data).expect("moved");
    }),
    ("the directory is swapped for an empty one", |data| {
        fs::rename(data, data.with_extension("old")).expect("moved");
        fs::create_dir(data).expect("made");
    }),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_its_name_is_a_failed_store() {
    for (what, lose) in LOSSES {
        let directory = tempfile::tempdir().expect("a scratch folder");
        let program = Program::serve_in(directory.path(), &[]);
        let browsers = fill(&program, 3, 10).await;
        lose(&directory.path().join("data"));
        let mut client = client(&program).await;
        // Nothing is acknowledged from now on, whatever the durability.
        let written = client.write(set("{}")).await;
        let status = written.err().unwrap_or_else(|| panic!("{what}: a creation is acknowledged"));
        assert_fault(&status, Code::Unavailable, "STORE_UNAVAILABLE", None);
        let credential = browsers[0].credential();
        let request = DestroyRequest { credential, ..Default::default() };
        let destroyed = client.destroy(request).await;
        let status = destroyed.err().unwrap_or_else(|| panic!("{what}: a Destroy is acknowledged"));
        assert_fault(&status, Code::Unavailable, "STORE_UNAVAILABLE", None);
        let uri = format!("http://{}", program.address("grpc"));
        let channel = Channel::from_shared(uri).expect("an address").connect_lazy();
        health::becomes(channel, ServingStatus::NotServing).await;
        let (_, log) = program.stop();
        let lines: Vec<_> =
            log.lines().filter(|line| line.contains("refuses every operation")).collect();
        assert_eq!(lines.len(), 1, "{what}: it is said once: {log}");
        assert!(
            lines[0].contains("data/db"),
            "{what}: expected the path of the log in {}",
            lines[0]
        );
        let new = directory.path().join("data");
        if what.ends_with("an empty one") {
            assert_eq!(content(&new).len(), 0, "{what}: nothing is written there");
        }
    }
}

/// Nobody asks for anything durable, and yet it is noticed, and said once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_gone_is_noticed_by_itself() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let settings = [
        "--set=store.sled.durability.write=buffered",
        "--set=store.sled.durability.destroy=buffered",
        "--set=store.sled.flush_interval=1h",
    ];
    let program = Program::serve_in(directory.path(), &settings);
    let browsers = fill(&program, 3, 10).await;
    fs::remove_dir_all(directory.path().join("data")).expect("removed");
    let uri = format!("http://{}", program.address("grpc"));
    let channel = Channel::from_shared(uri).expect("an address").connect_lazy();
    health::becomes(channel, ServingStatus::NotServing).await;
    // Work that asks how full the disk is, for a while.
    let mut client = client(&program).await;
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end {
        let credential = browsers[0].credential();
        let request = DestroyRequest { credential, ..Default::default() };
        client.destroy(request).await.expect_err("nothing is acknowledged any more");
    }
    let (_, log) = program.stop();
    assert!(log.lines().count() < 15, "expected each thing once, found {log}");
}

/// A database of a clean stop, and its sessions.
async fn database(
    directory: &Path,
    count: usize,
    data_bytes: usize,
    starts: usize,
) -> Vec<Browser> {
    let mut program = Program::serve_in(directory, &[]);
    let browsers = fill(&program, count, data_bytes).await;
    for _ in 1..starts {
        assert_eq!(program.stop().0, Some(0));
        program = Program::serve_in(directory, &[]);
    }
    assert_eq!(are_active(&program, &browsers).await, count);
    assert_eq!(program.stop().0, Some(0));
    browsers
}

type Damage = fn(&fs::File, u64);

/// How a log is damaged while no daemon runs, of which so many bytes are in use. The first
/// ones are damage wherever the pages of live sessions are.
const DAMAGES: [(&str, Damage); 6] = [
    ("the middle half is overwritten", |log, len| {
        log.write_all_at(&noise(len as usize / 2), len / 4).expect("written");
    }),
    ("the middle half is zero", |log, len| {
        log.write_all_at(&vec![0; len as usize / 2], len / 4).expect("written");
    }),
    ("the second half is cut off", |log, len| log.set_len(len / 2).expect("cut")),
    ("the last hundredth is cut off", |log, len| log.set_len(len - len / 100).expect("cut")),
    ("the last hundredth is zero", |log, len| {
        log.write_all_at(&vec![0; len as usize / 100], len - len / 100).expect("written");
    }),
    ("one octet in the middle is another", |log, len| {
        let mut octet = [0];
        log.read_exact_at(&mut octet, len / 2).expect("read");
        log.write_all_at(&[octet[0] ^ 1], len / 2).expect("written");
    }),
];

fn damage(data: &Path, how: Damage) {
    let path = data.join("db");
    // A start fills the rest of the last segment with zeros.
    let octets = fs::read(&path).expect("a log");
    let used = octets.iter().rposition(|octet| *octet != 0).expect("there is something");
    let log = fs::File::options().read(true).write(true).open(&path).expect("a log");
    how(&log, used as u64 + 1);
}

/// What sled passes over without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_with_a_hole_or_without_its_end_is_damage() {
    // In one segment and in several, newly written and after another start.
    for (count, data_bytes, starts) in [(2000, 10, 1), (2000, 10, 2), (700, 30_000, 1)] {
        let original = tempfile::tempdir().expect("a scratch folder");
        database(original.path(), count, data_bytes, starts).await;
        // Of several segments, some are not in use.
        let damages = if data_bytes > 1000 { &DAMAGES[..3] } else { &DAMAGES[..] };
        for (what, how) in damages {
            let what =
                format!("{what}, of {count} sessions of {data_bytes} octets, start {starts}");
            let directory = tempfile::tempdir().expect("a scratch folder");
            copy(original.path(), directory.path());
            let data = directory.path().join("data");
            damage(&data, *how);
            let before = fs::read(data.join("db")).expect("a log");
            let opened = open(directory.path(), OnDamage::Refuse).map(drop);
            let Err(OpenError::Damaged { problem, .. }) = opened else {
                panic!("{what}: expected damage, found {opened:?}");
            };
            let named = problem.contains("db") || problem.contains("log");
            assert!(named, "{what}: expected what is wrong in {problem:?}");
            assert!(fs::read(data.join("db")).expect("a log") == before, "{what}: it has changed");
            drop(open(directory.path(), OnDamage::Quarantine).expect("it is moved aside"));
            let moved = content(&data.join("quarantine"));
            let log = moved.iter().find(|(name, _)| name.ends_with("db")).expect("the log");
            assert!(log.1.as_ref() == Some(&before), "{what}: to the byte");
        }
    }
}

/// After a kill nothing says that all is settled, but the mark says how far it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_after_a_kill_as_well() {
    let original = tempfile::tempdir().expect("a scratch folder");
    let program = Program::serve_in(original.path(), &[]);
    let browsers = fill(&program, 2000, 10).await;
    // A synced change: all before it is on the disk.
    let credential = browsers[0].credential();
    let request = DestroyRequest { credential, ..Default::default() };
    client(&program).await.destroy(request).await.expect("it is taken");
    program.kill();
    for (what, how) in DAMAGES {
        let directory = tempfile::tempdir().expect("a scratch folder");
        copy(original.path(), directory.path());
        damage(&directory.path().join("data"), how);
        let opened = open(directory.path(), OnDamage::Refuse).map(drop);
        assert!(matches!(opened, Err(OpenError::Damaged { .. })), "{what}: {opened:?}");
    }
    let program = Program::serve_in(original.path(), &[]);
    assert_eq!(are_active(&program, &browsers[1..]).await, 1999, "as it was left, it is fine");
}

/// An operator may take what is left: without the mark nothing is known to be missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_can_be_had_without_the_mark() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let browsers = database(directory.path(), 2000, 10, 1).await;
    let data = directory.path().join("data");
    damage(&data, DAMAGES[0].1);
    open(directory.path(), OnDamage::Refuse).map(drop).expect_err("it is damaged");
    fs::remove_file(data.join("mark")).expect("it is there");
    for _ in 0..3 {
        let program = Program::serve_in(directory.path(), &[]);
        let left = are_active(&program, &browsers).await;
        assert!((1..2000).contains(&left), "some are left, found {left}");
        let (code, log) = program.stop();
        assert_eq!(code, Some(0));
        assert!(!log.contains("panicked"), "{log}");
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").permissions().mode() & 0o7777
}

fn assert_private(data: &Path) {
    assert_eq!(mode(data), 0o700, "{}", data.display());
    for name in content(data).keys() {
        let path = data.join(name);
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), expected, "{:o} expected of {}", expected, path.display());
    }
}

#[test]
fn nobody_else_may_read_the_data() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let data = scratch.path().join("data");
    fs::create_dir(&data).expect("made");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).expect("set");
    let opened = open(scratch.path(), OnDamage::Refuse).expect("it opens");
    assert_private(&data);
    drop(opened);
    // As an older release has left it, or a volume that was given to a group.
    for name in content(&data).keys() {
        let path = data.join(name);
        let wide = if path.is_dir() { 0o2775 } else { 0o664 };
        fs::set_permissions(path, fs::Permissions::from_mode(wide)).expect("set");
    }
    fs::set_permissions(&data, fs::Permissions::from_mode(0o2777)).expect("set");
    drop(open(scratch.path(), OnDamage::Refuse).expect("it opens"));
    assert_private(&data);
    // Quarantine as well.
    fs::write(data.join("db"), noise(5000)).expect("written");
    fs::set_permissions(data.join("db"), fs::Permissions::from_mode(0o644)).expect("set");
    let opened = open(scratch.path(), OnDamage::Quarantine).expect("it is moved aside");
    assert!(data.join("quarantine").exists(), "it was damaged");
    assert_private(&data);
    drop(opened);
}
