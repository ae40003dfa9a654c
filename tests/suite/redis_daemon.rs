//! Daemons on a Redis: without it, several on one, over TLS, behind Sentinels, in
//! a cluster whose slots move.

use std::{sync::Arc, time::Duration};

use sessiond::{
    grpc::wire::{
        ResolveRequest, SessionState, WriteRequest, session_service_client::SessionServiceClient,
    },
    server::{config::Backend, system::SystemClock},
    session::{
        clock::{Clock, Moment},
        id::PublicId,
        store::Store,
    },
    store::redis::RedisDatabase,
};
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt;

use crate::support::{
    daemon::{Daemon, TestClock, assert_fault, data, set},
    papers::Papers,
    program::{PATIENCE, Program},
    redis::{RedisCluster, RedisServer, is_missing, options},
};

async fn daemon_on(url: &str) -> Daemon {
    Daemon::with(Backend::Redis, |config| {
        config.store.redis.url = url.parse().expect("a URL");
    })
    .await
}

async fn wait_for_health(daemon: &Daemon, status: ServingStatus) {
    let endpoint = Endpoint::from_shared(daemon.grpc.clone()).expect("an address");
    let mut health = HealthClient::new(endpoint.connect_lazy());
    let waiting = async {
        loop {
            let answer = health.check(HealthCheckRequest::default()).await;
            if answer.expect("probes are answered").into_inner().status() == status {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.unwrap_or_else(|_| panic!("health should be {status:?} by now"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_starts_without_redis_and_serves_when_it_comes() {
    if is_missing() {
        return;
    }
    let mut redis = RedisServer::start();
    redis.kill();
    let daemon = daemon_on(&redis.url()).await;
    wait_for_health(&daemon, ServingStatus::NotServing).await;
    let refused = daemon.try_write(set("{}")).await.expect_err("there is no redis");
    assert_fault(&refused, Code::Unavailable, "STORE_UNAVAILABLE", None);
    assert!(refused.get_error_details().retry_info().is_some(), "{refused:?}");
    redis.restart();
    wait_for_health(&daemon, ServingStatus::Serving).await;
    daemon.visitor("{}").await;
    redis.kill();
    wait_for_health(&daemon, ServingStatus::NotServing).await;
    redis.restart();
    wait_for_health(&daemon, ServingStatus::Serving).await;
    daemon.visitor("{}").await;
}

/// A call that fails is answered; the log has what an operator needs, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_fills_no_log() {
    if is_missing() {
        return;
    }
    let mut redis = RedisServer::start();
    let url = format!("--set=store.redis.url={}", redis.url());
    let program = Program::serve(&["--dev", "--set=store.backend=redis", &url]);
    let address = program.address("grpc").to_owned();
    let mut client =
        SessionServiceClient::connect(format!("http://{address}")).await.expect("it is there");
    client.write(set("{}")).await.expect("redis is there");
    redis.kill();
    for _ in 0..500 {
        let refused = client.write(set("{}")).await.expect_err("there is no redis");
        assert_fault(&refused, Code::Unavailable, "STORE_UNAVAILABLE", None);
    }
    let (code, log) = program.stop();
    assert_eq!(code, Some(0), "{log}");
    let told = log.lines().filter(|line| line.contains("the store fails")).count();
    assert_eq!(told, 1, "500 calls have failed:\n{log}");
    assert!(log.lines().count() < 20, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_are_one_service() {
    if is_missing() {
        return;
    }
    let redis = RedisServer::start();
    let daemons = [daemon_on(&redis.url()).await, daemon_on(&redis.url()).await];
    let browser = daemons[0].visitor("{}").await;
    assert_eq!(daemons[1].state(&browser).await, SessionState::Active);
    let write = |daemon: usize, key: String| {
        let request =
            WriteRequest { credential: browser.credential(), ..set(&format!("{{\"{key}\":1}}")) };
        daemons[daemon].try_write(request)
    };
    let writes = (0..40).map(|number| write(number % 2, format!("k{number}")));
    for written in futures_util::future::join_all(writes).await {
        written.expect("a Write is taken");
    }
    let kept = data(&daemons[0].resolve(&browser).await);
    for number in 0..40 {
        assert!(kept.contains(&format!("\"k{number}\":1")), "no write is lost: {kept}");
    }
    daemons[1].destroy(&browser).await;
    assert_eq!(daemons[0].state(&browser).await, SessionState::NotFound, "at once");
}

/// Machines need not agree on the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_come_into_line_with_redis() {
    if is_missing() {
        return;
    }
    let redis = RedisServer::start();
    let right = Arc::new(SystemClock::start());
    let ahead = Arc::new(SystemClock::start());
    ahead.not_before(ahead.now() + Duration::from_secs(3600));
    for clock in [&right, &ahead] {
        let database =
            RedisDatabase::start(options(&redis.url(), "sessiond"), Arc::clone(clock) as _);
        database.first_contact().await.expect("redis is there");
        let answer = redis.ask(&["TIME"]);
        let seconds: u64 = answer.lines().nth(2).expect("seconds").parse().expect("a number");
        let told = Moment::from_unix_millis(seconds * 1000);
        let now = clock.now();
        assert!(now.since(told) < Duration::from_secs(10), "{now:?}, redis: {told:?}");
        assert!(told.since(now) < Duration::from_secs(10), "{now:?}, redis: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_a_certificate_and_a_password_from_a_file() {
    if is_missing() {
        return;
    }
    let papers = Papers::new();
    let path = |name: &str| papers.path(name).to_str().expect("a path").to_owned();
    let (ca, cert, key) = (path("ca.pem"), path("server.pem"), path("server.key"));
    let redis = RedisServer::with(&[
        "--port",
        "0",
        "--tls-port",
        "{port}",
        "--tls-ca-cert-file",
        &ca,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--requirepass",
        "hunter2",
    ]);
    let password_file = papers.write("password", "hunter2\n");
    let daemon = |certificate: bool, host: &'static str| {
        let (papers, password_file) = (&papers, password_file.clone());
        Daemon::with(Backend::Redis, move |config| {
            let redis_config = &mut config.store.redis;
            redis_config.url = format!("rediss://{host}:{}", redis.port).parse().expect("a URL");
            redis_config.password_file = password_file;
            redis_config.tls.ca_file = papers.path("ca.pem");
            if certificate {
                redis_config.tls.cert_file = papers.path("client.pem");
                redis_config.tls.key_file = papers.path("client.key");
            }
        })
    };
    let with = daemon(true, "localhost").await;
    let browser = with.visitor("{}").await;
    assert_eq!(with.state(&browser).await, SessionState::Active);
    // redis-server asks for certificates, unless told otherwise.
    let without = daemon(false, "localhost").await;
    let refused = without.try_write(set("{}")).await.expect_err("it has no certificate");
    assert_fault(&refused, Code::Unavailable, "STORE_UNAVAILABLE", None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_name_the_primary() {
    if is_missing() {
        return;
    }
    let primary = RedisServer::start();
    let sentinel =
        RedisServer::sentinel(&format!("sentinel monitor main 127.0.0.1 {} 1\n", primary.port));
    let mut gone = RedisServer::start();
    gone.kill();
    let sentinels = format!("127.0.0.1:{},127.0.0.1:{}", gone.port, sentinel.port);
    let daemon = daemon_on(&format!("redis+sentinel://{sentinels}/main")).await;
    let browser = daemon.visitor("{}").await;
    assert_eq!(daemon.state(&browser).await, SessionState::Active);
    assert_eq!(primary.ask(&["DBSIZE"]), ":1\r\n");
    let url = format!("redis+sentinel://{sentinels}/other");
    let database = RedisDatabase::start(options(&url, "sessiond"), TestClock::new());
    let error = database.first_contact().await.expect_err("there is no such service");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains("knows no other"), "{cause}");
}

/// A slot moves to another server, key by key, while its sessions are used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_move_with_their_slots() {
    if is_missing() {
        return;
    }
    let cluster = RedisCluster::start(3, 0);
    let daemon = daemon_on(&cluster.url()).await;
    let browser = daemon.visitor("{\"a\":1}").await;
    let session = daemon.resolve(&browser).await.session.expect("a session");
    let key = format!("sessiond:default:{}", session.id);
    let slot = cluster.nodes[0].ask(&["CLUSTER", "KEYSLOT", &key]);
    let slot = slot.trim().trim_start_matches(':').to_owned();
    let holds = |node: &&RedisServer| node.ask(&["GET", &key]).starts_with('$');
    let from = cluster.nodes.iter().find(holds).expect("somebody holds it");
    let to = cluster.nodes.iter().find(|node| node.port != from.port).expect("there are three");
    let id = |node: &RedisServer| {
        node.ask(&["CLUSTER", "MYID"]).lines().nth(1).expect("an id").to_owned()
    };
    let (from_id, to_id) = (id(from), id(to));
    let works = async |version: u64| {
        let change = WriteRequest { credential: browser.credential(), ..set("{\"a\":2}") };
        let written = daemon.write(change).await.session.expect("a session");
        assert_eq!(written.version, version);
        assert_eq!(daemon.state(&browser).await, SessionState::Active);
    };
    to.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
    from.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    works(2).await;
    let port = to.port.to_string();
    let moved = from.ask(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]);
    assert_eq!(moved, "+OK\r\n");
    works(3).await;
    for node in [to, from] {
        assert_eq!(node.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]), "+OK\r\n");
    }
    works(4).await;
    let resolve = ResolveRequest { credential: browser.credential(), ..Default::default() };
    assert_eq!(data(&daemon.resolve_with(resolve).await), "{\"a\":2}");
    daemon.destroy(&browser).await;
    assert_eq!(daemon.state(&browser).await, SessionState::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_not_there_is_told() {
    if is_missing() {
        return;
    }
    let single = RedisServer::start();
    let url = format!("redis+cluster://127.0.0.1:{}", single.port);
    let database = RedisDatabase::start(options(&url, "sessiond"), TestClock::new());
    database.first_contact().await.expect_err("it is no cluster");
    let store = database.store("default");
    let error = store.read(PublicId::from_bytes([1; 12])).await.expect_err("it is no cluster");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains("cluster support disabled"), "{cause}");
}
