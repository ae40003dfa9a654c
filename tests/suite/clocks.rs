//! The wall clock is wrong, is set, and is put right again: no session ends by it, and no
//! time stays wrong.

use std::{fs, path::PathBuf, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use sessiond::{
    grpc::pb::{
        ExportSessionsRequest, ResolveRequest, SessionState, WriteResponse,
        session_service_client::SessionServiceClient,
    },
    server::config::Backend,
    session::clock::Clock,
};
use tonic::transport::Channel;

use crate::{
    over_every_store,
    support::{
        browser::Browser,
        daemon::{Daemon, START, TestClock, in_force, millis, set},
        program::{PATIENCE, Program, run, sessiond, stderr, stdout},
    },
};

over_every_store!(a_step_of_the_wall_ends_nothing_and_is_shown);

const HOUR: Duration = Duration::from_secs(3600);
const TEN_YEARS: i64 = 315_360_000_000;

fn created(answer: &WriteResponse) -> u64 {
    millis(answer.session.as_ref().expect("a session").create_time.as_ref())
}

async fn a_step_of_the_wall_ends_nothing_and_is_shown(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let early = daemon.write(set("{}")).await;
    let browser = Browser::with(&early.set_cookie);
    assert_eq!(created(&early), START.unix_millis());
    for ahead in [2 * 3_600_000, -2 * 3_600_000, TEN_YEARS, 0] {
        daemon.clock.machine.set_wall_ahead(ahead);
        daemon.clock.follow_wall();
        assert_eq!(daemon.state(&browser).await, SessionState::Active, "{ahead} ms ahead");
        let shown = START.unix_millis().saturating_add_signed(ahead);
        let late = daemon.write(set("{}")).await;
        assert_eq!(created(&late), shown);
        let expires = humantime_of(shown + 1_828_125);
        let line = &late.set_cookie[0];
        assert!(line.contains(&format!("Max-Age=1829; Expires={expires}")), "{line}");
        let page = daemon.admin.clone().export_sessions(ExportSessionsRequest::default()).await;
        let page = page.expect("an export is answered").into_inner();
        assert_eq!(millis(page.page_time.as_ref()), shown);
        for record in page.records {
            assert_eq!(millis(record.create_time.as_ref()), shown, "all are of this moment");
        }
    }
}

/// As `Expires` has it.
fn humantime_of(millis: u64) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_millis(millis);
    httpdate::fmt_http_date(time)
}

/// The time in which the machine was off counts if it is known how long that was. Else
/// sessions live longer by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_reboot_took_counts_if_it_is_known() {
    if in_force(Backend::Sled) != Backend::Sled {
        return; // Redis has a clock of its own.
    }
    for (before, after, state) in [
        (true, true, SessionState::Expired),
        (true, false, SessionState::Active),
        (false, true, SessionState::Active),
        (false, false, SessionState::Active),
    ] {
        let clock = TestClock::new();
        // Two hours behind, as before a time server is reached.
        clock.machine.set_wall_ahead(-2 * 3_600_000);
        let clock = TestClock::on(std::sync::Arc::clone(&clock.machine));
        let daemon = Daemon::at(Backend::Sled, clock, |_| {}).await;
        let browser = daemon.visitor("{}").await;
        if before {
            daemon.clock.machine.synchronize();
        }
        let stopped = daemon.stop().await;
        stopped.machine.reboot(HOUR);
        if after {
            stopped.machine.synchronize();
        }
        let daemon = stopped.start().await;
        assert_eq!(daemon.state(&browser).await, state, "synchronized: {before}, {after}");
        let late = daemon.write(set("{}")).await;
        let behind = if before || after { 0 } else { 2 * 3_600_000 };
        let shown = START.unix_millis() + 3_600_000 - behind;
        assert_eq!(created(&late), shown, "the time that is shown is the wall clock's");
        let _stopped = daemon.stop().await;
    }
}

/// The built program, on a machine whose wall clock is set.
struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    fn new(ahead: i64) -> Self {
        let machine = Self { directory: tempfile::tempdir().expect("a scratch folder") };
        machine.set(ahead);
        machine
    }

    /// Sets the wall clock so many seconds ahead of what is right.
    fn set(&self, ahead: i64) {
        let (new, file) = (self.directory.path().join("new"), self.file());
        fs::write(&new, ahead.to_string()).expect("written");
        fs::rename(new, file).expect("renamed");
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("ahead")
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let path =
            format!("--set=store.sled.path={}", self.directory.path().join("data").display());
        let secret = "--set=engine.default.cookie.secrets=a-signing-secret-for-tests-long-enough";
        let mut command = sessiond(arguments.iter().copied().chain([path.as_str(), secret]));
        // Beside the folder of this test binary, where cargo puts examples.
        let here = std::env::current_exe().expect("a path");
        let examples = here.ancestors().nth(2).expect("a folder").join("examples");
        command.env("LD_PRELOAD", examples.join("libwall_clock.so"));
        command.env("WALL_CLOCK_AHEAD", self.file());
        command
    }

    fn serve(&self) -> Program {
        let ports = [
            "serve",
            "--set=listen.grpc=127.0.0.1:0",
            "--set=listen.admin=127.0.0.1:0",
            "--set=listen.metrics=",
        ];
        Program::start(&mut self.command(&ports))
    }

    /// What `sessiond clock` prints, and its exit code.
    fn clock(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = self.command(arguments).output().expect("the program can be run");
        (output.status.code(), stdout(&output), stderr(&output))
    }
}

async fn client(program: &Program) -> SessionServiceClient<Channel> {
    let uri = format!("http://{}", program.address("grpc"));
    SessionServiceClient::connect(uri).await.expect("the daemon is there")
}

async fn create(program: &Program) -> WriteResponse {
    client(program).await.write(set("{}")).await.expect("a Write is taken").into_inner()
}

/// The state of the browser's session, and the seconds between its creation and what is the
/// right time now.
async fn resolved(program: &Program, browser: &Browser) -> (SessionState, Option<i64>) {
    let request = ResolveRequest { credential: browser.credential(), ..Default::default() };
    let answer = client(program).await.resolve(request).await.expect("answered").into_inner();
    let age = answer.session.as_ref().map(|session| age(session.create_time.as_ref()));
    (answer.state(), age)
}

fn age(create_time: Option<&prost_types::Timestamp>) -> i64 {
    clock_gettime(ClockId::Realtime).tv_sec - create_time.expect("a timestamp").seconds
}

/// How long a test may take in which nothing is to expire.
const SOON: i64 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_with_a_wrong_clock_ends_nothing_and_leaves_nothing_wrong() {
    for wrong in [-2 * 3600, TEN_YEARS / 1000] {
        let machine = Machine::new(wrong);
        let program = machine.serve();
        let browser = Browser::with(&create(&program).await.set_cookie);
        assert_eq!(program.stop().0, Some(0));
        machine.set(0);
        let program = machine.serve();
        let (state, age_of_old) = resolved(&program, &browser).await;
        assert_eq!(state, SessionState::Active, "the clock was {wrong} s ahead at first");
        let age_of_old = age_of_old.expect("a live session");
        assert!((0..SOON).contains(&age_of_old), "created {age_of_old} s ago");
        let answer = create(&program).await;
        let new = answer.session.as_ref().expect("a session");
        let age_of_new = age(new.create_time.as_ref());
        assert!((0..SOON).contains(&age_of_new), "created {age_of_new} s ago");

        let export = machine.directory.path().join("export");
        let export = export.to_str().expect("a path");
        let admin = program.address("admin");
        let exported = run(["export", "--address", admin, "--output", export]);
        assert_eq!(exported.status.code(), Some(0), "{}", stderr(&exported));
        let other = Machine::new(0);
        let other = other.serve();
        let imported = run(["import", "--address", other.address("admin"), "--input", export]);
        assert_eq!(imported.status.code(), Some(0), "{}", stderr(&imported));
        assert_eq!(resolved(&other, &browser).await.0, SessionState::Active, "it was imported");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_while_the_daemon_runs_is_followed() {
    let machine = Machine::new(0);
    let program = machine.serve();
    let browser = Browser::with(&create(&program).await.set_cookie);
    for ahead in [7200, -7200] {
        machine.set(ahead);
        let followed = async {
            loop {
                let answer = create(&program).await;
                let age = age(answer.session.expect("a session").create_time.as_ref());
                if (age + ahead).abs() < SOON {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let followed = tokio::time::timeout(PATIENCE, followed).await;
        followed.unwrap_or_else(|_| panic!("times should be shown {ahead} s ahead by now"));
        assert_eq!(resolved(&program, &browser).await.0, SessionState::Active);
    }
    program.kill();
    machine.set(0);
    let program = machine.serve();
    let (state, age) = resolved(&program, &browser).await;
    assert_eq!(state, SessionState::Active, "a crash makes no difference");
    assert!((0..SOON).contains(&age.expect("a live session")), "{age:?}");
    let (code, log) = program.stop();
    assert_eq!(code, Some(0));
    assert_eq!(log.matches("the system clock was set").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_of_a_directory_is_shown_and_reset() {
    let machine = Machine::new(-7200);
    let (code, _, said) = machine.clock(&["clock"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("there is no data directory"), "{said}");
    let program = machine.serve();
    let browser = Browser::with(&create(&program).await.set_cookie);
    let (code, _, said) = machine.clock(&["clock", "--reset"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("is in use by another process"), "{said}");
    assert_eq!(program.stop().0, Some(0));

    machine.set(0);
    let (code, shown, said) = machine.clock(&["clock"]);
    assert_eq!(code, Some(0), "{said}");
    let value = |shown: &str, name: &str| {
        let mut pairs = shown.split_whitespace().filter_map(|word| word.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).expect("a value")
    };
    let difference = |shown: &str| {
        let time = |name| humantime::parse_rfc3339(&value(shown, name)).expect("a time");
        let difference = time("wall_clock").duration_since(time("session_clock"));
        difference.expect("it is ahead").as_secs()
    };
    assert!((7199..=7201).contains(&difference(&shown)), "{shown}");
    assert_ne!(value(&shown, "since_mark"), "unknown", "it is the same boot: {shown}");
    // Looking changes nothing.
    let program = machine.serve();
    assert_eq!(resolved(&program, &browser).await.0, SessionState::Active);
    assert_eq!(program.stop().0, Some(0));

    let (code, shown, said) = machine.clock(&["clock", "--reset"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(difference(&shown) <= 1, "{shown}");
    let program = machine.serve();
    let state = resolved(&program, &browser).await.0;
    assert_eq!(state, SessionState::Expired, "two hours have passed, says the operator");
    drop(program);

    let (code, _, said) = machine.clock(&["clock", "--set=store.backend=memory"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("the memory store keeps no mark of the time"), "{said}");
    assert_eq!(machine.clock(&["clock", "--set=store.backend=x"]).0, Some(78));
    assert_eq!(machine.clock(&["clock", "--when"]).0, Some(64));
}
