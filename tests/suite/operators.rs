//! What operators do with a running daemon: status, one session, an end to all of them, health
//! over HTTP; and what they are told at a wrong address.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sessiond::{
    grpc::pb::{
        DaemonState, GetSessionRequest, GetStatusRequest, RevokeSessionsRequest, SessionState,
        WriteRequest,
    },
    server::config::{AddrOrOff, Backend},
};
use tonic::Code;

use crate::{
    golden::assert_golden,
    over_every_store,
    processes::unfinished_call,
    support::{
        daemon::{Daemon, assert_fault, in_force, login, set},
        papers::Papers,
        program::{PATIENCE, Program, run, stderr, stdout},
    },
};

over_every_store!(
    one_session_is_found_by_its_id,
    all_sessions_of_an_engine_are_ended,
    the_status_tells_what_there_is,
);

async fn one_session_is_found_by_its_id(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let data = r#"{"a":1}"#;
    let label = Some("Firefox".into());
    let answer = daemon.write(WriteRequest { label, ..login("ann") }).await;
    let id = answer.session.expect("a session").id;
    daemon.visitor(data).await;
    let get = async |id: &str, with_data| {
        let request =
            GetSessionRequest { session_id: id.to_owned(), with_data, ..Default::default() };
        daemon.admin.clone().get_session(request).await.map(|answer| answer.into_inner())
    };
    let found = get(&id, false).await.expect("answered");
    let session = found.session.expect("it is live");
    assert_eq!((session.principal, session.label), ("ann".into(), "Firefox".into()));
    assert_eq!((&session.data[..], found.data_bytes), (&b""[..], 2), "{{}} is not sent");
    let found = get(&id, true).await.expect("answered");
    assert_eq!(found.session.expect("it is live").data, "{}");
    let nobody = get("AAAAAAAAAAAAAAAA", true).await.expect("absence is an answer");
    assert!(nobody.session.is_none() && nobody.data_bytes == 0);
    let error = get("too short", false).await.expect_err("it is no id");
    assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some("session_id"));
    assert!(!error.message().contains("too short"), "a token may be given by mistake: {error:?}");
    daemon.clock.advance(Duration::from_secs(4000));
    assert!(get(&id, false).await.expect("answered").session.is_none(), "it has expired");
}

async fn all_sessions_of_an_engine_are_ended(backend: Backend) {
    let daemon = Daemon::with(backend, |config| {
        let engine = config.engine["default"].clone();
        config.engine.insert("shop".to_owned(), engine);
    })
    .await;
    let mut ours = Vec::new();
    // More than one slice of a scan.
    for number in 0..120 {
        ours.push(match number % 3 {
            0 => daemon.visitor("{}").await,
            1 => daemon.login("ann").await,
            _ => daemon.login("bob").await,
        });
    }
    let shop = WriteRequest { engine: "shop".into(), ..login("ann") };
    let other = daemon.write(shop).await.session.expect("a session").id;
    let revoke = async |request: RevokeSessionsRequest| {
        let answer = daemon.admin.clone().revoke_sessions(request).await;
        answer.map(|answer| answer.into_inner().revoked)
    };
    let all = || RevokeSessionsRequest { all: true, ..Default::default() };
    for chosen in [
        RevokeSessionsRequest { principal: "ann".to_owned(), ..all() },
        RevokeSessionsRequest { session_ids: vec![other.clone()], ..all() },
    ] {
        let error = revoke(chosen).await.expect_err("that says two things");
        assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some("all"));
    }
    let unsaid = revoke(RevokeSessionsRequest::default()).await.expect_err("nothing is chosen");
    assert_fault(&unsaid, Code::InvalidArgument, "INVALID_ARGUMENT", Some("session_ids"));
    assert_eq!(daemon.state(&ours[0]).await, SessionState::Active, "nothing was done");
    assert_eq!(revoke(all()).await.expect("answered"), 120);
    for browser in &ours {
        assert_eq!(daemon.state(browser).await, SessionState::NotFound);
    }
    assert_eq!(revoke(all()).await.expect("answered"), 0);
    let kept =
        GetSessionRequest { engine: "shop".to_owned(), session_id: other, ..Default::default() };
    let kept = daemon.admin.clone().get_session(kept).await.expect("answered").into_inner();
    assert!(kept.session.is_some(), "another engine's sessions stay");
    daemon.visitor("{}").await;
}

async fn the_status_tells_what_there_is(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    daemon.visitor("{}").await;
    let status = daemon.admin.clone().get_status(GetStatusRequest {}).await;
    let status = status.expect("answered").into_inner();
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert_eq!((status.state(), status.reason.as_str()), (DaemonState::Serving, ""));
    assert_eq!(status.store, in_force(backend).kind().name);
    let known = in_force(backend) != Backend::Redis;
    assert_eq!(status.engines.len(), 1);
    assert_eq!(status.engines[0].stored_count, known.then_some(1));
    let listeners: Vec<_> = status.listeners.iter().map(|it| it.kind.as_str()).collect();
    assert_eq!(listeners, ["grpc", "admin"], "metrics are off");
    let line = r#"sessiond_requests_total{engine="default",rpc="Write",state="CREATED"} 1"#;
    assert!(status.metrics.lines().any(|found| found == line), "{}", status.metrics);
}

/// The text with its times replaced, and what else is known to differ.
fn masked(text: &str, known: &[(&str, &str)]) -> String {
    const TIME: &str = "0000-00-00T00:00:00Z";
    let mut text = text.to_owned();
    for (found, name) in known {
        text = text.replace(found, name);
    }
    let is_time = |part: &str| {
        part.len() == TIME.len()
            && part.chars().zip(TIME.chars()).all(|(c, like)| match like {
                '0' => c.is_ascii_digit(),
                like => c == like,
            })
    };
    let starts: Vec<_> = text.char_indices().map(|(at, _)| at).collect();
    for at in starts {
        if text.get(at..at + TIME.len()).is_some_and(is_time) {
            text.replace_range(at..at + TIME.len(), TIME);
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_operators_print_what_they_did() {
    let program = Program::dev();
    let admin = program.address("admin").to_owned();
    let address = format!("http://{}", program.address("grpc"));
    let mut client =
        sessiond::grpc::pb::session_service_client::SessionServiceClient::connect(address)
            .await
            .expect("the daemon listens");
    let labelled = WriteRequest { label: Some("Firefox\u{1b}[2J".into()), ..login("ann") };
    let written = WriteRequest { set: r#"{"cart":["a book"]}"#.into(), ..labelled };
    let ann = client.write(written).await.expect("taken").into_inner().session.expect("one").id;
    client.write(set("{}")).await.expect("taken");
    let mut text = String::new();
    for arguments in [
        vec!["sessions", "list", "ann"],
        vec!["sessions", "list", "--json", "ann"],
        vec!["sessions", "count"],
        vec!["sessions", "count", "--engine", "default"],
        vec!["sessions", "count", "ann"],
        vec!["sessions", "count", "--engine", "nope"],
        vec!["sessions", "show", ann.as_str()],
        vec!["sessions", "show", "--data", ann.as_str()],
        vec!["sessions", "show", "--json", "--data", ann.as_str()],
        vec!["sessions", "show", "AAAAAAAAAAAAAAAA"],
        vec!["sessions", "revoke", "--all", "ann"],
        vec!["sessions", "revoke"],
        vec!["sessions", "revoke", "--all"],
        vec!["sessions", "count"],
    ] {
        let (own, rest) = arguments.split_at(2);
        let output =
            run(own.iter().copied().chain(["--address", &admin]).chain(rest.iter().copied()));
        text += &format!(
            "$ sessiond {}\n{}{}exit code {}\n\n",
            arguments.join(" "),
            stdout(&output),
            stderr(&output),
            output.status.code().unwrap_or(-1)
        );
    }
    assert_golden("sessions.txt", &masked(&text, &[(ann.as_str(), "ID-OF-ANN-------")]));
    let status = run(["status", "--address", &admin]);
    assert_eq!(status.status.code(), Some(0), "{}", stderr(&status));
    let shown = stdout(&status);
    let line = |name: &str| shown.lines().find(|line| line.starts_with(name)).expect("a line");
    let known = [
        (program.address("grpc"), "GRPC"),
        (admin.as_str(), "ADMIN"),
        (program.address("metrics"), "METRICS"),
        (line("up "), "up ... since ..."),
        (line("connections "), "connections ..."),
        (env!("CARGO_PKG_VERSION"), "VERSION"),
    ];
    assert_golden("status.txt", &masked(&shown, &known));
    let json = stdout(&run(["status", "--json", "--address", &admin]));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["state"], &json["store"]), (&"SERVING".into(), &"memory".into()), "{json}");
    assert_eq!(json["listeners"]["admin"][0], admin.as_str());
    assert_eq!(json["engines"][0]["stored"], 0);
    let metrics = json["metrics"].as_array().expect("a list");
    let created = metrics.iter().find(|sample| sample["name"] == "sessiond_sessions_created_total");
    assert_eq!(created.expect("a sample")["value"], 2.0);
    let top = run(["top", "--address", &admin]);
    assert_eq!(top.status.code(), Some(1));
    assert!(stderr(&top).contains("top needs a terminal"), "{}", stderr(&top));
}

#[test]
fn a_wrong_address_is_told_what_it_is() {
    let program = Program::dev();
    let papers = Papers::new();
    let (cert, key) = (
        papers.setting("listen.tls.cert_file", "server.pem"),
        papers.setting("listen.tls.key_file", "server.key"),
    );
    let secured = Program::serve(&["--dev", cert.as_str(), key.as_str()]);
    let ca = papers.path("ca.pem");
    let ca = ca.to_str().expect("a path");
    // It answers nothing that anybody knows.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent_address = silent.local_addr().expect("bound").to_string();
    std::thread::spawn(move || silent.incoming().for_each(drop));
    let (grpc, admin, metrics) =
        (program.address("grpc"), program.address("admin"), program.address("metrics"));
    for (arguments, expected) in [
        (
            vec!["sessions", "list", "--address", grpc, "ann"],
            "answers Unimplemented: not served here: this is an address of listen.grpc",
        ),
        (
            vec!["bench", "--sessions=1", "--address", admin],
            "not served here: this is an address of listen.admin",
        ),
        (vec!["status", "--address", metrics], "it is listen.metrics of a daemon"),
        (vec!["health", "--address", metrics], "it is listen.metrics of a daemon"),
        (vec!["health", "--address", secured.address("grpc")], "it speaks TLS: give its CA"),
        (vec!["health", "--ca-file", ca, "--address", grpc], "it is a daemon that speaks no TLS"),
        (vec!["health", "--address", &silent_address], "sessiond: "),
    ] {
        let output = run(arguments.clone());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let told = stderr(&output);
        assert!(told.contains(expected), "{arguments:?}: expected {expected:?} in {told}");
    }
}

/// One request of HTTP/1, and the whole answer.
fn http1(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the daemon listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nx-much: {}\r\n\r\n", "x".repeat(3000));
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, and then the end");
    answer
}

#[test]
fn a_browser_at_a_grpc_listener_is_told_what_it_has_reached() {
    let program = Program::dev();
    for listener in ["grpc", "admin"] {
        let answer = http1(program.address(listener), "/");
        assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
        assert!(answer.contains("This is a gRPC listener of sessiond"), "{answer}");
    }
    let elsewhere = http1(program.address("metrics"), "/");
    assert!(
        elsewhere.starts_with("HTTP/1.1 404 ") && elsewhere.contains("/healthz"),
        "{elsewhere}"
    );
    assert_eq!(program.stop().0, Some(0));
}

#[test]
fn host_names_are_resolved() {
    let program = Program::serve(&["--dev", "--set=listen.grpc=localhost:0"]);
    let port = program.address("grpc").rsplit_once(':').expect("a port").1.to_owned();
    let health = run(["health", "--address", &format!("localhost:{port}")]);
    assert_eq!(health.status.code(), Some(0), "{}", stderr(&health));
    let health = run(["health", &format!("--set=listen.grpc=localhost:{port}")]);
    assert_eq!(health.status.code(), Some(0), "{}", stderr(&health));
    assert_eq!(program.stop().0, Some(0));
}

/// The name in the certificate is that of the address.
#[test]
fn the_name_of_an_address_is_expected_in_the_certificate() {
    let papers = Papers::new();
    let (cert, key) = (
        papers.setting("listen.tls.cert_file", "server.pem"),
        papers.setting("listen.tls.key_file", "server.key"),
    );
    let program = Program::serve(&["--dev", cert.as_str(), key.as_str()]);
    let (ca, port) =
        (papers.path("ca.pem"), program.address("grpc").rsplit_once(':').expect("one").1);
    let ca = ca.to_str().expect("a path");
    let health = run(["health", "--ca-file", ca, "--address", &format!("localhost:{port}")]);
    assert_eq!(health.status.code(), Some(0), "{}", stderr(&health));
}

async fn probe(address: &str, path: &str) -> (u16, String) {
    let (address, path) = (address.to_owned(), path.to_owned());
    let answer = tokio::task::spawn_blocking(move || http1(&address, &path)).await.expect("asked");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").expect("a head and a body").1;
    (status.expect("a status"), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_over_http_while_all_places_are_taken() {
    let daemon = Daemon::with(Backend::Memory, |config| {
        config.limits.max_connections = 1;
        config.listen.metrics = AddrOrOff(Some(([127, 0, 0, 1], 0).into()));
    })
    .await;
    // It holds the only place, with a stream that goes on.
    let mut client = daemon.client.clone();
    let (_requests, receiver) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let _pipeline = client.pipeline(stream).await.expect("it is open");
    let address = daemon.metrics.clone().expect("a listener").to_string();
    assert_eq!(probe(&address, "/healthz").await, (200, "alive\n".to_owned()));
    assert_eq!(probe(&address, "/readyz").await, (200, "ready\n".to_owned()));
    assert_eq!(probe(&address, "/readyz?verbose").await.0, 200);
}

#[test]
fn a_daemon_that_drains_is_alive_and_not_ready() {
    let mut program = Program::serve(&["--dev", "--set=runtime.shutdown_grace=1h"]);
    let metrics = program.address("metrics").to_owned();
    let mut stream = TcpStream::connect(program.address("grpc")).expect("the daemon is there");
    stream.write_all(&unfinished_call()).expect("sent");
    let mut first = [0; 9];
    stream.read_exact(&mut first).expect("the daemon's SETTINGS, so it serves the connection");
    assert!(http1(&metrics, "/readyz").ends_with("\r\n\r\nready\n"));
    program.signal(Signal::TERM);
    let started = Instant::now();
    loop {
        let answer = http1(&metrics, "/readyz");
        if answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("not ready: stopping\n") {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "expected it to drain, found {answer}");
    }
    assert!(http1(&metrics, "/healthz").starts_with("HTTP/1.1 200 "));
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(1), "the second signal ends it");
}
