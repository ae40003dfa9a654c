//! What a daemon writes to its log and beside it.

use std::{
    io::{BufRead, BufReader, Read},
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sessiond::grpc::pb::session_service_client::SessionServiceClient;

use crate::support::{
    daemon::set,
    ending,
    program::{PATIENCE, Program, run, sessiond, stderr},
};

fn parsed(line: &str) -> Value {
    let value = serde_json::from_str(line);
    let value: Value = value.unwrap_or_else(|error| panic!("expected JSON ({error}): {line}"));
    for key in ["timestamp", "level", "message", "target"] {
        assert!(value[key].is_string(), "expected {key} in {line}");
    }
    value
}

#[test]
fn everything_is_json_if_the_log_is() {
    let mut child = sessiond(["serve", "--dev", "--set=log.format=json", "--set=listen.admin="])
        .args(["--set=listen.grpc=127.0.0.1:0", "--set=listen.metrics="])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be run");
    let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut ready = String::new();
    stdout.read_line(&mut ready).expect("a line");
    let ready = parsed(ready.trim_end());
    assert_eq!((&ready["message"], &ready["level"]), (&"ready".into(), &"INFO".into()));
    assert_eq!(ready["version"], env!("CARGO_PKG_VERSION"));
    let address = ready["grpc"][0].as_str().unwrap_or_default();
    assert!(address.starts_with("127.0.0.1:"), "{ready}");
    assert_eq!(ready["metrics"], Value::Array(Vec::new()), "{ready}");
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    let mut log = String::new();
    child.stderr.take().expect("it is piped").read_to_string(&mut log).expect("its log");
    let ended = ending::of(&mut child, PATIENCE).and_then(|status| status.code());
    assert_eq!(ended, Some(0), "{log}");
    let lines: Vec<_> = log.lines().map(parsed).collect();
    assert!(lines.iter().any(|line| line["message"] == "started"), "{log}");

    // Before the log has begun, and after it.
    for settings in [
        &["--set=listen.grpc=nowhere", "--set=log.level=loud"][..],
        &["--set=listen.grpc=nobody.invalid:1", "--set=listen.auth.token_file=/nowhere/tokens"],
        &["--set=listen.grpc=unix:/nowhere/sessiond.sock", "--set=listen.admin="],
    ] {
        let all = ["serve", "--dev", "--set=log.format=json", "--set=listen.metrics="];
        let output = run(all.into_iter().chain(settings.iter().copied()));
        assert_ne!(output.status.code(), Some(0));
        let said = stderr(&output);
        let last = parsed(said.lines().last().expect("it says why"));
        assert_eq!(last["level"], "ERROR", "{said}");
        assert!(said.lines().map(parsed).count() > 0);
    }
}

#[test]
fn a_start_is_told_in_one_line() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let file = scratch.path().join("sessiond.toml");
    let text = "[store.sled]\npath = \"data\"\n[engine.default.cookie]\nsecrets = [\"a-signing-secret-for-tests-long-enough\"]\n";
    std::fs::write(
        &file,
        format!(
            "{text}[engine.shop.cookie]\nsecrets = [\"another-signing-secret-for-tests-here\"]\n"
        ),
    )
    .expect("written");
    let config = format!("--config={}", file.display());
    let program = Program::serve(&[&config]);
    let log = program.wait_for_log("started version=", 1);
    let line = log.lines().find(|line| line.contains("started version=")).expect("a line");
    for part in [
        format!("configuration=\"{}\"", file.display()),
        "engines=\"default,shop\"".to_owned(),
        "store=\"sled\"".to_owned(),
        format!("path=\"{}\"", scratch.path().join("data").display()),
        "tls=\"off\"".to_owned(),
        "sessions=\"0\"".to_owned(),
    ] {
        assert!(line.contains(&part), "expected {part} in {line}");
    }
    assert_eq!(program.stop().0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_operations_are_logged_and_not_all_of_them() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let program = Program::serve_in(scratch.path(), &["--set=log.slow=1ns"]);
    let address = format!("http://{}", program.address("grpc"));
    let mut client = SessionServiceClient::connect(address).await.expect("the daemon listens");
    for _ in 0..12 {
        client.write(set("{}")).await.expect("a Write is taken");
    }
    let (code, log) = program.stop();
    assert_eq!(code, Some(0));
    let slow: Vec<_> = log.lines().filter(|line| line.contains("a slow operation")).collect();
    assert_eq!(slow.len(), 10, "{log}");
    let told = r#"rpc="Write" engine="default" state="CREATED" took_ms="#;
    assert!(slow[0].contains(told), "{}", slow[0]);
    assert!(slow[0].contains("not_logged=0"), "{}", slow[0]);
}
