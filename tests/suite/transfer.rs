//! Export and import: sessions move to another daemon with any kind of store.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use sessiond::{
    grpc::pb::{
        ExportSessionsRequest, ExportSessionsResponse, ImportSessionsRequest,
        ImportSessionsResponse, SessionEventKind, SessionRecord, SessionState,
        WatchSessionsRequest, WriteRequest, session_service_client::SessionServiceClient,
    },
    server::config::Backend,
};
use tonic::{Code, Status};

use crate::{
    over_every_store,
    support::{
        browser::Browser,
        daemon::{Daemon, assert_fault, data, login, set},
        program::{Program, run, sessiond, stderr, stdout},
        redis::is_missing,
    },
};

over_every_store!(
    sessions_move_to_every_store,
    later_states_take_the_place_of_earlier_ones,
    what_stays_is_exported_while_others_come_and_go,
    all_engines_are_exported_or_one,
    what_is_over_stays_behind,
    rubbish_is_refused_whole,
    any_version_goes_on_to_the_next_daemon,
    a_page_token_is_good_for_its_question,
    watchers_hear_of_what_was_imported,
);

async fn page(
    daemon: &Daemon,
    request: ExportSessionsRequest,
) -> Result<ExportSessionsResponse, Status> {
    daemon.admin.clone().export_sessions(request).await.map(|answer| answer.into_inner())
}

/// All pages of an export, with a small page size.
async fn export(daemon: &Daemon, engine: &str) -> Vec<SessionRecord> {
    let (mut records, mut page_token) = (Vec::new(), String::new());
    loop {
        let engine = engine.to_owned();
        let request = ExportSessionsRequest { engine, page_size: 1, page_token };
        let page = page(daemon, request).await.expect("a page");
        records.extend(page.records);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return records;
        }
    }
}

async fn try_import(
    daemon: &Daemon,
    records: &[SessionRecord],
) -> Result<ImportSessionsResponse, Status> {
    let request = ImportSessionsRequest { records: records.to_vec() };
    daemon.admin.clone().import_sessions(request).await.map(|answer| answer.into_inner())
}

/// Imports the records. Returns how many were created, replaced, kept and dropped.
async fn import(daemon: &Daemon, records: &[SessionRecord]) -> [u32; 4] {
    let answer = try_import(daemon, records).await.expect("an import is answered");
    let ImportSessionsResponse { created_count, replaced_count, kept_count, dropped_count } =
        answer;
    [created_count, replaced_count, kept_count, dropped_count]
}

/// The kinds of stores that can be tested on this machine.
fn stores() -> Vec<Backend> {
    let is_here = |store: &Backend| *store != Backend::Redis || !is_missing();
    Backend::ALL.iter().copied().filter(is_here).collect()
}

const ODD: &str = "{\"n\" : 9007199254740993.10,\n \"s\":\"\\u00e9\\n\"}";

async fn sessions_move_to_every_store(backend: Backend) {
    let here = Daemon::start(backend).await;
    let mut browsers = Vec::new();
    for number in 0..250 {
        browsers.push(here.visitor(&format!(r#"{{"n":{number}}}"#)).await);
    }
    browsers.push(here.visitor(ODD).await);
    browsers.push(here.login("ann").await);
    let own = Some(prost_types::Duration { seconds: 50, nanos: 0 });
    browsers.push(Browser::with(
        &here.write(WriteRequest { duration: own, ..login("ann") }).await.set_cookie,
    ));
    let mut rolled = here.visitor("{}").await;
    let before = Browser { cookie: rolled.cookie.clone() };
    here.change(&mut rolled, WriteRequest { roll: true, ..login("bob") }).await;
    browsers.push(rolled);
    let ended = here.visitor("{}").await;
    here.destroy(&ended).await;

    let records = export(&here, "").await;
    let text = format!("{records:?}");
    assert!(!text.contains("9007199254740993"), "expected no data in the Debug text: {text}");
    for backend in stores() {
        let there = Daemon::start(backend).await;
        let count = browsers.len() as u32;
        assert_eq!(import(&there, &records).await, [count, 0, 0, 0], "to {backend:?}");
        assert_eq!(import(&there, &records).await, [0, 0, count, 0], "and once more");
        for browser in &browsers {
            let (old, new) = (here.resolve(browser).await, there.resolve(browser).await);
            assert_eq!(new.state(), SessionState::Active);
            assert!(old.session == new.session, "expected the same session with the same data");
            assert_eq!(new.set_cookie, [""; 0], "expected no new cookie");
        }
        assert_eq!(there.state(&before).await, SessionState::Superseded, "an id before a roll");
        assert_eq!(there.state(&ended).await, SessionState::NotFound);
        assert_eq!(there.list("ann").await, here.list("ann").await);
        assert_eq!(there.list("bob").await.len(), 1);
        assert!(sorted(export(&there, "").await) == sorted(records.clone()), "and back again");
    }
}

fn sorted(mut records: Vec<SessionRecord>) -> Vec<SessionRecord> {
    records.sort_by(|one, other| one.id.cmp(&other.id));
    records.dedup_by(|one, other| one.id == other.id);
    records
}

async fn later_states_take_the_place_of_earlier_ones(backend: Backend) {
    let (here, there) = (Daemon::start(backend).await, Daemon::start(backend).await);
    let mut moved = here.visitor(r#"{"n":1}"#).await;
    let mut changed_there = here.visitor(r#"{"n":1}"#).await;
    let first = export(&here, "").await;
    assert_eq!(import(&there, &first).await, [2, 0, 0, 0]);
    there.change(&mut changed_there, set(r#"{"n":2}"#)).await;
    let before = Browser { cookie: moved.cookie.clone() };
    here.change(&mut moved, WriteRequest { set: r#"{"n":3}"#.into(), ..login("ann") }).await;
    let second = export(&here, "").await;
    assert_eq!(
        import(&there, &second).await,
        [0, 1, 1, 0],
        "expected the later record on each side to be kept"
    );
    assert_eq!(data(&there.resolve(&moved).await), r#"{"n":3}"#);
    assert_eq!(there.state(&before).await, SessionState::Superseded, "the roll is imported");
    assert_eq!(there.list("ann").await.len(), 1);
    assert_eq!(data(&there.resolve(&changed_there).await), r#"{"n":2}"#, "expected no older data");
    assert_eq!(import(&there, &first).await, [0, 0, 2, 0], "the first export once more");
    there.destroy(&moved).await;
    assert_eq!(there.list("ann").await.len(), 0);
}

async fn what_stays_is_exported_while_others_come_and_go(backend: Backend) {
    let here = Daemon::start(backend).await;
    let mut staying = HashMap::new();
    for number in 0..300 {
        let browser = here.visitor(&format!(r#"{{"n":{number}}}"#)).await;
        staying.insert(here.id(&browser).await, browser);
    }
    let coming_and_going = async {
        for _ in 0..200 {
            let mut browser = here.visitor("{}").await;
            here.change(&mut browser, login("ann")).await;
            here.destroy(&browser).await;
        }
    };
    let (records, ()) = tokio::join!(export(&here, ""), coming_and_going);
    for record in records {
        staying.remove(&record.id);
    }
    assert!(staying.is_empty(), "expected all sessions, {} are missing", staying.len());
}

async fn all_engines_are_exported_or_one(backend: Backend) {
    let with_shop = async || {
        Daemon::with(backend, |config| {
            let engine = config.engine["default"].clone();
            config.engine.insert("shop".to_owned(), engine);
        })
        .await
    };
    let here = with_shop().await;
    here.visitor("{}").await;
    let of_shop = WriteRequest { engine: "shop".into(), ..set("{}") };
    here.write(of_shop.clone()).await;
    here.write(of_shop).await;
    let engines = |records: &[SessionRecord]| {
        records.iter().map(|record| record.engine.clone()).collect::<Vec<_>>()
    };
    let all = export(&here, "").await;
    assert_eq!(engines(&all), ["default", "shop", "shop"]);
    assert_eq!(engines(&export(&here, "shop").await), ["shop", "shop"]);
    assert_eq!(import(&with_shop().await, &all).await, [3, 0, 0, 0]);
    let without = Daemon::start(backend).await;
    let error = try_import(&without, &all).await.expect_err("no such engine");
    assert_fault(&error, Code::InvalidArgument, "UNKNOWN_ENGINE", Some("records"));
    assert_eq!(export(&without, "").await.len(), 0, "expected no imported session");
    let asked = ExportSessionsRequest { engine: "nope".to_owned(), ..Default::default() };
    let error = page(&here, asked).await.expect_err("no such engine");
    assert_fault(&error, Code::InvalidArgument, "UNKNOWN_ENGINE", Some("engine"));
}

async fn what_is_over_stays_behind(backend: Backend) {
    let (here, there) = (Daemon::start(backend).await, Daemon::start(backend).await);
    here.visitor("{}").await;
    let early = export(&here, "").await;
    here.clock.advance(Duration::from_secs(4000));
    there.clock.advance(Duration::from_secs(4000));
    let alive = here.visitor("{}").await;
    let records = export(&here, "").await;
    assert_eq!(records.len(), 1, "expected one expired session");
    assert_eq!(records[0].id, here.id(&alive).await);
    assert_eq!(import(&there, &early).await, [0, 0, 0, 1], "one has expired");
}

async fn rubbish_is_refused_whole(backend: Backend) {
    let here = Daemon::start(backend).await;
    here.visitor(r#"{"secret":1}"#).await;
    let good = export(&here, "").await.remove(0);
    let there = Daemon::start(backend).await;
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let good_ones = || good.clone();
    let large = format!("{{\"secret\":\"{}\"}}", "x".repeat(70_000));
    let rubbish = [
        ("id", SessionRecord { id: "a-token-in-its-place".to_owned(), ..good_ones() }),
        ("verifier_sha256", SessionRecord { verifier_sha256: vec![1; 31].into(), ..good_ones() }),
        ("version", SessionRecord { version: 0, ..good_ones() }),
        ("version", SessionRecord { version: u64::MAX, ..good_ones() }),
        ("principal", SessionRecord { principal: vec![b'x'; 300].into(), ..good_ones() }),
        ("create_time", SessionRecord { create_time: None, ..good_ones() }),
        ("idle_deadline", SessionRecord { idle_deadline: time(-1), ..good_ones() }),
        ("idle_deadline", SessionRecord { idle_deadline: time(i64::MAX), ..good_ones() }),
        ("idle_deadline", SessionRecord { idle_deadline: time(9_000_000_000), ..good_ones() }),
        ("data", SessionRecord { data: "[\"secret\"]".into(), ..good_ones() }),
        ("data", SessionRecord { data: large.into(), ..good_ones() }),
        (
            "duration",
            SessionRecord {
                duration: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
                ..good_ones()
            },
        ),
    ];
    for (field, bad) in rubbish {
        let error = try_import(&there, &[good_ones(), bad]).await.expect_err(field);
        assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some("records"));
        let message = error.message();
        assert!(message.contains(&format!("record 1: {field}: expected")), "{field}: {message}");
        assert!(!message.contains("secret"), "{message}");
        assert_eq!(export(&there, "").await.len(), 0, "{field}: expected no imported session");
    }
    let many = vec![good_ones(); 1001];
    let error = try_import(&there, &many).await.expect_err("too many");
    assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some("records"));
    // A clock that is ahead must not give a session more than its absolute lifetime.
    let ahead = SessionRecord { create_time: time(1_900_000_000), ..good_ones() };
    assert_eq!(import(&there, &[ahead]).await, [1, 0, 0, 0]);
    let kept = export(&there, "").await.remove(0);
    assert_eq!(kept.create_time.expect("a time").seconds, 1_800_000_000, "it is now at the latest");
}

async fn any_version_goes_on_to_the_next_daemon(backend: Backend) {
    let here = Daemon::start(backend).await;
    let mut browser = here.visitor("{}").await;
    let mut records = export(&here, "").await;
    for version in [i64::MAX as u64, 1 << 62, (1 << 62) + 1] {
        records[0].version = version;
        let (there, next) = (Daemon::start(backend).await, Daemon::start(backend).await);
        assert_eq!(import(&there, &records).await, [1, 0, 0, 0], "version {version}");
        assert_eq!(import(&there, &records).await, [0, 0, 1, 0], "once more");
        there.change(&mut browser, set(r#"{"n":1}"#)).await;
        let exported = export(&there, "").await;
        assert_eq!(import(&next, &exported).await, [1, 0, 0, 0], "version {version}, written to");
        assert_eq!(data(&next.resolve(&browser).await), r#"{"n":1}"#);
    }
}

async fn a_page_token_is_good_for_its_question(backend: Backend) {
    let here = Daemon::start(backend).await;
    for _ in 0..250 {
        here.visitor("{}").await;
    }
    let first = ExportSessionsRequest { page_size: 1, ..Default::default() };
    let token = page(&here, first).await.expect("a page").next_page_token;
    assert!(!token.is_empty(), "expected more pages");
    for (engine, page_token) in [("default", token.as_str()), ("", "x"), ("", &token[1..])] {
        let (engine, page_token) = (engine.to_owned(), page_token.to_owned());
        let request = ExportSessionsRequest { engine, page_token, page_size: 0 };
        let error = page(&here, request).await.expect_err("another question");
        assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some("page_token"));
    }
    let error = page(&here, ExportSessionsRequest { page_size: -1, ..Default::default() }).await;
    let error = error.expect_err("a negative size");
    assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some("page_size"));
}

async fn watchers_hear_of_what_was_imported(backend: Backend) {
    let (here, there) = (Daemon::start(backend).await, Daemon::start(backend).await);
    let mut browser = here.login("ann").await;
    let first = export(&here, "").await;
    here.change(&mut browser, login("bob")).await;
    let second = export(&here, "").await;
    let watch = there.admin.clone().watch_sessions(WatchSessionsRequest::default()).await;
    let mut events = watch.expect("a stream").into_inner();
    import(&there, &first).await;
    import(&there, &second).await;
    let created = events.message().await.expect("an event").expect("the stream goes on");
    assert_eq!((created.kind(), &created.principal[..]), (SessionEventKind::Created, &b"ann"[..]));
    let rolled = events.message().await.expect("an event").expect("the stream goes on");
    assert_eq!((rolled.kind(), &rolled.principal[..]), (SessionEventKind::Rolled, &b"bob"[..]));
    assert_eq!(rolled.former_principal, "ann");
}

/// A daemon with a secret that others share, and its sessions.
struct Served {
    program: Program,
    _directory: tempfile::TempDir,
}

impl Served {
    fn start() -> Self {
        Self::with(&[])
    }

    fn with(settings: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a scratch folder");
        Self { program: Program::serve_in(directory.path(), settings), _directory: directory }
    }

    fn admin(&self) -> &str {
        self.program.address("admin")
    }

    async fn client(&self) -> SessionServiceClient<tonic::transport::Channel> {
        let address = format!("http://{}", self.program.address("grpc"));
        SessionServiceClient::connect(address).await.expect("the daemon listens")
    }

    async fn visitors(&self, count: usize) -> Vec<Browser> {
        let mut client = self.client().await;
        let mut browsers = Vec::new();
        for _ in 0..count {
            let answer = client.write(set(r#"{"a":1}"#)).await.expect("a Write is taken");
            browsers.push(Browser::with(&answer.into_inner().set_cookie));
        }
        browsers
    }

    async fn state(&self, browser: &Browser) -> SessionState {
        let request = sessiond::grpc::pb::ResolveRequest {
            credential: browser.credential(),
            ..Default::default()
        };
        let answer = self.client().await.resolve(request).await;
        answer.expect("a Resolve is answered").into_inner().state()
    }

    fn export(&self, more: &[&str]) -> Output {
        run(["export", "--address", self.admin()].into_iter().chain(more.iter().copied()))
    }

    fn import(&self, lines: &[u8], more: &[&str]) -> Output {
        let arguments = ["import", "--address", self.admin()];
        let mut child = sessiond(arguments.into_iter().chain(more.iter().copied()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be run");
        // It may have ended before it read all input. Its output is what counts.
        let _ = child.stdin.take().expect("it is piped").write_all(lines);
        child.wait_with_output().expect("it ends")
    }
}

#[track_caller]
fn assert_done(output: &Output, expected: &str) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    assert_eq!(stdout(output), format!("{expected}\n"), "{}", stderr(output));
}

#[track_caller]
fn assert_failed(output: &Output, expected: &str) {
    assert_eq!(output.status.code(), Some(1), "{}", stdout(output));
    let told = stderr(output);
    assert!(told.contains(expected), "expected {expected:?}, found {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_moves_everything() {
    let (here, there) = (Served::start(), Served::start());
    let browsers = here.visitors(20).await;
    let exported = here.export(&[]);
    assert_eq!(exported.status.code(), Some(0), "{}", stderr(&exported));
    assert_eq!(stderr(&exported), "sessiond: exported 20 records of default\n");
    let text = stdout(&exported);
    for browser in &browsers {
        let cookie = browser.cookie.as_deref().expect("a cookie");
        let (_, token) = cookie.split_once('=').expect("a pair");
        let (id, _) = token.split_once('.').expect("a token");
        let (public, verifier) = id.split_at(16);
        assert!(text.contains(public) && !text.contains(verifier), "expected no verifier");
    }
    assert_done(&there.import(&exported.stdout, &[]), "created=20 replaced=0 kept=0 dropped=0");
    assert_done(&there.import(&exported.stdout, &[]), "created=0 replaced=0 kept=20 dropped=0");
    for browser in &browsers {
        assert_eq!(there.state(browser).await, SessionState::Active);
    }
}

/// If a session is logged out at the old daemon between two exports, the mirror ends it at the
/// new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_ends_what_has_ended() {
    let (here, there) = (Served::start(), Served::start());
    let browsers = here.visitors(4).await;
    let first = there.import(&here.export(&[]).stdout, &[]);
    assert_done(&first, "created=4 replaced=0 kept=0 dropped=0");
    let gone = browsers[2].credential();
    let request = sessiond::grpc::pb::DestroyRequest { credential: gone, ..Default::default() };
    here.client().await.destroy(request).await.expect("a Destroy is answered");
    let second = here.export(&[]).stdout;
    let new = there.visitors(1).await.remove(0);
    assert_done(
        &there.import(&second, &["--mirror"]),
        "created=0 replaced=0 kept=3 dropped=0 ended=1",
    );
    assert_eq!(there.state(&browsers[2]).await, SessionState::NotFound, "expected its logout");
    assert_eq!(there.state(&browsers[3]).await, SessionState::Active);
    assert_eq!(there.state(&new).await, SessionState::Active, "newer than the export");
    let text = String::from_utf8(second).expect("text");
    let part = text.replace("{\"end\"", "\n#");
    assert_failed(&there.import(part.as_bytes(), &["--mirror"]), "line ");
    let cut = text.lines().take(2).collect::<Vec<_>>().join("\n") + "\n";
    assert_failed(&there.import(cut.as_bytes(), &["--mirror"]), "the export is incomplete");
    assert_failed(&there.import(cut.as_bytes(), &["--mirror"]), "first line, with --mirror");
    let headless = text.lines().skip(1).collect::<Vec<_>>().join("\n") + "\n";
    assert_failed(&there.import(headless.as_bytes(), &["--mirror"]), "no session was ended");
    assert_eq!(there.state(&browsers[3]).await, SessionState::Active);
}

fn write_file(path: &Path, text: &str) {
    fs::write(path, text).expect("the scratch folder can be written");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_export_goes_on() {
    let here = Served::start();
    here.visitors(1200).await;
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = directory.path().join("sessions.jsonl");
    let file = path.to_str().expect("a path");
    let exported = here.export(&["--output", file]);
    assert_eq!(stderr(&exported), "sessiond: exported 1200 records of default\n");
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "expected mode 0600, the file has all data");
    let whole = fs::read_to_string(&path).expect("text");
    assert_failed(&here.export(&["--output", file]), "exists already");
    let again = here.export(&["--output", file, "--resume"]);
    assert_eq!(stderr(&again), "sessiond: the export is complete already\n");
    // Cut within a record, some time after the first cursor, and directly after the header.
    let cursor = whole.find("{\"cursor\"").expect("more than a page");
    for end in [cursor + 2000, whole.find('\n').expect("a line") + 5] {
        write_file(&path, &whole[..end]);
        let resumed = here.export(&["--output", file, "--resume"]);
        assert_eq!(stderr(&resumed), "sessiond: exported 1200 records of default\n");
        assert!(fs::read_to_string(&path).expect("text") == whole, "expected the complete export");
    }
    let engine = here.export(&["--output", file, "--resume", "--engine", "shop"]);
    assert_failed(&engine, "it is not an export of shop alone");
    write_file(&path, "something else\n");
    assert_failed(&here.export(&["--output", file, "--resume"]), "line 1: expected a line of an");
    let there = Served::start();
    write_file(&path, &whole);
    assert!(whole.starts_with("{\"sessiond_export\":1,\"engine\":\"\","), "{}", &whole[..80]);
    let from = whole[..cursor].lines().count() + 2;
    let tail = there.import(b"", &["--input", file, "--from-line", &from.to_string()]);
    let count = 1200 - (from - 3);
    assert_done(&tail, &format!("created={count} replaced=0 kept=0 dropped=0"));
    // Only the records after the cursor.
    let line = whole[cursor..].lines().next().expect("a line");
    let after = line.split('"').nth(3).expect("the cursor");
    let rest = here.export(&["--after", after]);
    assert_eq!(stderr(&rest), format!("sessiond: exported {count} records of default\n"));
}

/// A file may be cut at any octet.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_goes_on_that_was_cut_within_a_character() {
    let here = Served::start();
    let mut client = here.client().await;
    for _ in 0..3 {
        client.write(set(r#"{"name":"Zoë"}"#)).await.expect("a Write is taken");
    }
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = directory.path().join("sessions.jsonl");
    let file = path.to_str().expect("a path");
    let exported = here.export(&["--output", file]);
    assert_eq!(stderr(&exported), "sessiond: exported 3 records of default\n");
    let whole = fs::read_to_string(&path).expect("text");
    let within = whole.find('ë').expect("what was set") + 1;
    assert!(!whole.is_char_boundary(within));
    fs::write(&path, &whole.as_bytes()[..within]).expect("the scratch folder can be written");
    let resumed = here.export(&["--output", file, "--resume"]);
    assert_eq!(stderr(&resumed), "sessiond: exported 3 records of default\n");
    assert_eq!(fs::read_to_string(&path).expect("text"), whole, "expected the complete export");
    let mut broken = whole.into_bytes();
    broken[within] = b'e';
    fs::write(&path, &broken).expect("the scratch folder can be written");
    let refused = here.export(&["--output", file, "--resume"]);
    assert_failed(&refused, "sessions.jsonl: line 2: ");
}

/// An engine without sessions has no record in the file that would show its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_export_knows_of_the_engines_before() {
    let settings = [
        "--set=engine.admin.cookie.name=admin",
        "--set=engine.admin.cookie.secrets=a-signing-secret-for-tests-long-enough",
    ];
    let (here, there) = (Served::with(&settings), Served::with(&settings));
    let request = WriteRequest { engine: "admin".into(), ..set(r#"{"a":1}"#) };
    there.client().await.write(request).await.expect("a Write is taken");
    here.visitors(3).await;
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = directory.path().join("sessions.jsonl");
    let file = path.to_str().expect("a path");
    let exported = here.export(&["--output", file]);
    assert_eq!(stderr(&exported), "sessiond: exported 3 records of admin, default\n");
    let whole = fs::read_to_string(&path).expect("text");
    // Cut within the records of the second engine. The rest has records of the first engine
    // only.
    let first_record = whole.find("\"engine\":\"default\"").expect("a record");
    write_file(&path, &whole[..first_record + 5]);
    let resumed = here.export(&["--output", file, "--resume"]);
    assert_eq!(stderr(&resumed), "sessiond: exported 3 records of admin, default\n");
    assert_eq!(fs::read_to_string(&path).expect("text"), whole, "expected the complete export");
    let mirrored = there.import(whole.as_bytes(), &["--mirror"]);
    assert_done(&mirrored, "created=3 replaced=0 kept=0 dropped=0 ended=1");
}

fn replace_last(text: &str, from: &str, to: &str) -> String {
    let (before, after) = text.rsplit_once(from).expect("it is there");
    format!("{before}{to}{after}")
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_says_where_to_go_on() {
    let there = Served::start();
    let good = {
        let here = Served::start();
        here.visitors(2).await;
        stdout(&here.export(&[]))
    };
    assert_failed(&there.import(b"", &[]), "the export is incomplete");
    assert_failed(&there.import(b"\xff\n", &[]), "cannot read line 1");
    assert_failed(&there.import(b"{\"secret\":1}\n", &[]), "line 1: expected a line of an export");
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = directory.path().join("sessions.jsonl");
    let file = path.to_str().expect("a path");
    write_file(&path, &good.replacen("\"version\":1", "\"version\":0", 1));
    let refused = there.import(b"", &["--input", file]);
    assert_failed(&refused, "line 2: ");
    assert_failed(&refused, "version: expected at least 1");
    assert_failed(&refused, "--from-line 1");
    write_file(&path, &replace_last(&good, "\"version\":1", "\"version\":0"));
    let refused = there.import(b"", &["--input", file]);
    assert_failed(&refused, "line 3: ");
    let skipped = there.import(b"", &["--input", file, "--from-line", "4"]);
    assert_done(&skipped, "created=0 replaced=0 kept=0 dropped=0");
    let there_already = there.import(good.as_bytes(), &[]);
    assert_done(&there_already, "created=1 replaced=0 kept=1 dropped=0");
    write_file(&path, &(good.clone() + &good));
    assert_failed(&there.import(b"", &["--input", file]), "line 5: expected no line after the end");
    let nobody = run(["export", "--address", "127.0.0.1:1", "--timeout", "2s"]);
    assert_failed(&nobody, "cannot reach a daemon at 127.0.0.1:1");
    assert_eq!(run(["import", "--mirror", "--from-line", "2"]).status.code(), Some(64));
}
