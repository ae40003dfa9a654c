//! Daemons on a Redis: one that is down, several on one, over TLS, behind Sentinels, and in a
//! cluster whose slots move.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::Arc,
    time::Duration,
};

use sessiond::{
    grpc::pb::{
        ResolveRequest, SessionState, WriteRequest, session_service_client::SessionServiceClient,
    },
    server::{
        clock::SystemClock,
        config::{Backend, Span},
    },
    session::{
        clock::{Clock, Moment, TimeMark, WallOffset},
        id::PublicId,
        store::{Certainty, Store},
    },
    store::redis::{RedisDatabase, RedisOptions},
};
use tonic::{Code, transport::Endpoint};
use tonic_types::StatusExt;

use crate::support::{
    browser::Browser,
    daemon::{Daemon, TestClock, assert_fault, data, set},
    health::{self, ServingStatus},
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
    health::becomes(endpoint.connect_lazy(), status).await;
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
    let refused = daemon.try_write(set("{}")).await.expect_err("expected an error without Redis");
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

/// Each failed call is answered. The log has what an operator needs, once.
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
    client.write(set("{}")).await.expect("Redis is reachable");
    redis.kill();
    for _ in 0..500 {
        let refused = client.write(set("{}")).await.expect_err("expected an error without Redis");
        assert_fault(&refused, Code::Unavailable, "STORE_UNAVAILABLE", None);
    }
    let (code, log) = program.stop();
    assert_eq!(code, Some(0), "{log}");
    let told = log.lines().filter(|line| line.contains("the store fails")).count();
    assert_eq!(told, 1, "expected one message for 500 failed calls:\n{log}");
    assert!(log.lines().count() < 20, "{log}");
}

/// A full Redis is logged once, even if each Write begins with a read that succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_fills_no_log() {
    if is_missing() {
        return;
    }
    let redis = RedisServer::start();
    let url = format!("--set=store.redis.url={}", redis.url());
    let program = Program::serve(&["--dev", "--set=store.backend=redis", &url]);
    let address = format!("http://{}", program.address("grpc"));
    let mut client = SessionServiceClient::connect(address).await.expect("it is there");
    let created = client.write(set("{}")).await.expect("there is room").into_inner();
    let browser = Browser::with(&created.set_cookie);
    let change = || WriteRequest { credential: browser.credential(), ..set("{\"a\":1}") };
    for _ in 0..2 {
        redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
        for _ in 0..20 {
            let refused = client.write(change()).await.expect_err("there is no room");
            assert_fault(&refused, Code::ResourceExhausted, "STORE_FULL", None);
        }
        redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
        client.write(change()).await.expect("there is room again");
    }
    let (_, log) = program.stop();
    let told = |words| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!(told("redis has no memory left"), 2, "{log}");
    assert_eq!(told("redis has memory again"), 2, "{log}");
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

/// The clocks of machines may differ.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_come_into_line_with_redis() {
    if is_missing() {
        return;
    }
    let redis = RedisServer::start();
    let right = Arc::new(SystemClock::start());
    let ahead = Arc::new(SystemClock::start());
    let now = ahead.now() + Duration::from_secs(3600);
    ahead.resume(TimeMark { now, offset: WallOffset::ZERO, evidence: None });
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
    // redis-server requires client certificates by default.
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
    assert!(cause.contains("does not know other"), "{cause}");
}

/// Two of three Sentinels accept connections and never answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_hang_are_passed_over() {
    if is_missing() {
        return;
    }
    let primary = RedisServer::start();
    let sentinel =
        RedisServer::sentinel(&format!("sentinel monitor main 127.0.0.1 {} 1\n", primary.port));
    let hanging = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let ports = hanging.each_ref().map(|socket| socket.local_addr().expect("an address").port());
    let url = format!(
        "redis+sentinel://127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}/main",
        ports[0], ports[1], sentinel.port
    );
    let options = RedisOptions { connect_timeout: Duration::from_secs(4), ..options(&url, "p") };
    let database = RedisDatabase::start(options, TestClock::new());
    database.first_contact().await.expect("the third one names the primary");
    let asked = || {
        let calls = hanging.iter().map(|socket| {
            socket.set_nonblocking(true).expect("a socket");
            std::iter::from_fn(|| socket.accept().ok()).count()
        });
        calls.sum::<usize>()
    };
    assert_eq!(asked(), 2, "once each");
    // Each check of the connection asks the primary for its time, and then the Sentinels.
    let before = primary.calls("time");
    let beats = async {
        while primary.calls("time") < before + 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, beats).await.expect("the connection is looked after");
    assert_eq!(asked(), 0, "expected the Sentinel that answered to be asked first");
}

/// A primary that is cut off from the others refuses, and returns an old map of slots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_is_not_believed() {
    let mut nodes = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let port = |node: &TcpListener| node.local_addr().expect("an address").port();
    nodes.sort_by_key(port);
    let [cut_off, other] = nodes;
    let (first, second) = (port(&cut_off), port(&other));
    let range =
        |from, to, port| format!("*3\r\n:{from}\r\n:{to}\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n");
    let before = format!("*2\r\n{}{}", range(0, 8191, first), range(8192, 16383, second));
    let after = format!("*1\r\n{}", range(0, 16383, second));
    pretend(cut_off, before, "-CLUSTERDOWN The cluster is down\r\n");
    pretend(other, after, "$-1\r\n");
    let url = format!("redis+cluster://127.0.0.1:{first}");
    let database = RedisDatabase::start(options(&url, "p"), TestClock::new());
    database.first_contact().await.expect("they are there");
    let store = database.store("default");
    // Keys in both halves of the slots.
    let everywhere = async {
        loop {
            let ids = (0..16).map(|number| PublicId::from_bytes([number; 12]));
            let reads =
                futures_util::future::join_all(ids.map(|id| store.read(id, Certainty::Current)))
                    .await;
            if reads.iter().all(Result::is_ok) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(8), everywhere)
        .await
        .expect("the other node is asked");
}

/// A node of a cluster that returns this map, and this answer to every GET.
fn pretend(node: TcpListener, map: String, to_get: &'static str) {
    std::thread::spawn(move || {
        for stream in node.incoming().map_while(Result::ok) {
            let map = map.clone();
            std::thread::spawn(move || {
                let mut writer = stream.try_clone().expect("a socket");
                let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
                while let Some(head) = lines.next() {
                    let count: usize = head[1..].parse().expect("the number of words");
                    let words: Vec<_> = lines.by_ref().take(2 * count).collect();
                    let answer = match words[1].to_uppercase().as_str() {
                        "CLUSTER" => map.as_str(),
                        "TIME" => "*2\r\n:1800000000\r\n:0\r\n",
                        "GET" => to_get,
                        _ => "+OK\r\n",
                    };
                    if writer.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_move_with_their_slots() {
    sessions_move("ip", 0).await;
}

/// Each change is confirmed by a replica of the server that has executed it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_move_while_changes_wait_for_replicas() {
    sessions_move("ip", 1).await;
}

/// As behind a proxy: the client uses the address at which it found a node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_move_where_nodes_have_no_names() {
    sessions_move("unknown-endpoint", 0).await;
}

/// They are to have names, and have none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_move_where_names_are_missing() {
    sessions_move("hostname", 0).await;
}

/// The same where nodes differ by their addresses, as on machines of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_without_their_names_are_where_their_addresses_say() {
    if is_missing() {
        return;
    }
    let named = ["--cluster-preferred-endpoint-type", "hostname"];
    let cluster = RedisCluster::on_one_port(&named);
    let daemon = daemon_on(&cluster.url()).await;
    wait_for_health(&daemon, ServingStatus::Serving).await;
    let mut browsers = Vec::new();
    for _ in 0..30 {
        let created = daemon.try_write(set("{}")).await.expect("each slot has its server");
        browsers.push(Browser::with(&created.set_cookie));
    }
    // "MOVED 42 ?:6379" names one of three servers.
    let id = daemon.id(&browsers[0]).await;
    let key = format!("sessiond:default:{id}");
    let holds = |node: &&RedisServer| node.ask(&["GET", &key]).starts_with('$');
    let from = cluster.nodes.iter().find(holds).expect("somebody holds it");
    for to in cluster.nodes.iter().filter(|node| node.host != from.host) {
        let from = cluster.nodes.iter().find(holds).expect("somebody holds it");
        cluster.move_slot(&key, from, to);
        assert_eq!(daemon.state(&browsers[0]).await, SessionState::Active);
    }
    for browser in &browsers {
        assert_eq!(daemon.state(browser).await, SessionState::Active);
    }
}

/// A slot moves to another server, key by key, while its sessions are used.
async fn sessions_move(endpoints: &str, replicas: usize) {
    if is_missing() {
        return;
    }
    // A long timeout prevents a failover on a busy machine.
    let named = ["--cluster-preferred-endpoint-type", endpoints, "--cluster-node-timeout", "60000"];
    let cluster = RedisCluster::with(3, replicas, &named);
    let daemon = Daemon::with(Backend::Redis, |config| {
        let redis = &mut config.store.redis;
        redis.url = cluster.url().parse().expect("a URL");
        redis.wait_replicas = replicas as u32;
        (redis.wait_timeout, redis.timeout) = (Span::secs(10), Span::secs(20));
    })
    .await;
    let browser = daemon.visitor("{\"a\":1}").await;
    let session = daemon.resolve(&browser).await.session.expect("a session");
    let key = format!("sessiond:default:{}", session.id);
    let slot = cluster.nodes[0].ask(&["CLUSTER", "KEYSLOT", &key]);
    let slot = slot.trim().trim_start_matches(':').to_owned();
    let holds = |node: &&RedisServer| node.ask(&["GET", &key]).starts_with('$');
    let from = cluster.nodes.iter().find(holds).expect("one node has the slot");
    let to = cluster.nodes[..3].iter().find(|node| node.port != from.port).expect("another");
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
    let error = store
        .read(PublicId::from_bytes([1; 12]), Certainty::Current)
        .await
        .expect_err("it is no cluster");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains("cluster support disabled"), "{cause}");
}
