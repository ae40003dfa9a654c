//! How connections to Redis are made: with the password of now, through Sentinels that were
//! not named, and over a unix socket.

use std::{path::Path, time::Duration};

use sessiond::{
    grpc::pb::{ResolveRequest, SessionState},
    server::config::{AdoptFrom, Backend},
};
use tonic::transport::Endpoint;

use crate::{
    adoption,
    support::{
        browser::Browser,
        daemon::{Daemon, set},
        health::{self, ServingStatus},
        papers::Papers,
        program::{self, PATIENCE},
        redis::{RedisServer, is_missing},
    },
};

async fn wait_for_health(daemon: &Daemon, status: ServingStatus) {
    let endpoint = Endpoint::from_shared(daemon.grpc.clone()).expect("an address");
    health::becomes(endpoint.connect_lazy(), status).await;
}

/// Tries until it is so.
async fn at_last<F: Future<Output = bool>>(what: &str, attempt: impl Fn() -> F) {
    let trying = async {
        while !attempt().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.unwrap_or_else(|_| panic!("expected {what}"));
}

/// Another password, for new connections, and none of the old connections is left.
fn change_password(redis: &RedisServer, old: &str, new: &str) {
    redis.ask_with(old, &["CONFIG", "SET", "requirepass", new]);
    redis.ask_with(new, &["CLIENT", "KILL", "TYPE", "NORMAL"]);
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file");
}

async fn is_active(daemon: &Daemon, browser: &Browser) -> bool {
    let request = ResolveRequest { credential: browser.credential(), ..Default::default() };
    let answer = daemon.client.clone().resolve(request).await;
    answer.is_ok_and(|answer| answer.into_inner().state() == SessionState::Active)
}

/// Passwords are changed without a restart: of the server, and of an application's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_read_at_each_connection() {
    if is_missing() {
        return;
    }
    let directory = tempfile::tempdir().expect("a scratch folder");
    let (own, foreign) = (directory.path().join("own"), directory.path().join("foreign"));
    write(&own, "first\n");
    write(&foreign, "first\n");
    let redis = RedisServer::with(&["--requirepass", "first"]);
    let there = RedisServer::with(&["--requirepass", "first"]);
    let daemon = Daemon::with(Backend::Redis, |config| {
        config.store.redis.url = redis.url().parse().expect("a URL");
        config.store.redis.password_file = own.clone();
        let adopt = &mut config.engine.get_mut("default").expect("the default engine").adopt;
        adopt.from = AdoptFrom::ExpressSession;
        adopt.url = there.url().parse().expect("a URL");
        adopt.password_file = foreign.clone();
    })
    .await;
    let browser = daemon.visitor("{}").await;

    write(&own, "second\n");
    write(&foreign, "second\n");
    change_password(&redis, "first", "second");
    change_password(&there, "first", "second");
    let is_active = || self::is_active(&daemon, &browser);
    at_last("the new password of the store to be used", is_active).await;
    wait_for_health(&daemon, ServingStatus::Serving).await;

    let id = "Zm9vYmFyYmF6cXV4XzAxMjM0NTY3ODlh";
    let record = r#"{"cookie":{"originalMaxAge":600000}}"#;
    there.ask_with("second", &["SET", &format!("sess:{id}"), record, "PX", "600000"]);
    let old = adoption::browser(id);
    let is_adopted = || self::is_active(&daemon, &old);
    at_last("the new password of the application's redis to be used", is_adopted).await;
}

/// The Sentinels' password is changed, and then a connection is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_of_sentinels_is_read_at_each_connection() {
    if is_missing() {
        return;
    }
    let directory = tempfile::tempdir().expect("a scratch folder");
    let file = directory.path().join("sentinels");
    write(&file, "first\n");
    let primary = RedisServer::start();
    let sentinel = RedisServer::sentinel(&format!(
        "sentinel monitor main 127.0.0.1 {} 1\nrequirepass first\n",
        primary.port
    ));
    let daemon = Daemon::with(Backend::Redis, |config| {
        let url = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port);
        config.store.redis.url = url.parse().expect("a URL");
        config.store.redis.sentinel_password_file = file.clone();
    })
    .await;
    daemon.visitor("{}").await;
    write(&file, "second\n");
    let set = ["ACL", "SETUSER", "default", "resetpass", ">second"];
    assert_eq!(sentinel.ask_with("first", &set), "+OK\r\n");
    primary.ask(&["CLIENT", "KILL", "TYPE", "NORMAL"]);
    let writes = || async { daemon.try_write(self::set("{}")).await.is_ok() };
    at_last("the Sentinel to name the primary", writes).await;
}

/// A CA is replaced while the daemon runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_read_at_each_connection() {
    if is_missing() {
        return;
    }
    let (old, new) = (Papers::new(), Papers::new());
    let path = |name: &str| new.path(name).to_str().expect("a path").to_owned();
    let (ca, cert, key) = (path("ca.pem"), path("server.pem"), path("server.key"));
    let files = ["--tls-ca-cert-file", &ca, "--tls-cert-file", &cert, "--tls-key-file", &key];
    let ports = ["--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "no"];
    let redis = RedisServer::with(&[&ports[..], &files].concat());
    let daemon = Daemon::with(Backend::Redis, |config| {
        let url = format!("rediss://localhost:{}", redis.port);
        config.store.redis.url = url.parse().expect("a URL");
        config.store.redis.tls.ca_file = old.path("ca.pem");
    })
    .await;
    wait_for_health(&daemon, ServingStatus::NotServing).await;
    old.write("ca.pem", &new.text("ca.pem"));
    wait_for_health(&daemon, ServingStatus::Serving).await;
    daemon.visitor("{}").await;
}

/// One Sentinel is named. When it is gone, the one that it knew is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_sentinels_are_learned() {
    if is_missing() {
        return;
    }
    let primary = RedisServer::start();
    let monitor = format!("sentinel monitor main 127.0.0.1 {} 1\n", primary.port);
    let mut named = RedisServer::sentinel(&monitor);
    let other = RedisServer::sentinel(&monitor);
    named.wait_for(&["SENTINEL", "SENTINELS", "main"], &other.port.to_string());
    let daemon = Daemon::with(Backend::Redis, |config| {
        let url = format!("redis+sentinel://127.0.0.1:{}/main", named.port);
        config.store.redis.url = url.parse().expect("a URL");
    })
    .await;
    daemon.visitor("{}").await;
    named.kill();
    primary.ask(&["CLIENT", "KILL", "TYPE", "NORMAL"]);
    let writes = || async { daemon.try_write(set("{}")).await.is_ok() };
    at_last("the Sentinel that was learned to name the primary", writes).await;
}

/// In its forms, with a database and a password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_listens_on_a_unix_socket() {
    if is_missing() {
        return;
    }
    let directory = tempfile::tempdir().expect("a scratch folder");
    let socket = directory.path().join("redis socket");
    let path = socket.to_str().expect("text").to_owned();
    let redis = RedisServer::with(&["--requirepass", "hunter#2", "--unixsocket", &path]);
    let written = path.replace(' ', "%20");
    for (database, url) in [
        (0, format!("unix://{written}?pass=hunter%232")),
        (3, format!("redis+unix://{written}?db=3&user=default&pass=hunter%232")),
        (4, format!("redis+unix://default:hunter%232@{written}?db=4")),
    ] {
        let daemon = Daemon::with(Backend::Redis, |config| {
            config.store.redis.url = url.parse().expect("a URL");
        })
        .await;
        let browser = daemon.visitor("{}").await;
        assert_eq!(daemon.state(&browser).await, SessionState::Active);
        wait_for_health(&daemon, ServingStatus::Serving).await;
        let keys = redis.ask_with("hunter#2", &["INFO", "keyspace"]);
        assert!(keys.contains(&format!("db{database}:keys=1")), "{url}: {keys}");
    }
    let checked = program::run([
        "check",
        "--dev",
        "--set=store.backend=redis",
        "--set=store.redis.url=redis+unix:///run/redis.sock?pass=hunter2",
    ]);
    assert!(checked.status.success(), "{}", program::stderr(&checked));
    assert!(!program::stdout(&checked).contains("hunter2"), "{}", program::stdout(&checked));
}
