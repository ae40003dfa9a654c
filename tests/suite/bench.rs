//! `sessiond bench`: what it measures, what it tells, and what it leaves behind.

use std::{fs, io::Read, process::Stdio, time::Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    ending,
    metrics::{self, expect_lines},
    papers::Papers,
    program::{PATIENCE, Program, run, sessiond, stderr, stdout},
};

/// Both ways to call.
const MODES: [&[&str]; 2] = [&[], &["--pipeline"]];

/// Too short to count on an operation.
const BRIEF: &str = "--duration=100ms";
/// A small load, but for its duration.
const SHORT: [&str; 3] = ["--json", "--sessions=20", "--warm-up=50ms"];

#[track_caller]
fn report(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| panic!("expected JSON, found {text:?}"))
}

/// The sum of a number over all operations.
fn sum(report: &Value, what: &str) -> u64 {
    let operations = report["operations"].as_array().expect("a list");
    operations.iter().filter_map(|line| line[what].as_u64()).sum()
}

/// What a load tells that is long enough for a busy machine.
#[track_caller]
fn loaded(arguments: &[&str], is_enough: impl Fn(&str) -> bool) -> String {
    let mut told = String::new();
    for duration in ["--duration=300ms", "--duration=3s", "--duration=30s"] {
        let output = run([arguments, &[duration]].concat());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        told = stdout(&output);
        if is_enough(&told) {
            return told;
        }
    }
    panic!("{arguments:?}: expected more operations in {told}");
}

/// The report of such a load, with at least one operation of each of so many kinds.
#[track_caller]
fn counted(arguments: &[&str], kinds: usize) -> Value {
    let kinds_of = |report: &Value| report["operations"].as_array().map_or(0, Vec::len);
    report(&loaded(arguments, |told| kinds_of(&report(told)) == kinds))
}

#[test]
fn bench_loads_a_daemon_and_leaves_nothing_behind() {
    let program = Program::dev();
    let address = program.address("grpc");
    for mode in MODES {
        let load = ["bench", "--address", address, "--connections=2", "--in-flight=4"];
        let mix = ["--mix=resolve=5,touch=1,write=2"];
        let report = counted(&[&load[..], &SHORT, &mix, mode].concat(), 3);
        let operations = report["operations"].as_array().expect("a list");
        let names: Vec<_> =
            operations.iter().filter_map(|line| line["operation"].as_str()).collect();
        assert_eq!(names, ["resolve", "touch", "write"]);
        for line in operations {
            assert!(line["count"].as_u64() > Some(0), "{report}");
            assert_eq!(line["errors"], 0, "{report}");
            assert!(line["p50_us"].as_u64() <= line["max_us"].as_u64(), "{report}");
        }
    }
    // It leaves no session.
    let none = r#"sessiond_sessions{engine="default"} 0"#;
    expect_lines(&metrics::page(program.address("metrics")), [none]);
    let creates = ["--sessions=5", "--warm-up=1ms", "--mix=create"];
    let table = loaded(&[&["bench", "--address", address], &creates[..]].concat(), |told| {
        told.contains("\ncreate ")
    });
    assert!(table.starts_with("operation "), "{table}");
    let wrong = run(["bench", "--mix=dance"]);
    assert_eq!(wrong.status.code(), Some(64));
    assert!(
        stderr(&wrong).contains("expected shares such as resolve=9,write=1"),
        "{}",
        stderr(&wrong)
    );
}

/// The options that say which daemon to call are the same for both ways.
#[test]
fn bench_calls_every_kind_of_address() {
    let papers = Papers::new();
    papers
        .write("tokens", "admin ops a-token-of-the-operators\nfrontend shop a-token-of-the-shop\n");
    let settings = [
        papers.setting("listen.tls.cert_file", "server.pem"),
        papers.setting("listen.tls.key_file", "server.key"),
        papers.setting("listen.tls.client_ca_file", "ca.pem"),
        papers.setting("listen.auth.token_file", "tokens"),
        // Beside the daemon's one. A unix socket has no TLS.
        format!("--set=listen.grpc=127.0.0.1:0,unix:{}", papers.path("socket").display()),
    ];
    let settings: Vec<_> = settings.iter().map(String::as_str).collect();
    let program = Program::serve(&[&["--dev"], &settings[..]].concat());
    let path = |name: &str| papers.path(name).to_str().expect("a path").to_owned();
    let [ca, cert, key, tokens, socket] =
        ["ca.pem", "client.pem", "client.key", "tokens", "socket"].map(path);
    let token = ["--token-file", &tokens];
    let tcp = ["--address", program.address("grpc")];
    let tls = ["--ca-file", &ca, "--client-cert-file", &cert, "--client-key-file", &key];
    let unix = format!("unix:{socket}");
    for mode in MODES {
        let secured = [&tcp[..], &tls, &token].concat();
        for address in [secured, [&["--address", &unix], &token[..]].concat()] {
            let report = counted(&[&["bench"], &address[..], &SHORT, mode].concat(), 1);
            assert_eq!(sum(&report, "errors"), 0, "{address:?} {mode:?}: {report}");
        }
        // A path that begins in the working directory.
        let mut relative = sessiond(
            [&["bench", "--address=unix:socket", BRIEF], &token[..], &SHORT, mode].concat(),
        );
        let output = relative.current_dir(papers.path("")).output().expect("it runs");
        assert_eq!(output.status.code(), Some(0), "{mode:?}: {}", stderr(&output));
    }
    fs::write(&tokens, "a-token-of-somebody-else\n").expect("a file");
    for mode in MODES {
        let output =
            run([&["bench", "--address", &unix, BRIEF], &token[..], &SHORT, mode].concat());
        assert_eq!(output.status.code(), Some(1), "{mode:?}: {}", stdout(&output));
        let told = stderr(&output);
        assert!(told.contains("Unauthenticated"), "{mode:?}: {told}");
        assert!(!told.contains("a-token"), "expected no token in {told}");
    }
}

/// Each operation that the daemon refuses is an error of the report.
#[test]
fn bench_tells_what_was_refused() {
    let program = Program::dev();
    let directory = tempfile::tempdir().expect("a scratch folder");
    let cookies = directory.path().join("cookies");
    fs::write(&cookies, "sid=a-cookie-of-a-test\n").expect("a file");
    let cookies = cookies.to_str().expect("a path");
    let load = ["bench", "--json", "--warm-up=1ms", "--engine=nowhere"];
    let address = ["--address", program.address("grpc"), "--cookies", cookies];
    for mode in MODES {
        let report = counted(&[&load[..], &address, mode].concat(), 1);
        let (count, errors) = (sum(&report, "count"), sum(&report, "errors"));
        assert!(count > 0 && errors == count, "expected nothing but errors: {report}");
        let first = report["first_error"].as_str().expect("an error");
        assert!(first.starts_with("InvalidArgument: no engine"), "found {first:?}");
        assert!(!report.to_string().contains("a-cookie"), "expected no cookie in {report}");
    }
}

/// The run ends soon after its time is over, and its report says that something went wrong.
#[test]
fn bench_outlives_its_daemon() {
    for (signal, mode) in [Signal::KILL, Signal::TERM, Signal::STOP]
        .into_iter()
        .flat_map(|signal| MODES.map(|mode| (signal, mode)))
    {
        // On a busy machine, a short run may be over before the signal, or may not even begin.
        let times = [("2s", "500ms"), ("8s", "2s"), ("32s", "8s")];
        let is_told = times.into_iter().any(|time| tells_of(signal, mode, time));
        assert!(is_told, "{signal:?} {mode:?}: expected an error in the report");
    }
}

/// Whether a run of this duration and with this timeout calls a daemon and reports what became
/// of it.
fn tells_of(signal: Signal, mode: &[&str], (duration, timeout): (&str, &str)) -> bool {
    let program = Program::dev();
    let metrics = program.address("metrics").to_owned();
    let load = ["bench", "--address", program.address("grpc"), "--sessions=200", "--json"];
    let time = ["--warm-up=1ms", "--duration", duration, "--timeout", timeout];
    let mut command = sessiond([&load[..], &time, mode].concat());
    let bench = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut bench = bench.expect("the program can be run");
    let resolves = r#"sessiond_requests_total{engine="default",rpc="Resolve","#;
    let answered =
        |page: &str| page.lines().any(|line| line.starts_with(resolves) && !line.ends_with(" 0"));
    // Until it is under way.
    let begun = Instant::now();
    while !answered(&metrics::page(&metrics)) {
        assert!(begun.elapsed() < PATIENCE, "{signal:?} {mode:?}: expected it to call by now");
        if bench.try_wait().expect("it can be waited for").is_some() {
            return false;
        }
    }
    program.signal(signal);
    let status = ending::of(&mut bench, PATIENCE);
    let status = status.unwrap_or_else(|| panic!("{signal:?} {mode:?}: expected it to end"));
    let mut text = String::new();
    let mut out = bench.stdout.take().expect("it is piped");
    out.read_to_string(&mut text).expect("text");
    assert_eq!(status.code(), Some(0), "{signal:?} {mode:?}: {text}");
    report(&text)["first_error"].is_string()
}
