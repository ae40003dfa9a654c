//! The client and a daemon that restarts, stands still, is killed, or asks for more.

use std::{
    fs,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use sessiond_client::{
    Applied, Client, ClientBuilder, Credential, Data, Error, Reason, Result, State, Tls,
    WriteOptions,
};

use crate::support::{Daemon, create, in_time};

fn build(builder: ClientBuilder) -> Client {
    builder.build().expect("valid options")
}

fn socket() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let address = format!("unix:{}", folder.path().join("s").display());
    (folder, address)
}

#[test]
fn addresses_and_options_are_checked() {
    for address in ["", "localhost", "http://127.0.0.1:1", "unix:relative", ":50051", "a@b:1"] {
        let error = Client::new(address).expect_err("no address");
        assert_eq!(error.field(), Some("address"), "{address}: {error:?}");
    }
    for address in ["localhost:1", "[::1]:1", "unix:/a", "unix:///a", "127.0.0.1:50051"] {
        let client = Client::new(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        assert_eq!(client.address(), address);
    }
    let builder = || Client::builder("localhost:1");
    for (field, builder) in [
        ("timeout", builder().timeout(Duration::ZERO)),
        ("max_in_flight", builder().max_in_flight(0)),
        ("token", builder().token("two words")),
        ("token", builder().token("")),
        ("token_file", builder().token("a").token_file("b")),
        ("tls", Client::builder("unix:/a").tls(Tls::new())),
        ("tls", builder().tls(Tls::new().ca_pem("nonsense").identity_pem("nonsense", "no key"))),
    ] {
        let error = builder.build().expect_err("an option that is not allowed");
        assert_eq!(error.field(), Some(field), "{error:?}");
        assert!(!error.to_string().contains("nonsense"), "expected no secret in {error}");
    }
}

/// No request fails while the daemon restarts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_is_not_seen() {
    let (_folder, address) = socket();
    let daemon = Daemon::at(&address, &[]);
    let client = Client::new(&address).expect("an address");
    create(&client).await.expect("a session");
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (client, stop, done) = (client.clone(), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    client.resolve(&Credential::cookie_header("__Host-session=x")).await?;
                    // What is not applied is repeated as well, also a create.
                    client.write(&Credential::NONE, Data::new().into()).await?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, Error>(())
            })
        })
        .collect();
    let stopping = tokio::task::spawn_blocking(|| daemon.stop());
    stopping.await.expect("it stops");
    let starting = address.clone();
    let starting = tokio::task::spawn_blocking(move || Daemon::at(&starting, &[]));
    let _daemon = starting.await.expect("it starts");
    create(&client).await.expect("a session of the new daemon");
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("no panic").expect("no error of any request");
    }
    assert!(done.load(Ordering::Relaxed) > 0, "expected requests");
}

#[tokio::test]
async fn a_daemon_that_is_away_is_told_in_time() {
    // Bound, so that the port goes to nobody else. It does not listen.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = socket.local_addr().expect("an address").to_string();
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let client =
        build(Client::builder(&address).timeout(Duration::from_secs(2)).max_in_flight(2).observe(
            move |operation| {
                assert_eq!(operation.name, "Resolve");
                assert!(operation.error.is_some() && operation.state.is_none());
                counted.fetch_add(1, Ordering::SeqCst);
            },
        ));
    let call = || async { client.resolve(&Credential::NONE).await };
    let (one, two, three) = tokio::join!(call(), call(), call());
    for error in [one.expect_err("away"), two.expect_err("away")] {
        assert_eq!((error.reason(), error.applied()), (Reason::ConnectionFailed, Applied::No));
        assert!(error.to_string().contains(&address), "expected the address in {error}");
        assert_eq!(
            (error.status().as_u16(), error.retry_after()),
            (503, Some(Duration::from_secs(1)))
        );
    }
    let error = three.expect_err("one too many");
    assert!(matches!(error, Error::Overloaded(_)), "found {error:?}");
    assert_eq!((error.reason(), seen.load(Ordering::SeqCst)), (Reason::InFlightLimit, 3));
    // What is dropped gives its place back.
    drop(tokio::time::timeout(Duration::from_millis(10), call()).await);
    assert_eq!(call().await.expect_err("away").reason(), Reason::ConnectionFailed);
    client.close().await;
    assert_eq!(call().await.expect_err("closed").reason(), Reason::Closed);
}

/// What may have been applied says so; what is safe goes on with the next daemon.
#[tokio::test]
async fn a_daemon_that_stands_still_and_is_killed() {
    // So long until both calls are on the stream. The daemon cannot tell.
    for wait in [50, 500, 5000].map(Duration::from_millis) {
        if is_killed_after(wait).await {
            return;
        }
    }
    panic!("expected the Write to be on the stream");
}

/// False: the Write was not sent by then, and was made by the next daemon.
async fn is_killed_after(wait: Duration) -> bool {
    let (_folder, address) = socket();
    let daemon = Daemon::at(&address, &[]);
    let quick = build(Client::builder(&address).timeout(Duration::from_secs(2)));
    let client = build(Client::builder(&address).timeout(Duration::from_secs(30)));
    let credential = Credential::token(create(&client).await.expect("a session"));
    create(&quick).await.expect("a session");
    daemon.pause();
    let write = |client: &Client| {
        let (client, credential) = (client.clone(), credential.clone());
        async move { client.write(&credential, Data::new().into()).await }
    };
    let error = write(&quick).await.expect_err("it stands still");
    assert_eq!((error.reason(), error.applied()), (Reason::Timeout, Applied::Unknown));
    let writing = tokio::spawn(write(&client));
    let reading = {
        let (client, credential) = (client.clone(), credential.clone());
        tokio::spawn(async move { client.resolve(&credential).await })
    };
    tokio::time::sleep(wait).await;
    drop(daemon);
    let _daemon = Daemon::at(&address, &[]);
    let found = reading.await.expect("no panic").expect("the next daemon answers");
    assert!(matches!(found.state, State::Invalid | State::NotFound), "found {:?}", found.state);
    let Err(error) = writing.await.expect("no panic") else { return false };
    assert!(error.is_unavailable() && error.applied() == Applied::Unknown, "found {error:?}");
    true
}

#[tokio::test]
async fn a_daemon_that_goes_on_is_not_left() {
    let daemon = Daemon::start(&[]);
    let client = Client::new(&daemon.address).expect("an address");
    let credential = Credential::token(create(&client).await.expect("a session"));
    daemon.pause();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.resolve(&credential).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    daemon.resume();
    assert_eq!(call.await.expect("no panic").expect("an answer").state, State::Active);
}

#[tokio::test]
async fn tokens_are_sent_and_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, mine) = (folder.path().join("token"), folder.path().join("mine"));
    let right = "0123456789abcdef".repeat(4);
    fs::write(&file, &right).expect("a file");
    let daemon = Daemon::start(&[&format!("listen.auth.token_file={}", file.display())]);
    let builder = || Client::builder(&daemon.address);
    let error = build(builder()).describe().await.expect_err("no token");
    assert_eq!(error.reason(), Reason::TokenRequired);
    assert!(matches!(error, Error::Authentication(_)) && !error.is_unavailable());
    let error = build(builder().token("wrong")).describe().await.expect_err("a wrong token");
    assert_eq!(error.reason(), Reason::TokenUnknown);
    assert!(!format!("{error} {error:?}").contains("wrong"), "expected no token in {error:?}");
    create(&build(builder().token(&right))).await.expect("a session");

    let client = build(builder().token_file(&mine));
    let error = client.resolve(&Credential::NONE).await.expect_err("no such file");
    assert!(error.to_string().contains("mine"), "expected the file in {error}");
    fs::write(&mine, "# mine\n\nwrong\n").expect("a file");
    let error = client.resolve(&Credential::NONE).await.expect_err("a wrong token");
    assert_eq!(error.reason(), Reason::TokenUnknown);
    fs::write(&mine, format!("# mine\n{right}\n")).expect("a file");
    create(&client).await.expect("a session, with the new token");
    let token = create(&client).await.expect("a session");
    let listed = client.list_sessions(&Credential::token(token)).await.expect("a list");
    assert_eq!(listed.sessions.len(), 1);
}

#[tokio::test]
async fn a_token_with_another_role_is_no_right_to_sessions() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tokens");
    let (frontends, operators) = ("0123456789abcdef".repeat(2), "fedcba9876543210".repeat(2));
    fs::write(&file, format!("frontend shop {frontends}\nadmin ops {operators}\n"))
        .expect("a file");
    let daemon = Daemon::start(&[&format!("listen.auth.token_file={}", file.display())]);
    let builder = || Client::builder(&daemon.address);
    let error = build(builder().token(&operators)).describe().await.expect_err("of operators");
    assert_eq!((error.reason(), error.applied()), (Reason::RoleRequired, Applied::No));
    assert!(matches!(error, Error::Authentication(_)) && !error.is_retryable(), "{error:?}");
    create(&build(builder().token(&frontends))).await.expect("a session");
}

#[tokio::test]
async fn tls_is_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let make = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a pair");
    let (own, other) = (make(), make());
    fs::write(path("cert"), own.cert.pem()).expect("a file");
    fs::write(path("key"), own.signing_key.serialize_pem()).expect("a file");
    let daemon = Daemon::start(&[
        &format!("listen.tls.cert_file={}", path("cert")),
        &format!("listen.tls.key_file={}", path("key")),
    ]);
    let with = |tls| Client::builder(&daemon.address).tls(tls);
    let trusting = || Tls::new().ca_pem(own.cert.pem());
    create(&build(with(trusting().server_name("localhost")))).await.expect("a session");
    let another_name = || with(trusting().server_name("example.com"));
    let another = || with(Tls::new().ca_pem(other.cert.pem()).server_name("localhost"));
    let plain = Daemon::start(&[]);
    for (what, builder) in [
        ("another name", &another_name as &dyn Fn() -> ClientBuilder),
        ("another certificate", &another),
        ("no TLS of the client", &|| Client::builder(&daemon.address)),
        ("no TLS of the daemon", &|| Client::builder(&plain.address).tls(trusting())),
    ] {
        let error = in_time(|timeout| build(builder().timeout(timeout))).await;
        assert!(error.is_unavailable() && error.applied() == Applied::No, "{what}: {error:?}");
        assert_eq!(error.reason(), Reason::ConnectionFailed, "{what}: {error:?}");
    }
}

#[tokio::test]
async fn a_certificate_of_the_client_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let authority = || {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().expect("a key"))
            .expect("an authority")
    };
    let signed = |authority: &rcgen::CertifiedIssuer<'_, rcgen::KeyPair>| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, authority).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    };
    let (own, other) = (authority(), authority());
    let (certificate, key) = signed(&own);
    fs::write(path("authority"), own.pem()).expect("a file");
    fs::write(path("cert"), certificate).expect("a file");
    fs::write(path("key"), key).expect("a file");
    let daemon = Daemon::start(&[
        &format!("listen.tls.cert_file={}", path("cert")),
        &format!("listen.tls.key_file={}", path("key")),
        &format!("listen.tls.client_ca_file={}", path("authority")),
    ]);
    let trusting = || Tls::new().ca_pem(own.pem()).server_name("localhost");
    let with = |tls| Client::builder(&daemon.address).tls(tls);
    let (certificate, key) = signed(&own);
    create(&build(with(trusting().identity_pem(certificate, key)))).await.expect("a session");
    let (certificate, key) = signed(&other);
    for (what, tls) in [
        ("no certificate", trusting()),
        ("one of another authority", trusting().identity_pem(certificate, &key)),
    ] {
        let error = in_time(|timeout| build(with(tls.clone()).timeout(timeout))).await;
        assert!(error.is_unavailable() && error.applied() == Applied::No, "{what}: {error:?}");
        assert_eq!(error.reason(), Reason::ConnectionFailed, "{what}: {error:?}");
        assert!(!format!("{error:?}").contains(&key), "expected no key in {error:?}");
    }
}

#[tokio::test]
async fn what_would_end_the_stream_is_refused() -> Result<()> {
    let daemon = Daemon::start(&[]);
    let client = Client::new(&daemon.address)?;
    let described = client.describe().await?;
    let mut large = Data::new();
    let most = described.engine("").expect("the default engine").max_data_bytes;
    large.insert("a", "x".repeat(most))?;
    let error = client.write(&Credential::NONE, large.into()).await.expect_err("too large");
    assert_eq!((error.reason(), error.status().as_u16()), (Reason::DataTooLarge, 413));
    let key = "x".repeat(described.limits.max_message_bytes);
    let options = WriteOptions { unset: vec![key], ..Default::default() };
    let error = client.write(&Credential::NONE, options).await.expect_err("too large");
    assert_eq!((error.reason(), error.applied()), (Reason::MessageTooLarge, Applied::No));
    create(&client).await?;
    Ok(())
}

#[tokio::test]
async fn a_client_that_closes_waits_for_its_answers() {
    let daemon = Daemon::start(&[]);
    let client = Client::new(&daemon.address).expect("an address");
    create(&client).await.expect("a session");
    daemon.pause();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.resolve(&Credential::token("x")).await }
    });
    tokio::task::yield_now().await;
    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close().await }
    });
    tokio::task::yield_now().await;
    daemon.resume();
    assert_eq!(call.await.expect("no panic").expect("an answer").state, State::Invalid);
    closing.await.expect("it closes");
    let error = client.resolve(&Credential::NONE).await.expect_err("it is closed");
    assert_eq!(error.reason(), Reason::Closed);
}

/// A client outlives the runtime that has carried its connection.
#[test]
fn a_client_works_in_another_runtime() {
    let daemon = Daemon::start(&[]);
    let client = Client::new(&daemon.address).expect("an address");
    for _ in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(create(&client)).expect("a session");
    }
}
