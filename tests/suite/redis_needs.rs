//! A Redis that does not give the daemon all that it needs: it takes no changes, its ACL
//! lacks something, or a part of its cluster is gone. What can be read is answered, and
//! health and the log say what is missing.

use std::time::Duration;

use sessiond::{
    grpc::pb::{ResolveRequest, SessionState, session_service_client::SessionServiceClient},
    server::config::Backend,
};
use tonic::{Code, transport::Endpoint};

use crate::support::{
    browser::Browser,
    daemon::{Daemon, assert_fault, login, set},
    health::{self, SESSIONS, ServingStatus},
    program::{PATIENCE, Program},
    redis::{RedisCluster, RedisServer, is_missing},
};

async fn daemon_on(url: &str) -> Daemon {
    Daemon::with(Backend::Redis, |config| {
        config.store.redis.url = url.parse().expect("a URL");
    })
    .await
}

/// Waits for the health of the daemon as a whole, and of the service for sessions.
async fn wait_for_health(address: &str, whole: ServingStatus, sessions: ServingStatus) {
    let endpoint = Endpoint::from_shared(address.to_owned()).expect("an address");
    health::becomes(endpoint.connect_lazy(), whole).await;
    health::of_service_becomes(endpoint.connect_lazy(), SESSIONS, sessions).await;
}

use ServingStatus::{NotServing, Serving};

/// How a server comes to refuse changes, and how it takes them again.
struct Refusal {
    name: &'static str,
    begin: fn(&RedisServer),
    end: fn(&RedisServer),
}

const REFUSALS: [Refusal; 2] = [
    Refusal { name: "MISCONF", begin: RedisServer::fail_to_save, end: RedisServer::save_again },
    Refusal {
        name: "NOREPLICAS",
        begin: |redis| {
            redis.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
        },
        end: |redis| {
            redis.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
        },
    },
];

/// Past half of the life of a session, so that its deadline is due to move.
const LATER: Duration = Duration::from_secs(18 * 60);

/// While `servers` take no changes, sessions are answered with the deadline that they have.
async fn sessions_go_on(url: &str, servers: &[&RedisServer]) {
    let daemon = daemon_on(url).await;
    wait_for_health(&daemon.grpc, Serving, Serving).await;
    let mut browsers = Vec::new();
    for _ in 0..8 {
        browsers.push(daemon.visitor("{}").await);
    }
    for Refusal { name, begin, end } in REFUSALS {
        servers.iter().for_each(|server| begin(server));
        let mut deadlines = Vec::new();
        for browser in &browsers {
            deadlines.push(daemon.resolve(browser).await.session.expect("it lives").expire_time);
        }
        daemon.clock.advance(LATER);
        for (browser, deadline) in browsers.iter().zip(&deadlines) {
            let resolved = daemon.resolve(browser).await;
            assert_eq!(resolved.state(), SessionState::Active, "{name}");
            assert_eq!(&resolved.session.expect("it lives").expire_time, deadline, "{name}");
            let touched = daemon.touch(browser).await;
            assert_eq!(touched.state(), SessionState::Active, "{name}");
        }
        let refused = daemon.try_write(set("{}")).await.expect_err(name);
        assert_fault(&refused, Code::Unavailable, "STORE_UNAVAILABLE", None);
        wait_for_health(&daemon.grpc, NotServing, Serving).await;

        servers.iter().for_each(|server| end(server));
        wait_for_health(&daemon.grpc, Serving, Serving).await;
        for (browser, deadline) in browsers.iter().zip(&deadlines) {
            let session = daemon.resolve(browser).await.session.expect("it lives");
            assert_ne!(&session.expire_time, deadline, "{name} is over");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_no_changes_is_read() {
    if is_missing() {
        return;
    }
    let redis = RedisServer::start();
    sessions_go_on(&redis.url(), &[&redis]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_takes_no_changes_is_read() {
    if is_missing() {
        return;
    }
    let primary = RedisServer::start();
    let sentinel =
        RedisServer::sentinel(&format!("sentinel monitor main 127.0.0.1 {} 1\n", primary.port));
    let url = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port);
    sessions_go_on(&url, &[&primary]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_takes_no_changes_is_read() {
    if is_missing() {
        return;
    }
    let cluster = RedisCluster::start(3, 0);
    let servers: Vec<_> = cluster.nodes.iter().collect();
    sessions_go_on(&cluster.url(), &servers).await;
}

/// A part of the cluster is gone. The rest may be read, if it is configured so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_lost_a_part_is_unhealthy() {
    if is_missing() {
        return;
    }
    for may_be_read in [false, true] {
        let reads = if may_be_read { "yes" } else { "no" };
        let mut cluster = RedisCluster::with(3, 0, &["--cluster-allow-reads-when-down", reads]);
        let daemon = daemon_on(&cluster.url()).await;
        wait_for_health(&daemon.grpc, Serving, Serving).await;
        let mut browsers = Vec::new();
        for _ in 0..30 {
            browsers.push(daemon.visitor("{}").await);
        }
        let mut ids = Vec::new();
        for browser in &browsers {
            ids.push(daemon.id(browser).await);
        }
        cluster.nodes[2].kill();
        let sessions = if may_be_read { Serving } else { NotServing };
        wait_for_health(&daemon.grpc, NotServing, sessions).await;
        if may_be_read {
            daemon.clock.advance(LATER);
            let mut read = 0;
            for (browser, id) in browsers.iter().zip(&ids) {
                let key = format!("sessiond:default:{id}");
                let mut left = cluster.nodes[..2].iter();
                if left.any(|node| node.ask(&["EXISTS", &key]) == ":1\r\n") {
                    assert_eq!(daemon.state(browser).await, SessionState::Active);
                    read += 1;
                }
            }
            assert!(read > 5, "most of 30 sessions are on the servers that are left: {read}");
        }
        cluster.nodes[2].restart();
        wait_for_health(&daemon.grpc, Serving, Serving).await;
        // Health is that of the cluster, and not of each server.
        let back = async {
            for browser in &browsers {
                let resolve = || ResolveRequest {
                    credential: browser.credential(),
                    peek: true,
                    ..Default::default()
                };
                while daemon.client.clone().resolve(resolve()).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        tokio::time::timeout(PATIENCE, back).await.expect("the third server is back");
    }
}

fn program_on(url: &str, settings: &[&str]) -> Program {
    let url = format!("--set=store.redis.url={url}");
    let all: Vec<_> = ["--dev", "--set=store.backend=redis", &url]
        .into_iter()
        .chain(settings.iter().copied())
        .collect();
    Program::serve(&all)
}

#[track_caller]
fn assert_told_once(log: &str, words: &str) {
    let told = log.lines().filter(|line| line.contains(words)).count();
    assert_eq!(told, 1, "expected {words:?} once:\n{log}");
}

const GRANTED: [&str; 20] = [
    "resetchannels",
    "+get",
    "+set",
    "+setrange",
    "+getrange",
    "+pexpire",
    "+pttl",
    "+del",
    "+zadd",
    "+zrem",
    "+zremrangebylex",
    "+zrangebylex",
    "+zrandmember",
    "+eval",
    "+evalsha",
    "+time",
    "+cluster|slots",
    "+asking",
    "+select",
    "+wait",
];

/// What a user is not granted is named, once, and no other is.
async fn what_is_not_granted_is_named(url: &str, servers: &[&RedisServer], missing: &str) {
    let set_user = |rules: &[&str]| {
        for server in servers {
            let user = ["ACL", "SETUSER", "app", "on", ">hunter2", "~sessiond:*"];
            assert_eq!(server.ask(&[&user, rules].concat()), "+OK\r\n");
        }
    };
    let without: Vec<_> = GRANTED.into_iter().filter(|rule| *rule != missing).collect();
    set_user(&[&["-@all"], &without[..]].concat());
    let login = ["--set=store.redis.username=app", "--set=store.redis.password=hunter2"];
    let waits = ["--set=store.redis.wait_replicas=0", "--set=store.redis.connections=3"];
    let program = program_on(url, &[login, waits].concat());
    let address = format!("http://{}", program.address("grpc"));
    wait_for_health(&address, NotServing, NotServing).await;
    let mut client = SessionServiceClient::connect(address.clone()).await.expect("it is there");
    for _ in 0..20 {
        let _ = client.write(self::login("ann")).await;
    }
    set_user(&[missing]);
    wait_for_health(&address, Serving, Serving).await;
    client.write(self::login("ann")).await.expect("all is granted");
    // And taken again, while the daemon runs.
    let taken = format!("-{}", &missing[1..]);
    set_user(&[&taken]);
    let refused = client.write(self::login("ann")).await;
    wait_for_health(&address, NotServing, if missing == "+get" { NotServing } else { Serving })
        .await;
    set_user(&[missing]);
    wait_for_health(&address, Serving, Serving).await;
    let (_, log) = program.stop();
    let told = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    let lacks = format!("the user lacks {missing}");
    assert_eq!(told(&format!("{lacks} ")) + told(&format!("{lacks};")), 2, "{refused:?}\n{log}");
    assert_eq!(told("redis gives the daemon all that it needs again"), 2, "{log}");
    assert_eq!(told("serving again"), 2, "{log}");
    assert!(log.lines().count() < 40, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_that_a_server_does_not_grant_is_named() {
    if is_missing() {
        return;
    }
    let redis = RedisServer::start();
    for missing in ["+evalsha", "+get", "+set", "+zadd"] {
        what_is_not_granted_is_named(&redis.url(), &[&redis], missing).await;
        redis.ask(&["ACL", "DELUSER", "app"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_that_a_cluster_does_not_grant_is_named() {
    if is_missing() {
        return;
    }
    let cluster = RedisCluster::start(3, 0);
    let servers: Vec<_> = cluster.nodes.iter().collect();
    what_is_not_granted_is_named(&cluster.url(), &servers, "+evalsha").await;
}

/// Keys of another prefix only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_not_granted_are_named() {
    if is_missing() {
        return;
    }
    let redis = RedisServer::start();
    redis.ask(&["ACL", "SETUSER", "app", "on", ">hunter2", "~other:*", "+@all"]);
    let login = ["--set=store.redis.username=app", "--set=store.redis.password=hunter2"];
    let program = program_on(&redis.url(), &login);
    let address = format!("http://{}", program.address("grpc"));
    wait_for_health(&address, NotServing, NotServing).await;
    let (_, log) = program.stop();
    assert_told_once(&log, "the user may not use the keys ~KEY_PREFIX:*");
}

/// A daemon that could never write is not ready, though it may read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_changes_is_not_ready() {
    if is_missing() {
        return;
    }
    for Refusal { name, begin, end } in REFUSALS {
        let redis = RedisServer::start();
        begin(&redis);
        let program = program_on(&redis.url(), &[]);
        let address = format!("http://{}", program.address("grpc"));
        wait_for_health(&address, NotServing, NotServing).await;
        let mut client = SessionServiceClient::connect(address.clone()).await.expect("it is there");
        for _ in 0..20 {
            let refused = client.write(set("{}")).await.expect_err(name);
            assert_fault(&refused, Code::Unavailable, "STORE_UNAVAILABLE", None);
        }
        end(&redis);
        wait_for_health(&address, Serving, Serving).await;
        let created = client.write(set("{}")).await.expect("changes are taken").into_inner();
        assert!(Browser::with(&created.set_cookie).cookie.is_some());
        let (_, log) = program.stop();
        assert_told_once(
            &log,
            &format!(
                "refuses what the daemon needs: it takes no changes: redis refused the command: {name}"
            ),
        );
        assert_told_once(&log, "redis gives the daemon all that it needs again");
        assert_told_once(&log, "the store fails");
    }
}

/// Reading works: so what fails is said once, and is not over with the next Resolve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_are_refused_are_told_once() {
    if is_missing() {
        return;
    }
    let redis = RedisServer::start();
    let program = program_on(&redis.url(), &[]);
    let address = format!("http://{}", program.address("grpc"));
    let mut client = SessionServiceClient::connect(address.clone()).await.expect("it is there");
    client.write(set("{}")).await.expect("changes are taken");
    wait_for_health(&address, Serving, Serving).await;
    redis.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    for _ in 0..20 {
        client.write(set("{}")).await.expect_err("no replica is there");
    }
    wait_for_health(&address, NotServing, Serving).await;
    let (_, log) = program.stop();
    for words in [
        "it takes no changes: redis refused the command: NOREPLICAS",
        "the store fails",
        "only what reads is served from now on",
    ] {
        assert_told_once(&log, words);
    }
}
