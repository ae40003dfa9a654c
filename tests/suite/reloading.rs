//! Reload: what is taken over while the daemon runs, and what lives on meanwhile.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use sessiond::grpc::pb::{
    CleanupRequest, ResolveRequest, ResolveResponse, SessionState,
    session_admin_service_client::SessionAdminServiceClient,
    session_service_client::SessionServiceClient,
};
use tokio::io::AsyncWriteExt;
use tonic::{
    Code, Request,
    transport::{Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::support::{
    browser::Browser,
    daemon::{assert_fault, set},
    metrics::{self, expect_lines},
    papers::Papers,
    program::{Program, run, sessiond, stderr, stdout},
    redis::{self, RedisServer},
};

const FIRST: &str = "the-first-signing-secret-of-these-tests";
const SECOND: &str = "another-signing-secret-of-these-tests";

type Sessions = SessionServiceClient<Channel>;

async fn connect(program: &Program) -> Sessions {
    let uri = format!("http://{}", program.address("grpc"));
    SessionServiceClient::connect(uri).await.expect("the daemon listens")
}

async fn resolve(client: &mut Sessions, browser: &mut Browser) -> ResolveResponse {
    let request = ResolveRequest { credential: browser.credential(), ..Default::default() };
    let answer = client.resolve(request).await.expect("a Resolve is answered").into_inner();
    browser.learn(&answer.set_cookie);
    answer
}

async fn create(client: &mut Sessions) -> Browser {
    Browser::with(&client.write(set("{}")).await.expect("a Write is taken").into_inner().set_cookie)
}

/// A file in a scratch folder, written as a whole.
fn write(directory: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let (path, next) = (directory.path().join(name), directory.path().join("next"));
    fs::write(&next, text).expect("a file");
    fs::rename(&next, &path).expect("it can be renamed");
    path
}

fn setting(key: &str, path: &Path) -> String {
    format!("--set={key}={}", path.display())
}

/// What `sessiond reload` prints, if the daemon does reload.
fn reload(program: &Program, more: &[&str]) -> String {
    let command = ["reload", "--address", program.address("admin")].into_iter();
    let output = run(command.chain(more.iter().copied()));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    stdout(&output)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_rotated_by_sighup_and_nobody_is_logged_out() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = write(&directory, "secrets", FIRST);
    let file = setting("engine.default.cookie.secret_file", &path);
    let program = Program::serve(&["--dev", &file]);
    // One connection for all of it.
    let mut client = connect(&program).await;
    let mut browser = create(&mut client).await;
    let mut lazy = browser.clone();
    let hangup = |text: &str, expected: &str| {
        write(&directory, "secrets", text);
        program.signal(Signal::HUP);
        program.wait_for_log(&format!("reloaded: {expected} trigger=\"SIGHUP\""), 1);
    };
    let signs = |count: u32| {
        format!("engine.default: {count} cookie secrets; line 1 of cookie.secret_file signs")
    };

    hangup(&format!("{FIRST}\n{SECOND}\n"), &signs(2));
    let answer = resolve(&mut client, &mut browser).await;
    assert_eq!(answer.state(), SessionState::Active);
    assert_eq!(answer.set_cookie, [""; 0], "the first one still signs");

    hangup(&format!("{SECOND}\n{FIRST}\nolder\n"), &signs(3));
    let answer = resolve(&mut client, &mut browser).await;
    assert_eq!(answer.state(), SessionState::Active);
    assert_eq!(answer.set_cookie.len(), 1, "expected a cookie that the second one signs");

    hangup(SECOND, "engine.default: 1 cookie secret; line 1 of cookie.secret_file signs");
    let answer = resolve(&mut client, &mut browser).await;
    assert_eq!((answer.state(), answer.set_cookie), (SessionState::Active, vec![]));
    let answer = resolve(&mut client, &mut lazy).await;
    assert_eq!(answer.state(), SessionState::Invalid, "the first one is gone");

    let page = metrics::page(program.address("metrics"));
    let lines = [
        r#"sessiond_reloads_total{outcome="applied"} 3"#,
        r#"sessiond_reloads_total{outcome="refused"} 0"#,
        "sessiond_last_reload_success 1",
    ];
    expect_lines(&page, lines);
    assert!(!page.contains("certificate_expiry_timestamp_seconds{"), "there is none: {page}");
}

/// Also a reload for another reason must not change it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_of_a_trial_stays() {
    let program = Program::dev();
    let mut client = connect(&program).await;
    let mut browser = create(&mut client).await;
    assert_eq!(reload(&program, &[]), "nothing has changed\n");
    assert_eq!(resolve(&mut client, &mut browser).await.state(), SessionState::Active);
}

fn tls(address: &str, tls: ClientTlsConfig) -> Sessions {
    let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("an address");
    SessionServiceClient::new(endpoint.tls_config(tls).expect("valid").connect_lazy())
}

/// Copies the files of `from` into `to`, under their names.
fn replace(to: &Papers, from: &Papers, names: &[&str]) {
    for name in names {
        to.write(name, &from.text(name));
    }
}

fn trusting(papers: &Papers) -> (Vec<String>, ClientTlsConfig) {
    let ca = papers.path("ca.pem").to_str().expect("a path").to_owned();
    (vec!["--ca-file".to_owned(), ca], papers.tls())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_replaced_and_connections_live_on() {
    let (papers, renewed) = (Papers::new(), Papers::new());
    let settings = [
        papers.setting("listen.tls.cert_file", "server.pem"),
        papers.setting("listen.tls.key_file", "server.key"),
    ];
    let program = Program::serve(&["--dev", &settings[0], &settings[1]]);
    let address = program.address("grpc");
    let (ca, trust) = trusting(&papers);
    let mut before = tls(address, trust.clone());
    let mut browser = create(&mut before).await;
    let first = metrics::page(program.address("metrics"));
    let expiry = |page: &str| {
        let name = "sessiond_certificate_expiry_timestamp_seconds{file=\"cert_file\"} ";
        let value = page.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        value.unwrap_or_else(|| panic!("expected {name} in:\n{page}"))
    };
    // rcgen's certificates end in the year 4096.
    assert!(expiry(&first).parse::<f64>().expect("a number") > 6.7e10, "{}", expiry(&first));

    replace(&papers, &renewed, &["server.pem", "server.key"]);
    let ca: Vec<_> = ca.iter().map(String::as_str).collect();
    // The file of the CA is read by the command, and is still that of the first certificate.
    let said = reload(&program, &ca);
    assert!(said.starts_with("listen.tls: a certificate, valid until 4096-01-01"), "{said}");
    assert_eq!(resolve(&mut before, &mut browser).await.state(), SessionState::Active);
    let mut after = tls(address, renewed.tls());
    assert_eq!(resolve(&mut after, &mut browser).await.state(), SessionState::Active);
    tls(address, trust).write(set("{}")).await.expect_err("the first certificate is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_ca_is_replaced() {
    let (papers, other) = (Papers::new(), Papers::new());
    let both = format!("{}{}", papers.text("ca.pem"), other.text("ca.pem"));
    papers.write("clients.pem", &papers.text("ca.pem"));
    let settings = [
        papers.setting("listen.tls.cert_file", "server.pem"),
        papers.setting("listen.tls.key_file", "server.key"),
        papers.setting("listen.tls.client_ca_file", "clients.pem"),
        "--dev".to_owned(),
    ];
    let program = Program::serve(&settings.each_ref().map(String::as_str));
    let identity = Identity::from_pem(other.text("client.pem"), other.text("client.key"));
    let newcomer = || tls(program.address("grpc"), papers.tls().identity(identity.clone()));
    newcomer().write(set("{}")).await.expect_err("its CA is not known");
    program.wait_for_log("reason=\"CERTIFICATE_REFUSED\"", 1);
    papers.write("clients.pem", &both);
    program.signal(Signal::HUP);
    program.wait_for_log("; clients need one trigger=\"SIGHUP\"", 1);
    newcomer().write(set("{}")).await.expect("its CA is known now");
}

fn bearing<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().expect("ASCII");
    request.metadata_mut().insert("authorization", value);
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_replaced_on_connections_that_exist() {
    const OLD: &str = "the-old-token-of-the-shop";
    const NEW: &str = "the-new-token-of-the-shop";
    let directory = tempfile::tempdir().expect("a scratch folder");
    let ops = "admin ops the-token-of-operators\n";
    let path = write(&directory, "tokens", &format!("{ops}frontend shop {OLD}\n"));
    let program = Program::serve(&["--dev", &setting("listen.auth.token_file", &path)]);
    let file = path.to_str().expect("a path");
    let mut client = connect(&program).await;
    client.write(bearing(set("{}"), OLD)).await.expect("it is known");
    client.write(bearing(set("{}"), NEW)).await.expect_err("it is not known yet");
    let lines = format!("{ops}frontend shop {NEW}\nfrontend shop {OLD}\n");
    write(&directory, "tokens", &lines);
    assert_eq!(reload(&program, &["--token-file", file]), "listen.auth: 3 tokens, 0 subjects\n");
    for token in [OLD, NEW] {
        client.write(bearing(set("{}"), token)).await.expect(token);
    }
    write(&directory, "tokens", &format!("{ops}frontend shop {NEW}\n"));
    assert_eq!(reload(&program, &["--token-file", file]), "listen.auth: 2 tokens, 0 subjects\n");
    let error = client.write(bearing(set("{}"), OLD)).await.expect_err("it is gone");
    assert_fault(&error, Code::Unauthenticated, "TOKEN_UNKNOWN", None);
    client.write(bearing(set("{}"), NEW)).await.expect("it stays");
}

/// A daemon with this configuration file, on free ports.
fn with_file(path: &Path) -> Program {
    let ports = ["grpc", "admin", "metrics"].map(|kind| format!("--set=listen.{kind}=127.0.0.1:0"));
    let config = format!("--config={}", path.display());
    let arguments = ["serve", "--dev", config.as_str()].into_iter();
    Program::start(&mut sessiond(arguments.chain(ports.iter().map(String::as_str))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_level_of_the_log_is_changed_and_what_needs_a_restart_is_named() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = write(&directory, "sessiond.toml", "[log]\nlevel = \"info\"\n");
    let program = with_file(&path);
    // What breaks off is logged as "debug".
    let junk = async || {
        let stream = tokio::net::TcpStream::connect(program.address("grpc")).await;
        stream.expect("it listens").write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    };
    write(
        &directory,
        "sessiond.toml",
        "[log]\nlevel = \"debug\"\n[limits]\nmax_connections = 7\n[engine.default]\nduration = \"1h\"\n",
    );
    let expected = "log.level: debug\nneeds a restart: engine.default.duration, \
                    limits.max_connections\n";
    assert_eq!(reload(&program, &[]), expected);
    junk().await;
    let log = program.wait_for_log("a connection failed", 1);
    let warning = "these keys have changed and need a restart: engine.default.duration, \
                   limits.max_connections";
    assert!(log.contains(warning), "expected {warning:?} in {log}");
    write(&directory, "sessiond.toml", "[log]\nlevel = \"info\"\n");
    assert_eq!(reload(&program, &[]), "log.level: info\n", "nothing needs a restart any more");
    junk().await;
    let (_, log) = program.stop();
    assert_eq!(log.matches("a connection failed").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watched_files_are_taken_over_by_themselves() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = write(&directory, "secrets", FIRST);
    let config = format!(
        "[engine.default.cookie]\nsecret_file = {:?}\n[reload]\nwatch = \"1s\"\n",
        path.display().to_string()
    );
    let program = with_file(&write(&directory, "sessiond.toml", &config));
    // Only what the configuration names is watched, not the file itself.
    write(&directory, "sessiond.toml", "this is half of a configurat");
    write(&directory, "secrets", &format!("{FIRST}\n{SECOND}\n"));
    program.wait_for_log("line 1 of cookie.secret_file signs trigger=\"watch\"", 1);
    // A bad file is refused once, not at each look.
    write(&directory, "secrets", "");
    program.wait_for_log("the reload is refused", 1);
    write(&directory, "secrets", &format!("{SECOND}\n{FIRST}\n"));
    let log = program.wait_for_log("line 1 of cookie.secret_file signs trigger=\"watch\"", 2);
    assert_eq!(log.matches("the reload is refused").count(), 1, "{log}");
    let refused = "the reload is refused, and what was in force stays: \
                   engine.default.cookie.secret_file: the file holds no secret";
    assert!(log.contains(refused), "expected {refused:?} in {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_of_redis_is_replaced() {
    if redis::is_missing() {
        return;
    }
    let server = RedisServer::with(&["--requirepass", "the-old-password"]);
    let directory = tempfile::tempdir().expect("a scratch folder");
    let text = |password: &str| {
        format!(
            "[store]\nbackend = \"redis\"\n[store.redis]\nurl = {:?}\npassword = {password:?}\n\
             timeout = \"20s\"\nconnect_timeout = \"5s\"\n",
            server.url()
        )
    };
    let program = with_file(&write(&directory, "sessiond.toml", &text("the-old-password")));
    let mut client = connect(&program).await;
    let mut browser = create(&mut client).await;
    server.ask_with("the-old-password", &["CONFIG", "SET", "requirepass", "the-new-password"]);
    write(&directory, "sessiond.toml", &text("the-new-password"));
    assert_eq!(reload(&program, &[]), "store.redis: the login, for new connections\n");
    server.ask_with("the-new-password", &["CLIENT", "KILL", "TYPE", "normal"]);
    program.wait_for_log("redis is connected again", 1);
    assert_eq!(resolve(&mut client, &mut browser).await.state(), SessionState::Active);
    let mut admin =
        SessionAdminServiceClient::connect(format!("http://{}", program.address("admin")))
            .await
            .expect("it listens");
    admin.cleanup(CleanupRequest::default()).await.expect("Redis is reached");
    let (_, log) = program.stop();
    assert!(!log.contains("the-old-password") && !log.contains("the-new-password"), "{log}");
}
