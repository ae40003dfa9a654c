//! Listeners: TLS, client certificates, bearer tokens, health and reflection.

use std::{fs, path::Path, path::PathBuf};

use http_body::Body as _;
use sessiond::{
    grpc::pb::{
        CleanupRequest, session_admin_service_client::SessionAdminServiceClient,
        session_service_client::SessionServiceClient,
    },
    server::config::Backend,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{
    Code, Request, Status,
    transport::{Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};
use tower::Service as _;

use crate::support::{
    daemon::{Daemon, assert_fault, set},
    papers::Papers,
    program::{Program, run, stderr},
};

fn endpoint(scheme: &str, address: &str) -> Endpoint {
    Endpoint::from_shared(format!("{scheme}://{address}")).expect("an address")
}

async fn secured(address: &str, tls: ClientTlsConfig) -> Result<(), Status> {
    let channel = endpoint("https", address).tls_config(tls).expect("valid").connect_lazy();
    SessionServiceClient::new(channel).write(set("{}")).await.map(drop)
}

#[tokio::test]
async fn tls_is_spoken_where_it_is_configured() {
    let papers = Papers::new();
    let (cert, key) = (
        papers.setting("listen.tls.cert_file", "server.pem"),
        papers.setting("listen.tls.key_file", "server.key"),
    );
    let program = Program::serve(&["--dev", cert.as_str(), key.as_str()]);
    let address = program.address("grpc");
    secured(address, papers.tls()).await.expect("TLS works");
    let plain = SessionServiceClient::new(endpoint("http", address).connect_lazy());
    plain.clone().write(set("{}")).await.expect_err("plaintext is not spoken");
    let ca = papers.path("ca.pem");
    let ca = ca.to_str().expect("a path");
    let health = run(["health", "--address", address, "--ca-file", ca]);
    assert_eq!(health.status.code(), Some(0), "{}", stderr(&health));
    let wrong =
        run(["health", "--address", address, "--ca-file", ca, "--server-name", "elsewhere"]);
    assert_eq!(wrong.status.code(), Some(1), "the name is checked");
    let cleanup = run(["cleanup", "--address", program.address("admin"), "--ca-file", ca]);
    assert_eq!(cleanup.status.code(), Some(0), "{}", stderr(&cleanup));
}

#[tokio::test]
async fn mtls_asks_for_a_certificate() {
    let papers = Papers::new();
    let settings = [
        papers.setting("listen.tls.cert_file", "server.pem"),
        papers.setting("listen.tls.key_file", "server.key"),
        papers.setting("listen.tls.client_ca_file", "ca.pem"),
        "--dev".to_owned(),
    ];
    let program = Program::serve(&settings.each_ref().map(String::as_str));
    let address = program.address("grpc");
    secured(address, papers.tls()).await.expect_err("a client without a certificate is refused");
    let identity = Identity::from_pem(papers.text("client.pem"), papers.text("client.key"));
    secured(address, papers.tls().identity(identity))
        .await
        .expect("one with a certificate is let in");
    let file = |name| papers.path(name).to_str().expect("a path").to_owned();
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let arguments = [
        "health",
        "--address",
        address,
        "--ca-file",
        &ca,
        "--client-cert-file",
        &cert,
        "--client-key-file",
        &key,
    ];
    let health = run(arguments);
    assert_eq!(health.status.code(), Some(0), "{}", stderr(&health));
}

#[test]
fn bad_tls_files_are_bad_configuration() {
    let papers = Papers::new();
    papers.write("junk.pem", "junk");
    for (cert, key) in [
        ("junk.pem", "server.key"),
        ("server.pem", "junk.pem"),
        ("server.pem", "client.key"),
        ("nope", "server.key"),
    ] {
        let (cert, key) = (
            papers.setting("listen.tls.cert_file", cert),
            papers.setting("listen.tls.key_file", key),
        );
        let output =
            run(["serve", "--dev", "--set=listen.grpc=127.0.0.1:0", cert.as_str(), key.as_str()]);
        assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
        assert!(stderr(&output).contains("sessiond: listen.tls"), "{}", stderr(&output));
    }
}

fn with_token<T>(message: T, authorization: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", authorization.parse().expect("ASCII"));
    request
}

fn token_file(directory: &Path) -> PathBuf {
    let path = directory.join("tokens");
    fs::write(&path, "# newest first\nthe-first-token-1\n\n the-second-token \n").expect("a file");
    path
}

#[tokio::test]
async fn a_bearer_token_opens_all_but_health() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let tokens = token_file(directory.path());
    let daemon =
        Daemon::with(Backend::Memory, |config| config.listen.auth.token_file = tokens.clone())
            .await;
    let mut client = daemon.client.clone();
    for authorization in ["Bearer the-first-token-1", "bearer the-second-token"] {
        client.write(with_token(set("{}"), authorization)).await.expect(authorization);
    }
    for (authorization, reason) in [
        (None, "TOKEN_REQUIRED"),
        (Some("Basic the-first-token-1"), "TOKEN_REQUIRED"),
        (Some("the-first-token-1"), "TOKEN_REQUIRED"),
        (Some("Bearer"), "TOKEN_REQUIRED"),
        (Some("Bearer the-third-token-3"), "TOKEN_UNKNOWN"),
        (Some("Bearer the-first-token-"), "TOKEN_UNKNOWN"),
        (Some("Bearer "), "TOKEN_UNKNOWN"),
    ] {
        let request = match authorization {
            None => Request::new(set("{}")),
            Some(authorization) => with_token(set("{}"), authorization),
        };
        let error = client.write(request).await.expect_err("it is refused");
        assert_fault(&error, Code::Unauthenticated, reason, None);
    }
    let mut admin: SessionAdminServiceClient<Channel> = daemon.admin.clone();
    let error = admin.cleanup(CleanupRequest::default()).await.expect_err("no token");
    assert_fault(&error, Code::Unauthenticated, "TOKEN_REQUIRED", None);
    admin
        .cleanup(with_token(CleanupRequest::default(), "Bearer the-first-token-1"))
        .await
        .expect("let in");
    let channel = endpoint("http", daemon.grpc.trim_start_matches("http://")).connect_lazy();
    let health = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    assert_eq!(health.expect("open to all").into_inner().status(), ServingStatus::Serving);
}

#[tokio::test]
async fn a_token_lets_listen_anywhere_and_cleanup_sends_it() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let tokens = token_file(directory.path());
    let setting = format!("--set=listen.auth.token_file={}", tokens.display());
    let program = Program::serve(&["--dev", setting.as_str(), "--set=listen.grpc=0.0.0.0:0"]);
    let port = program.address("grpc").rsplit_once(':').expect("a port").1.to_owned();
    let health = run(["health", "--address", &format!("127.0.0.1:{port}")]);
    assert_eq!(health.status.code(), Some(0), "{}", stderr(&health));
    let admin = program.address("admin");
    assert_eq!(run(["cleanup", "--address", admin]).status.code(), Some(1), "no token, no cleanup");
    let tokens = tokens.to_str().expect("a path");
    let cleanup = run(["cleanup", "--address", admin, "--token-file", tokens]);
    assert_eq!(cleanup.status.code(), Some(0), "{}", stderr(&cleanup));
}

#[tokio::test]
async fn health_knows_each_service_and_ends_its_watchers() {
    let mut daemon = Daemon::start(Backend::Memory).await;
    let channel = endpoint("http", daemon.grpc.trim_start_matches("http://")).connect_lazy();
    let mut health = HealthClient::new(channel);
    for service in ["", "sessiond.v1.SessionService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.expect("known").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let unknown = HealthCheckRequest { service: "nope".to_owned() };
    assert_eq!(health.check(unknown).await.expect_err("unknown").code(), Code::NotFound);
    let mut watch =
        health.watch(HealthCheckRequest::default()).await.expect("watched").into_inner();
    let first = watch.message().await.expect("an answer").expect("a status");
    assert_eq!(first.status(), ServingStatus::Serving);
    daemon.ask_to_stop();
    // Without an end of its stream, a watcher would hold up the stop for the whole grace.
    let mut last = first.status();
    while let Ok(Some(answer)) = watch.message().await {
        last = answer.status();
    }
    assert_eq!(last, ServingStatus::NotServing);
    let _stopped = daemon.stop().await;
}

#[tokio::test]
async fn reflection_is_answered_in_both_versions() {
    let daemon = Daemon::start(Backend::Memory).await;
    let channel = endpoint("http", daemon.grpc.trim_start_matches("http://")).connect_lazy();
    let expected = ["grpc.health.v1.Health", "sessiond.v1.SessionService"];

    let request = v1::ServerReflectionRequest {
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
        ..Default::default()
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers =
        client.server_reflection_info(tokio_stream::once(request)).await.expect("v1").into_inner();
    let answer = answers.message().await.expect("an answer").expect("one");
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.message_response
    else {
        panic!("expected a list of services");
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(names, expected);

    for symbol in ["sessiond.v1.SessionService", "google.rpc.ErrorInfo", "google.rpc.Status"] {
        let symbol = symbol.to_owned();
        let request = v1alpha::ServerReflectionRequest {
            message_request: Some(
                v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
                    symbol.clone(),
                ),
            ),
            ..Default::default()
        };
        let mut client =
            v1alpha::server_reflection_client::ServerReflectionClient::new(channel.clone());
        let mut answers = client
            .server_reflection_info(tokio_stream::once(request))
            .await
            .expect("v1alpha")
            .into_inner();
        let answer = answers.message().await.expect("an answer").expect("one").message_response;
        let found = matches!(
            answer,
            Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_))
        );
        assert!(found, "{symbol} should be known, found {answer:?}");
    }

    let hidden = Daemon::with(Backend::Memory, |config| config.listen.reflection = false).await;
    let channel = endpoint("http", hidden.grpc.trim_start_matches("http://")).connect_lazy();
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel);
    let request = v1::ServerReflectionRequest::default();
    let refused = client.server_reflection_info(tokio_stream::once(request)).await;
    assert_eq!(refused.expect_err("it is turned off").code(), Code::Unimplemented);
}

#[tokio::test]
async fn more_metadata_than_allowed_is_refused() {
    let daemon = Daemon::start(Backend::Memory).await;
    let mut client = daemon.client.clone();
    let mut request = Request::new(set("{}"));
    request.metadata_mut().insert("x-much", "x".repeat(15 << 10).parse().expect("ASCII"));
    client.write(request).await.expect("a call under the limit is accepted");
    let mut request = Request::new(set("{}"));
    request.metadata_mut().insert("x-much", "x".repeat(17 << 10).parse().expect("ASCII"));
    client.write(request).await.expect_err("limits.max_header_bytes is 16 KiB");
    client.write(set("{}")).await.expect("other calls work");
}

#[tokio::test]
async fn health_takes_small_messages_only() {
    let daemon = Daemon::start(Backend::Memory).await;
    let channel = endpoint("http", daemon.grpc.trim_start_matches("http://")).connect_lazy();
    let huge = HealthCheckRequest { service: "x".repeat(8 << 10) };
    let error = HealthClient::new(channel).check(huge).await.expect_err("it is open to all");
    assert_fault(&error, Code::InvalidArgument, "MESSAGE_TOO_LARGE", None);
}

#[tokio::test]
async fn more_connections_than_allowed_wait() {
    let daemon = Daemon::with(Backend::Memory, |config| config.limits.max_connections = 1).await;
    let address = daemon.grpc.trim_start_matches("http://").to_owned();
    let connect = || SessionServiceClient::new(endpoint("http", &address).connect_lazy());
    let (mut first, mut second) = (connect(), connect());
    first.write(set("{}")).await.expect("the first one is served");
    let waiting = tokio::spawn(async move { second.write(set("{}")).await });
    first.write(set("{}")).await.expect("the first one is still served");
    assert!(!waiting.is_finished(), "expected the second one to wait");
    drop(first);
    waiting.await.expect("a call").expect("it is served once a slot is free");
}

/// A web page can make a browser send all other requests, without seeing the answer, to a
/// listener without a token.
#[tokio::test]
async fn only_a_post_of_grpc_is_a_call() {
    let daemon = Daemon::start(Backend::Memory).await;
    let admin = format!("http://{}", daemon.admin_address());
    let paths = [
        (&daemon.grpc, "/sessiond.v1.SessionService/Write"),
        (&daemon.grpc, "/sessiond.v1.SessionService/Pipeline"),
        (&daemon.grpc, "/grpc.health.v1.Health/Check"),
        (&daemon.grpc, "/nowhere"),
        (&admin, "/sessiond.v1.SessionAdminService/Cleanup"),
        (&admin, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
    ];
    let kinds = [
        ("POST", Some("text/plain"), 415, None),
        ("POST", Some("application/grpc-web+proto"), 415, None),
        ("POST", None, 415, None),
        ("GET", Some("application/grpc"), 405, Some("POST")),
        ("OPTIONS", None, 405, Some("POST")),
        ("POST", Some("application/grpc"), 200, None),
        ("POST", Some("application/grpc+proto"), 200, None),
        ("POST", Some("application/grpc;charset=utf-8"), 200, None),
    ];
    for (server, path) in paths {
        let mut channel = Channel::from_shared(server.clone()).expect("an address").connect_lazy();
        for (method, kind, status, allow) in kinds {
            let mut request = http::Request::builder().method(method).uri(path);
            if let Some(kind) = kind {
                request = request.header("content-type", kind);
            }
            let request = request.body(tonic::body::Body::empty()).expect("a request");
            std::future::poll_fn(|cx| channel.poll_ready(cx)).await.expect("a connection");
            let answer = channel.call(request).await.expect("an answer");
            let what = format!("{method} {path} {kind:?}");
            assert_eq!(answer.status(), status, "{what}");
            let header = |name| answer.headers().get(name).map(|value| value.to_str().unwrap());
            assert_eq!(header("allow"), allow, "{what}");
            if status != 200 {
                assert_eq!(header("grpc-status"), None, "{what}");
                assert!(answer.body().is_end_stream(), "{what}: nothing is said");
            }
        }
    }
}

/// The client's preface, after which it sends nothing (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const GOAWAY: u8 = 7;

#[tokio::test]
async fn an_old_connection_is_told_to_go() {
    let daemon = Daemon::with(Backend::Memory, |config| {
        config.limits.max_connection_age = "10ms".parse().expect("a time");
    })
    .await;
    let address = daemon.grpc.trim_start_matches("http://");
    let mut connection = tokio::net::TcpStream::connect(address).await.expect("a connection");
    connection.write_all(PREFACE).await.expect("sent");
    loop {
        let mut head = [0; 9];
        connection.read_exact(&mut head).await.expect("a frame, before the connection ends");
        if head[3] == GOAWAY {
            break;
        }
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        connection.read_exact(&mut vec![0; len as usize]).await.expect("the rest of the frame");
    }
    // The next call opens a new connection.
    daemon.client.clone().write(set("{}")).await.expect("a connection of its own");
}
