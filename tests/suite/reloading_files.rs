//! Reload with files that are wrong: each is refused with the reason, and what was in force stays.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use sessiond::{
    grpc::pb::{
        ReloadRequest, ReloadResponse, SessionState, WriteRequest,
        session_service_client::SessionServiceClient,
    },
    server::config::Backend,
};
use tonic::{Code, Request, Status, transport::Endpoint};

use crate::support::{
    browser::Browser,
    daemon::{Daemon, assert_fault, set},
    metrics::{self, expect_lines},
    papers::Papers,
    program::{Program, run, stderr},
};

const SECRET: &str = "the-signing-secret-of-these-tests-01";
const OLDER: &str = "an-older-signing-secret-of-these-tests";
const SHOP: &str = "the-token-of-the-shop-0123";
const OPS: &str = "the-token-of-the-operators";

/// What may be where a file was.
enum Bad {
    Missing,
    Text(String),
    /// A folder cannot be read, also by root.
    Unreadable,
    /// Octets that are no UTF-8.
    NotText,
}

impl Bad {
    fn put(&self, path: &Path) {
        let _ = fs::remove_file(path);
        let _ = fs::remove_dir(path);
        match self {
            Self::Missing => {}
            Self::Text(text) => fs::write(path, text).expect("a file"),
            Self::Unreadable => fs::create_dir(path).expect("a folder"),
            Self::NotText => fs::write(path, [0xff, 0xfe, 0x00, 0x01]).expect("a file"),
        }
    }
}

fn text(text: &str) -> Bad {
    Bad::Text(text.to_owned())
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().expect("ASCII");
    request.metadata_mut().insert("authorization", value);
    request
}

async fn reload(daemon: &Daemon, token: &str) -> Result<ReloadResponse, Status> {
    let answer = daemon.admin.clone().reload(with_token(ReloadRequest {}, token)).await;
    answer.map(|answer| answer.into_inner())
}

#[track_caller]
fn assert_refused(outcome: Result<ReloadResponse, Status>, expected: &str) {
    let error = outcome.expect_err(expected);
    assert_fault(&error, Code::FailedPrecondition, "RELOAD_REFUSED", None);
    let message = error.message();
    let start = "the reload is refused, and what was in force stays: ";
    assert!(message.starts_with(start), "{message}");
    assert!(message.contains(expected), "expected {expected:?} in {message:?}");
    for secret in [SECRET, OLDER, SHOP, OPS] {
        assert!(!message.contains(&secret[..12]), "{message:?} gives a secret away");
    }
}

#[tokio::test]
async fn a_bad_file_of_secrets_is_refused() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = directory.path().join("secrets");
    let good = format!("# newest first\n{SECRET}\n{OLDER}\n");
    fs::write(&path, &good).expect("a file");
    let daemon = Daemon::with(Backend::Memory, |config| {
        let engine = config.engine.get_mut("default").expect("there is one");
        engine.cookie.secret_file.clone_from(&path);
    })
    .await;
    let browser = daemon.visitor("{}").await;
    for (bad, expected) in [
        (Bad::Missing, "secrets cannot be read: No such file"),
        (Bad::Unreadable, "secrets cannot be read: Is a directory"),
        (Bad::NotText, "secrets cannot be read: it is not UTF-8"),
        (text(""), "cookie.secret_file: the file holds no secret"),
        (text("# newest first\n"), "cookie.secret_file: the file holds no secret"),
        (text(&format!("{SECRET}\nSECRET={OLDER}\n")), "line 2: expected a secret and nothing"),
        (text("-----BEGIN PRIVATE KEY-----\n"), "line 1: expected a secret and nothing else"),
        // Another file of secrets, as a start would take it.
        (text("the-secret-of-another-daemon-altogether\n"), "the secret that signs now is missing"),
        (text(&format!("{OLDER}\n")), "the secret that signs now is missing"),
        // Half of the file, cut within a line.
        (text(&good[..good.len() - 9]), "secret number 2 is the beginning of one in force"),
        (text(&good[..15 + SECRET.len() - 2]), "secret number 1 is the beginning of one in force"),
        (text(&good[..25]), "the first secret signs and is 10 bytes long"),
    ] {
        bad.put(&path);
        assert_refused(reload(&daemon, "").await, expected);
        assert_eq!(daemon.state(&browser).await, SessionState::Active, "{expected}");
    }
    Bad::Missing.put(&path);
    fs::write(&path, &good).expect("a file");
    let done = reload(&daemon, "").await.expect("it is as it was");
    assert_eq!(done, ReloadResponse::default(), "nothing has changed");
}

#[tokio::test]
async fn a_bad_file_of_tokens_is_refused() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = directory.path().join("tokens");
    let good = format!("admin ops {OPS}\nfrontend shop {SHOP}\n");
    fs::write(&path, &good).expect("a file");
    let daemon = Daemon::with(Backend::Memory, |config| {
        config.listen.auth.token_file.clone_from(&path);
    })
    .await;
    for (bad, expected) in [
        (Bad::Missing, "tokens cannot be read: No such file"),
        (Bad::Unreadable, "tokens cannot be read: Is a directory"),
        (text("\n"), "listen.auth.token_file: the file holds no token"),
        (text("root ops of-somebody-or-other\n"), "line 1: expected the role"),
        (text("{\"token\": \"of-another-program\"}\n"), "line 1: expected a token alone, or"),
        (text(SECRET), "none of the tokens in force is in the file"),
        (text(&good[..good.len() - 3]), "a token is the beginning of one in force"),
        (text(&good[..good.len() - 15]), "line 2: expected a token of at least 16 characters"),
        (text(&good[..good.len() - SHOP.len() - 4]), "line 2: expected a token alone, or ROLE"),
    ] {
        bad.put(&path);
        assert_refused(reload(&daemon, OPS).await, expected);
        let written = daemon.client.clone().write(with_token(set("{}"), SHOP)).await;
        written.unwrap_or_else(|error| panic!("expected the tokens to stay: {error:?}"));
    }
}

/// Where a daemon has its certificates.
const NAMES: [(&str, &str); 3] =
    [("cert_file", "server.pem"), ("key_file", "server.key"), ("client_ca_file", "ca.pem")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_certificate_key_or_ca_is_refused() {
    let (papers, other) = (Papers::new(), Papers::new());
    let settings = NAMES.map(|(key, name)| papers.setting(&format!("listen.tls.{key}"), name));
    let socket = format!("unix:{}", papers.path("admin.sock").display());
    let admin = format!("--set=listen.admin={socket}");
    let settings = settings.iter().map(String::as_str).chain(["--dev", &admin]);
    let program = Program::serve(&settings.collect::<Vec<_>>());
    let good = NAMES.map(|(_, name)| papers.text(name));
    let cut = |name: &str| {
        let whole = papers.text(name);
        whole[..whole.len() / 2].to_owned()
    };
    let identity =
        tonic::transport::Identity::from_pem(papers.text("client.pem"), papers.text("client.key"));
    let trust = papers.tls().identity(identity);
    let uri = format!("https://{}", program.address("grpc"));
    let endpoint = Endpoint::from_shared(uri).expect("an address").tls_config(trust);
    let endpoint = endpoint.expect("valid");
    for (name, bad, expected) in [
        ("server.pem", Bad::Missing, "cert_file: cannot use the file"),
        ("server.pem", Bad::Unreadable, "expected a readable file: Is a directory"),
        ("server.pem", text(""), "expected certificates in PEM: it contains none"),
        ("server.pem", text(&cut("server.pem")), "cert_file: cannot use the file"),
        ("server.pem", text(&good[1]), "expected certificates in PEM: it contains none"),
        ("server.pem", text(&other.text("server.pem")), "that belongs to listen.tls.key_file"),
        ("server.key", Bad::Missing, "key_file: cannot use the file"),
        ("server.key", text(""), "expected a private key in PEM"),
        ("server.key", text(&cut("server.key")), "expected a private key in PEM"),
        ("server.key", text(&good[0]), "expected a private key in PEM"),
        ("server.key", text(&other.text("server.key")), "that belongs to listen.tls.key_file"),
        ("ca.pem", Bad::Missing, "client_ca_file: cannot use the file"),
        ("ca.pem", text(&cut("ca.pem")), "client_ca_file: cannot use the file"),
        ("ca.pem", text("junk"), "client_ca_file: cannot use the file"),
    ] {
        bad.put(&papers.path(name));
        let output = run(["reload", "--address", socket.as_str()]);
        assert_eq!(output.status.code(), Some(1), "{name}: {expected}");
        let said = stderr(&output);
        assert!(said.contains("answers FailedPrecondition: the reload is refused"), "{said}");
        assert!(said.contains(expected), "expected {expected:?} in {said}");
        for ((_, name), text) in NAMES.iter().zip(&good) {
            Bad::Text(text.clone()).put(&papers.path(name));
        }
        // A new connection, with the certificate that stays.
        let mut client = SessionServiceClient::new(endpoint.connect_lazy());
        client.write(set("{}")).await.unwrap_or_else(|error| panic!("{expected}: {error:?}"));
    }
}

/// Where the names of the certificate are other ones, or its time is over, every client would
/// refuse it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_no_client_would_accept_is_refused() {
    let papers = Papers::new();
    let settings = [
        papers.setting("listen.tls.cert_file", "server.pem"),
        papers.setting("listen.tls.key_file", "server.key"),
    ];
    let program = Program::serve(&["--dev", &settings[0], &settings[1]]);
    for (make, expected) in [
        (Papers::elsewhere as fn() -> Papers, "the certificate is for [\"elsewhere.example\"]"),
        (Papers::expired, "a certificate in it has expired at 2001-02-03T00:00:00Z"),
    ] {
        let bad = make();
        for name in ["server.pem", "server.key"] {
            papers.write(name, &bad.text(name));
        }
        program.signal(Signal::HUP);
        program.wait_for_log(expected, 1);
    }
    let (_, log) = program.stop();
    let refused = "the reload is refused, and what was in force stays: listen.tls.cert_file: ";
    assert_eq!(log.matches(refused).count(), 2, "{log}");

    // A start takes it all the same, and says so.
    let expired = Papers::expired();
    let settings = [
        expired.setting("listen.tls.cert_file", "server.pem"),
        expired.setting("listen.tls.key_file", "server.key"),
    ];
    let output = run(["check", "--dev", &settings[0], &settings[1]]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let expected = "sessiond: warning: listen.tls.cert_file: a certificate in it has expired";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_configuration_is_refused() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = directory.path().join("sessiond.toml");
    let good = "[log]\nlevel = \"info\"\n";
    fs::write(&path, good).expect("a file");
    let config = format!("--config={}", path.display());
    let program = Program::serve(&["--dev", &config]);
    let uri = format!("http://{}", program.address("grpc"));
    let mut client = SessionServiceClient::connect(uri).await.expect("the daemon listens");
    let made = client.write(WriteRequest::default()).await.expect("a Write is taken").into_inner();
    let mut browser = Browser::with(&made.set_cookie);
    for (times, (bad, expected)) in [
        (Bad::Missing, "sessiond.toml: cannot be read: No such file"),
        (Bad::Unreadable, "sessiond.toml: cannot be read: Is a directory"),
        (text("[log\nlevel"), "sessiond.toml: line 1: "),
        (text("[log]\nlevel = \"loud\"\n"), "log.level in the file"),
        (text("[cleanup]\nslice = 0\n"), "cleanup.slice: expected at least 1, found 0"),
        (text("[reload]\nwatch = \"10ms\"\n"), "reload.watch: expected \"none\" or 1s to 1day"),
        (
            text("[listen.auth]\ntoken_file = \"/nope\"\n"),
            "listen.auth.token_file: the file cannot be read",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        bad.put(&path);
        program.signal(Signal::HUP);
        let log = program.wait_for_log("the reload is refused", times + 1);
        assert!(log.contains(expected), "expected {expected:?} in {log}");
        let credential = browser.credential();
        let request = WriteRequest { credential, ..set("{}") };
        let answer = client.write(request).await.expect("the session lives").into_inner();
        browser.learn(&answer.set_cookie);
    }
    let page = metrics::page(program.address("metrics"));
    let lines =
        [r#"sessiond_reloads_total{outcome="refused"} 7"#, "sessiond_last_reload_success 0"];
    expect_lines(&page, lines);
    Bad::Text(good.to_owned()).put(&path);
    program.signal(Signal::HUP);
    program.wait_for_log("reloaded: nothing has changed", 1);
}

/// A reload does not open what was closed, whatever the configuration says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_not_turned_off_by_a_reload() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let tokens = directory.path().join("tokens");
    fs::write(&tokens, format!("frontend shop {SHOP}\nadmin ops {OPS}\n")).expect("a file");
    let path: PathBuf = directory.path().join("sessiond.toml");
    let auth = format!("[listen.auth]\ntoken_file = {:?}\n", tokens.display().to_string());
    fs::write(&path, auth).expect("a file");
    let config = format!("--config={}", path.display());
    let program = Program::serve(&["--dev", &config]);
    fs::write(&path, "").expect("a file");
    program.signal(Signal::HUP);
    program.wait_for_log("need a restart: listen.auth.token_file", 1);
    let uri = format!("http://{}", program.address("grpc"));
    let mut client = SessionServiceClient::connect(uri).await.expect("the daemon listens");
    let error = client.write(set("{}")).await.expect_err("a token is still asked for");
    assert_fault(&error, Code::Unauthenticated, "TOKEN_REQUIRED", None);
}
