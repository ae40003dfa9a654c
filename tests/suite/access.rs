//! Who may call what: roles of tokens and certificates, callers that are refused, and the audit
//! log.

use std::{fs, path::PathBuf};

use sessiond::{
    grpc::pb::{
        CleanupRequest, ExportSessionsRequest, ListSessionsRequest, ReloadRequest,
        RevokeSessionsRequest, WatchSessionsRequest,
        session_admin_service_client::SessionAdminServiceClient,
        session_service_client::SessionServiceClient,
    },
    server::config::{AddrOrOff, Backend},
};
use tonic::{
    Code, Request, Status,
    transport::{Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::support::{
    daemon::{Daemon, assert_fault, login, set},
    metrics::{expect_lines, scrape},
    papers::Papers,
    program::{Program, run, stderr, stdout},
};

const SHOP: &str = "the-token-of-the-shop";
const OPS: &str = "the-token-of-the-operators";

fn token_file(directory: &tempfile::TempDir) -> PathBuf {
    let path = directory.path().join("tokens");
    let text = format!("# who\nfrontend shop {SHOP}\nadmin ops@example.com {OPS}\n");
    fs::write(&path, text).expect("a file");
    path
}

fn with<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().expect("ASCII");
    request.metadata_mut().insert("authorization", value);
    request
}

#[tokio::test]
async fn a_frontend_cannot_export_and_an_operator_cannot_resolve() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let daemon = Daemon::with(Backend::Memory, |config| {
        config.listen.auth.token_file = token_file(&directory);
        config.listen.metrics = AddrOrOff(Some(([127, 0, 0, 1], 0).into()));
    })
    .await;
    let (mut sessions, mut admin) = (daemon.client.clone(), daemon.admin.clone());
    sessions.write(with(set("{}"), SHOP)).await.expect("the shop has the role");
    let error = sessions.write(with(set("{}"), OPS)).await.expect_err("operators do not");
    assert_fault(&error, Code::PermissionDenied, "ROLE_REQUIRED", None);
    let everything = ExportSessionsRequest::default();
    admin.export_sessions(with(everything.clone(), OPS)).await.expect("operators have the role");
    let error = admin.export_sessions(with(everything, SHOP)).await.expect_err("the shop not");
    assert_fault(&error, Code::PermissionDenied, "ROLE_REQUIRED", None);
    assert!(error.message().contains("the role \"admin\""), "{error:?}");
    let error = admin.reload(ReloadRequest {}).await.expect_err("nobody");
    assert_fault(&error, Code::Unauthenticated, "TOKEN_REQUIRED", None);

    let page = scrape(daemon.metrics.clone().expect("a listener")).await;
    let lines = [
        r#"sessiond_refused_total{listener="grpc",reason="ROLE_REQUIRED"} 1"#,
        r#"sessiond_refused_total{listener="admin",reason="ROLE_REQUIRED"} 1"#,
        r#"sessiond_refused_total{listener="admin",reason="TOKEN_REQUIRED"} 1"#,
        r#"sessiond_refused_total{listener="admin",reason="TOKEN_UNKNOWN"} 0"#,
        r#"sessiond_refused_total{listener="grpc",reason="CERTIFICATE_REQUIRED"} 0"#,
    ];
    expect_lines(&page, lines);
}

fn channel(address: &str, tls: ClientTlsConfig) -> Channel {
    let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("an address");
    endpoint.tls_config(tls).expect("valid").connect_lazy()
}

/// The certificate of `Papers` has the common name `a-client`.
fn mtls(papers: &Papers, more: &[&str]) -> Program {
    let settings = [
        papers.setting("listen.tls.cert_file", "server.pem"),
        papers.setting("listen.tls.key_file", "server.key"),
        papers.setting("listen.tls.client_ca_file", "ca.pem"),
    ];
    let settings = settings.iter().map(String::as_str).chain(["--dev"]);
    Program::serve(&settings.chain(more.iter().copied()).collect::<Vec<_>>())
}

async fn cleanup(channel: Channel) -> Result<(), Status> {
    SessionAdminServiceClient::new(channel).cleanup(CleanupRequest::default()).await.map(drop)
}

#[tokio::test]
async fn the_names_of_a_certificate_have_roles() {
    let papers = Papers::new();
    let identity = || Identity::from_pem(papers.text("client.pem"), papers.text("client.key"));
    let own = || papers.tls().identity(identity());
    for (subjects, opens_grpc, opens_admin) in [
        ("frontend CN=a-client", true, false),
        ("admin DNS:a-client", false, true),
        ("frontend CN=a-client, admin DNS:a-client", true, true),
        ("frontend+admin CN=somebody", false, false),
    ] {
        let setting = format!("--set=listen.auth.subjects={subjects}");
        let program = mtls(&papers, &[&setting]);
        let mut sessions = SessionServiceClient::new(channel(program.address("grpc"), own()));
        let written = sessions.write(set("{}")).await;
        assert_eq!(written.is_ok(), opens_grpc, "{subjects}: {written:?}");
        let removed = cleanup(channel(program.address("admin"), own())).await;
        assert_eq!(removed.is_ok(), opens_admin, "{subjects}: {removed:?}");
        for error in written.err().into_iter().chain(removed.err()) {
            assert_fault(&error, Code::PermissionDenied, "ROLE_REQUIRED", None);
        }
        // Without a certificate the handshake fails already.
        cleanup(channel(program.address("admin"), papers.tls())).await.expect_err("none");
        let log = program.wait_for_log("CERTIFICATE_REQUIRED", 1);
        let line = log.lines().find(|line| line.contains("CERTIFICATE_REQUIRED"));
        let line = line.expect("it is there");
        assert!(line.contains("refused a caller listener=\"admin\""), "{line}");
        assert!(line.contains("peer=127.0.0.1:"), "expected the peer in {line}");
    }
}

#[test]
fn subjects_need_a_client_ca() {
    let output = run(["check", "--dev", "--set=listen.auth.subjects=admin CN=ops"]);
    assert_eq!(output.status.code(), Some(78), "{}", stdout(&output));
    let expected = "sessiond: listen.auth.subjects in --set listen.auth.subjects: needs \
                    listen.tls.client_ca_file beside it";
    assert!(stderr(&output).starts_with(expected), "{}", stderr(&output));
}

#[test]
fn check_advises_against_tokens_without_a_role() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = directory.path().join("tokens");
    fs::write(&path, format!("{SHOP}\n")).expect("a file");
    let file = format!("--set=listen.auth.token_file={}", path.display());
    let secret = "--set=engine.default.cookie.secrets=a-signing-secret-for-tests-long-enough";
    let said = stderr(&run(["check", secret, file.as_str()]));
    let expected = "listen.auth.token_file: the token without a role on line 1 also opens";
    assert!(said.contains(expected), "expected {expected:?} in {said}");
    let without_admin = run(["check", secret, file.as_str(), "--set=listen.admin="]);
    assert!(!stderr(&without_admin).contains("without a role"), "{}", stderr(&without_admin));
}

#[test]
fn commands_send_the_token_that_has_the_role() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = token_file(&directory);
    let file = path.to_str().expect("a path");
    let setting = format!("--set=listen.auth.token_file={file}");
    let program = Program::serve(&["--dev", &setting]);
    let admin = program.address("admin");
    let done = run(["cleanup", "--address", admin, "--token-file", file]);
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    // A file of another program holds one token alone.
    let own = directory.path().join("own");
    fs::write(&own, format!("{SHOP}\n")).expect("a file");
    let own = own.to_str().expect("a path");
    let refused = run(["cleanup", "--address", admin, "--token-file", own]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("PermissionDenied"), "{}", stderr(&refused));
}

/// The fields of the lines of the audit log, without time and target.
fn audit(log: &str) -> Vec<&str> {
    let lines = log.lines().filter_map(|line| line.split_once("sessiond::audit: "));
    lines.map(|(_, fields)| fields).collect()
}

#[tokio::test]
async fn every_call_of_an_operator_leaves_a_line() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let setting = format!("--set=listen.auth.token_file={}", token_file(&directory).display());
    // The audit log does not depend on the level.
    let program = Program::serve(&["--dev", &setting, "--set=log.level=error"]);
    let uri = |kind| format!("http://{}", program.address(kind));
    let mut sessions = SessionServiceClient::connect(uri("grpc")).await.expect("it listens");
    let mut admin = SessionAdminServiceClient::connect(uri("admin")).await.expect("it listens");
    for _ in 0..2 {
        sessions.write(with(login("ann@example.com"), SHOP)).await.expect("a login");
    }
    let principal = "ann@example.com".to_owned();
    let list = ListSessionsRequest { principal: principal.clone(), ..Default::default() };
    admin.list_sessions(with(list, OPS)).await.expect("listed");
    let watch = WatchSessionsRequest { principal: principal.clone(), ..Default::default() };
    admin.watch_sessions(with(watch, OPS)).await.expect("watched");
    admin.export_sessions(with(Default::default(), OPS)).await.expect("exported");
    let revoke = RevokeSessionsRequest { principal, ..Default::default() };
    admin.revoke_sessions(with(revoke, OPS)).await.expect("revoked");
    let lost = CleanupRequest { engine: "hunter2".to_owned() };
    admin.cleanup(with(lost, OPS)).await.expect_err("no such engine");
    admin.reload(with(ReloadRequest {}, OPS)).await.expect("reloaded");
    admin.import_sessions(with(Default::default(), OPS)).await.expect("nothing to import");
    let (_, log) = program.stop();
    let expected = [
        ("ListSessions", "default", "sessions of a principal listed", "count=2 outcome=\"done\""),
        (
            "WatchSessions",
            "all",
            "watch of the sessions of a principal begun",
            "count=1 outcome=\"done\"",
        ),
        ("ExportSessions", "all", "sessions exported", "count=2 outcome=\"done\""),
        ("RevokeSessions", "default", "sessions of a principal ended", "count=2 outcome=\"done\""),
        ("Cleanup", "unknown", "expired sessions removed", "outcome=\"UNKNOWN_ENGINE\""),
        ("Reload", "", "changes taken over", "count=0 outcome=\"done\""),
        ("ImportSessions", "", "sessions imported", "count=0 outcome=\"done\""),
    ];
    let found = audit(&log);
    assert_eq!(found.len(), expected.len(), "expected one line for each call: {log}");
    for (line, (rpc, engine, what, outcome)) in found.iter().zip(expected) {
        let start = format!("{rpc} caller=ops@example.com peer=127.0.0.1:");
        let end = format!(" engine=\"{engine}\" what=\"{what}\" {outcome}");
        assert!(line.starts_with(&start), "expected {start:?}, found {line:?}");
        assert!(line.ends_with(&end), "expected {end:?}, found {line:?}");
    }
    for secret in ["ann@", "hunter2", SHOP, OPS] {
        assert!(!log.contains(secret), "the log gives {secret} away: {log}");
    }
}

#[tokio::test]
async fn refused_callers_are_logged_once_a_minute() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let setting = format!("--set=listen.auth.token_file={}", token_file(&directory).display());
    let program = Program::serve(&["--dev", &setting]);
    let uri = format!("http://{}", program.address("grpc"));
    let mut sessions = SessionServiceClient::connect(uri).await.expect("it listens");
    for _ in 0..5 {
        sessions.write(with(set("{}"), "a-token-of-nobody-here")).await.expect_err("unknown");
        sessions.write(set("{}")).await.expect_err("no token");
    }
    let (_, log) = program.stop();
    for reason in ["TOKEN_UNKNOWN", "TOKEN_REQUIRED"] {
        let line =
            format!("refused a caller listener=\"grpc\" reason=\"{reason}\" peer=127.0.0.1:");
        assert_eq!(log.matches(&line).count(), 1, "expected {line:?} once in {log}");
    }
    assert!(!log.contains("a-token-of"), "the log gives a token away: {log}");
}
