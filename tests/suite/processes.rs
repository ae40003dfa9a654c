//! The program as a process: start, stop, kill, and which process owns the data.

use std::{fs, io::Write, net::TcpStream, os::unix::fs::PermissionsExt};

use rustix::process::Signal;
use sessiond::grpc::pb::{
    DestroyRequest, ResolveRequest, SessionState, WriteRequest,
    session_service_client::SessionServiceClient,
};
use tonic::transport::Channel;

use crate::support::{
    browser::Browser,
    daemon::{login, set},
    program::{Program, run, sessiond, stderr, stdout},
};

async fn client(program: &Program) -> SessionServiceClient<Channel> {
    let address = program.address("grpc");
    let uri =
        if address.starts_with("unix:") { address.to_owned() } else { format!("http://{address}") };
    SessionServiceClient::connect(uri).await.expect("the daemon listens")
}

async fn create(program: &Program, text: &str) -> Browser {
    let created = client(program).await.write(set(text)).await.expect("a Write is taken");
    Browser::with(&created.into_inner().set_cookie)
}

fn resolve(browser: &Browser) -> ResolveRequest {
    ResolveRequest { credential: browser.credential(), ..Default::default() }
}

async fn state(program: &Program, browser: &Browser) -> SessionState {
    let answer =
        client(program).await.resolve(resolve(browser)).await.expect("a Resolve is answered");
    answer.into_inner().state()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_is_0_and_says_so() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut program = Program::dev();
        create(&program, "{}").await;
        program.signal(signal);
        assert_eq!(program.wait().code(), Some(0));
        let log = program.log();
        assert!(log.contains("running with --dev"), "the warning is missing: {log}");
        assert!(log.contains("stopping") && log.contains("stopped"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once() {
    let mut program = Program::serve(&["--dev", "--set=runtime.shutdown_grace=1h"]);
    // A call that never ends by itself, because its request is never complete.
    let mut stream = TcpStream::connect(program.address("grpc")).expect("the daemon is there");
    stream.write_all(&unfinished_call()).expect("sent");
    // An answer on another connection shows that the daemon runs and has read this request.
    create(&program, "{}").await;
    program.signal(Signal::TERM);
    // The listener is closed when the stop begins.
    while TcpStream::connect(program.address("grpc")).is_ok() {
        std::thread::yield_now();
    }
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(1), "the second signal does not wait for the grace");
    assert!(program.log().contains("second signal"));
}

/// The beginning of a connection with a Resolve whose body does not come.
pub(crate) fn unfinished_call() -> Vec<u8> {
    let mut block = Vec::new();
    let path = "/sessiond.v1.SessionService/Resolve";
    // HPACK: :method POST, :scheme http, then literals without indexing.
    block.extend([0x83, 0x86]);
    for (name, value) in [(0x04, path), (0x01, "localhost")] {
        block.extend([name, value.len() as u8]);
        block.extend(value.as_bytes());
    }
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        block.extend([0x00, name.len() as u8]);
        block.extend(name.as_bytes());
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    let mut octets = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    octets.extend([0, 0, block.len() as u8, 0x01, 0x04, 0, 0, 0, 1]);
    octets.extend(block);
    octets
}

/// Each kind of change is tested alone, so that no other change causes the flush.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_acknowledged_change_survives_kill_9_by_itself() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let start = || Program::serve_in(directory.path(), &["--set=store.sled.flush_interval=1h"]);
    let program = start();
    let mut browser = create(&program, r#"{"a":1}"#).await;
    program.kill();

    let program = start();
    assert_eq!(state(&program, &browser).await, SessionState::Active, "a create");
    let change = WriteRequest { credential: browser.credential(), ..set(r#"{"b":2}"#) };
    client(&program).await.write(change).await.expect("a Write is taken");
    program.kill();

    let program = start();
    let answer = client(&program).await.resolve(resolve(&browser)).await.expect("answered");
    let session = answer.into_inner().session.expect("a session");
    assert_eq!(session.data, r#"{"a":1,"b":2}"#, "a change");
    let old = browser.clone();
    let roll = WriteRequest { credential: browser.credential(), roll: true, ..set("{}") };
    let rolled = client(&program).await.write(roll).await.expect("a Write is taken").into_inner();
    browser.learn(&rolled.set_cookie);
    program.kill();

    let program = start();
    assert_eq!(state(&program, &browser).await, SessionState::Active, "a roll");
    assert_eq!(state(&program, &old).await, SessionState::Superseded, "a roll");
    let destroy = DestroyRequest { credential: browser.credential(), ..Default::default() };
    client(&program).await.destroy(destroy).await.expect("a Destroy is answered");
    program.kill();

    let program = start();
    assert_eq!(state(&program, &browser).await, SessionState::NotFound, "a destroy");
    assert_eq!(program.stop().0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let program = Program::serve_in(directory.path(), &[]);
    let mut kept = Vec::new();
    for _ in 0..50 {
        kept.push(create(&program, r#"{"a":1}"#).await);
    }
    let gone = create(&program, "{}").await;
    let request = DestroyRequest { credential: gone.credential(), ..Default::default() };
    client(&program).await.destroy(request).await.expect("a Destroy is answered");
    let old = kept[0].clone();
    let roll = WriteRequest { credential: old.credential(), roll: true, ..Default::default() };
    let rolled = client(&program).await.write(roll).await.expect("a Write is taken").into_inner();
    kept[0].learn(&rolled.set_cookie);
    program.kill();
    let program = Program::serve_in(directory.path(), &[]);
    for browser in &kept {
        assert_eq!(state(&program, browser).await, SessionState::Active);
    }
    assert_eq!(state(&program, &gone).await, SessionState::NotFound);
    assert_eq!(state(&program, &old).await, SessionState::Superseded);
    assert_eq!(program.stop().0, Some(0));
}

#[test]
fn a_second_daemon_on_the_same_data_is_refused() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let first = Program::serve_in(directory.path(), &[]);
    let path = format!("--set=store.sled.path={}", directory.path().join("data").display());
    let secret = "--set=engine.default.cookie.secrets=a-signing-secret-for-tests-long-enough";
    let second = run(["serve", "--set=listen.grpc=127.0.0.1:0", path.as_str(), secret]);
    assert_eq!(second.status.code(), Some(1));
    let log = stderr(&second);
    assert!(log.contains("is in use by another process; stop it, or give this daemon a store.sled.path of its own"), "{log}");
    assert_eq!(first.stop().0, Some(0));
    assert_eq!(Program::serve_in(directory.path(), &[]).stop().0, Some(0), "the owner has ended");
}

/// Messages of sled about its files appear in the log only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sled_says_is_in_the_log() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let program = Program::serve_in(directory.path(), &[]);
    let before = create(&program, "{}").await;
    let (code, log) = program.stop();
    assert_eq!(code, Some(0));
    assert!(!log.contains(" sled::"), "expected no message of sled in {log}");
    fs::write(directory.path().join("data/conf"), "damaged").expect("written");
    let program = Program::serve_in(directory.path(), &[]);
    assert_eq!(state(&program, &before).await, SessionState::Active, "that file is not needed");
    let (code, log) = program.stop();
    assert_eq!(code, Some(0));
    assert!(log.contains("WARN sled::config: "), "expected a warning of sled in {log}");
}

/// Refused by default. With the setting, the database is moved aside unchanged, and the log
/// says all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_database_is_refused_or_put_into_quarantine() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let data = directory.path().join("data");
    let program = Program::serve_in(directory.path(), &[]);
    let before = create(&program, r#"{"a":1}"#).await;
    assert_eq!(program.stop().0, Some(0));
    // Other octets where the log begins. sled alone would take them for a torn write.
    let mut log = fs::read(data.join("db")).expect("a log");
    log[..100].fill(0xa5);
    fs::write(data.join("db"), &log).expect("written");

    let path = format!("--set=store.sled.path={}", data.display());
    let secret = "--set=engine.default.cookie.secrets=a-signing-secret-for-tests-long-enough";
    let refused = run(["serve", "--set=listen.grpc=127.0.0.1:0", path.as_str(), secret]);
    assert_eq!(refused.status.code(), Some(1));
    let said = stderr(&refused);
    assert!(said.contains("is damaged") && said.contains("store.sled.on_damage"), "{said}");
    assert!(fs::read(data.join("db")).expect("a log") == log, "expected no change of the file");
    assert!(!data.join("quarantine").exists());

    let quarantine = ["--set=store.sled.on_damage=quarantine"];
    let program = Program::serve_in(directory.path(), &quarantine);
    assert_eq!(state(&program, &before).await, SessionState::NotFound);
    let after = create(&program, "{}").await;
    let (code, said) = program.stop();
    assert_eq!(code, Some(0));
    assert!(said.contains("all its sessions have ended"), "{said}");
    let aside: Vec<_> = fs::read_dir(data.join("quarantine")).expect("a folder").collect();
    let [Ok(aside)] = &aside[..] else { panic!("expected one, found {aside:?}") };
    assert!(fs::read(aside.path().join("db")).expect("moved") == log, "expected the same bytes");
    let why = fs::read_to_string(aside.path().join("why.txt")).expect("it says why");
    assert!(why.contains("found this database damaged"), "{why}");

    let program = Program::serve_in(directory.path(), &[]);
    assert_eq!(state(&program, &after).await, SessionState::Active);
    let (_, said) = program.stop();
    assert!(said.contains("databases in quarantine"), "{said}");
}

#[test]
fn an_address_in_use_is_named() {
    let first = Program::dev();
    let address = first.address("grpc").to_owned();
    let grpc = format!("--set=listen.grpc={address}");
    let second =
        run(["serve", "--dev", grpc.as_str(), "--set=listen.admin=", "--set=listen.metrics="]);
    assert_eq!(second.status.code(), Some(1));
    let expected = format!(
        "cannot listen on {address}: the address is in use by another process; if that is a \
         sessiond, it runs already"
    );
    assert!(stderr(&second).contains(&expected), "{}", stderr(&second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_is_for_owner_and_group() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let socket = directory.path().join("sessiond.sock");
    let address = format!("unix:{}", socket.display());
    let start = || {
        let grpc = format!("--set=listen.grpc={address}");
        Program::start(&mut sessiond([
            "serve",
            "--dev",
            grpc.as_str(),
            "--set=listen.admin=",
            "--set=listen.metrics=",
        ]))
    };
    let program = start();
    assert_eq!(program.address("grpc"), address);
    let mode = std::fs::metadata(&socket).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let browser = create(&program, "{}").await;
    assert_eq!(state(&program, &browser).await, SessionState::Active);
    let health = run(["health", "--address", &address]);
    assert_eq!((health.status.code(), stdout(&health).trim()), (Some(0), "SERVING"));
    program.kill();
    assert!(socket.exists(), "expected kill -9 to leave the socket");
    let program = start();
    create(&program, "{}").await;
    let grpc = format!("--set=listen.grpc={address}");
    let second =
        run(["serve", "--dev", grpc.as_str(), "--set=listen.admin=", "--set=listen.metrics="]);
    assert_eq!(second.status.code(), Some(1), "expected the socket in use to stay");
    assert!(stderr(&second).contains("in use by another process"), "{}", stderr(&second));
    assert_eq!(program.stop().0, Some(0));
    assert!(!socket.exists(), "expected a clean stop to remove the socket");
    std::fs::write(&socket, "not a socket").expect("a file");
    let third =
        run(["serve", "--dev", grpc.as_str(), "--set=listen.admin=", "--set=listen.metrics="]);
    assert!(
        stderr(&third).contains("a file that is not a socket exists there"),
        "{}",
        stderr(&third)
    );
    assert_eq!(std::fs::read_to_string(&socket).expect("it is still there"), "not a socket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_lists_and_ends_sessions() {
    let program = Program::dev();
    let admin = program.address("admin");
    let mut service = client(&program).await;
    for _ in 0..3 {
        service.write(login("ann")).await.expect("a login is taken");
    }
    let bobs = service.write(login("bob")).await.expect("taken").into_inner().session;
    let bobs = bobs.expect("a session").id;
    let list = |principal: &str| {
        let output = run(["sessions", "list", "--address", admin, principal]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let anns = list("ann");
    assert_eq!(anns.lines().count(), 4, "a head and three sessions: {anns}");
    let id = anns.lines().nth(1).and_then(|line| line.split_whitespace().next()).expect("an id");
    let lines = list("bob");
    let [head, line] = lines.lines().collect::<Vec<_>>()[..] else { panic!("{lines}") };
    let head: Vec<_> = head.split_whitespace().collect();
    assert_eq!(head, ["ID", "CREATED", "LAST", "USED", "EXPIRES", "LABEL"]);
    assert!(line.starts_with(&format!("{bobs}  20")) && line.ends_with('Z'), "{line}");
    for (arguments, revoked) in [
        (vec!["--id", bobs.as_str(), "--id", id, "ann"], "1"),
        (vec!["--id", id], "0"),
        (vec!["ann"], "2"),
        (vec!["--id", bobs.as_str()], "1"),
    ] {
        let command = ["sessions", "revoke", "--address", admin].into_iter();
        let output = run(command.chain(arguments.iter().copied()));
        assert_eq!(
            (output.status.code(), stdout(&output).trim()),
            (Some(0), revoked),
            "{arguments:?}"
        );
    }
    for nobody in ["ann", "bob"] {
        assert_eq!(list(nobody).lines().count(), 1, "expected the head alone");
    }
    let unsaid = run(["sessions", "revoke", "--address", admin]);
    assert_eq!(unsaid.status.code(), Some(64), "expected a usage error, not an end of everything");
    let lost = run(["sessions", "list", "--address", admin, "--engine", "nope", "ann"]);
    assert_eq!(lost.status.code(), Some(1));
    assert!(stderr(&lost).contains("no engine of that name"), "{}", stderr(&lost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_cleanup_ask_a_running_daemon() {
    let program = Program::dev();
    let health = run(["health", "--address", program.address("grpc")]);
    assert_eq!((health.status.code(), stdout(&health).trim()), (Some(0), "SERVING"));
    let cleanup = run(["cleanup", "--address", program.address("admin")]);
    assert_eq!((cleanup.status.code(), stdout(&cleanup).trim()), (Some(0), "0"));
    let lost = run(["cleanup", "--address", program.address("admin"), "--engine", "nope"]);
    assert_eq!(lost.status.code(), Some(1));
    assert!(stderr(&lost).contains("no engine of that name is configured"), "{}", stderr(&lost));
    // A value without an argument comes from the configuration.
    let mut command = sessiond(["health"]);
    command.env("SESSIOND_LISTEN__GRPC", program.address("grpc"));
    assert_eq!(command.output().expect("the program can be run").status.code(), Some(0));
    let address = program.address("grpc").to_owned();
    assert_eq!(program.stop().0, Some(0));
    let gone = run(["health", "--address", &address]);
    assert_eq!(gone.status.code(), Some(1));
    let expected = format!("sessiond: cannot reach a daemon at {address}: ");
    assert!(stderr(&gone).starts_with(&expected), "{}", stderr(&gone));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_can_be_json_and_hold_no_secret() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let arguments = ["--set=log.format=json", "--set=log.level=trace"];
    let program = Program::serve_in(directory.path(), &arguments);
    let browser = create(&program, r#"{"password":"hunter2"}"#).await;
    state(&program, &browser).await;
    let token = browser.header().split_once('=').expect("a cookie").1.to_owned();
    let (code, log) = program.stop();
    assert_eq!(code, Some(0));
    assert!(!log.is_empty());
    for line in log.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
        assert!(event.get("message").is_some() && event.get("level").is_some(), "{line}");
    }
    for secret in ["hunter2", &token, &token[16..32], "a-signing-secret"] {
        assert!(!log.contains(secret), "the log gives {secret} away: {log}");
    }
}

/// A core dump would hold secrets, tokens and sessions.
#[test]
fn a_daemon_leaves_no_memory_in_a_core_dump() {
    let program = Program::dev();
    let process = std::path::PathBuf::from(format!("/proc/{}", program.pid().as_raw_pid()));
    let read = |name| fs::read_to_string(process.join(name)).expect("a file of /proc");
    let limits = read("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size"));
    let core: Vec<_> = core.expect("a limit").split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"], "soft and hard");
    // What a handler in core_pattern gets, which is not held to the limit.
    assert_eq!(read("coredump_filter").trim(), "00000000", "no mapping is dumped");
    // The daemon's user can still look at it.
    fs::read_dir(process.join("fd")).expect("its descriptors can be listed");
}

/// The tour of the README, run as it says.
#[test]
fn the_tour_is_as_told() {
    let program = Program::dev();
    // Examples are in the directory where cargo puts them, next to that of this test binary.
    let here = std::env::current_exe().expect("a path");
    let tour = here.ancestors().nth(2).expect("a folder").join("examples/tour");
    let output = std::process::Command::new(tour).arg(program.address("grpc")).output();
    let output = output.expect("the tour is built with the tests");
    assert!(output.status.success(), "{}", stderr(&output));
    let told = stdout(&output);
    for line in [
        "  None",
        r#"  the new cookie: Active {"cart":["a book"]}"#,
        "  the old cookie: Superseded ",
        "  a late Write: SESSION_GONE, ",
    ] {
        assert!(told.lines().any(|found| found.starts_with(line)), "expected {line:?} in:\n{told}");
    }
}
