//! Redis stops, dies, or is replaced by a replica while a daemon uses it. Every call is
//! answered within its deadline: with UNAVAILABLE while there is no Redis, and never with "no
//! session". Then the daemon continues without a restart.
//!
//! The rig counts and prints what a failover loses and brings back, with and without WAIT.
//! Faults without a failover must lose nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::process::Signal;
use sessiond::grpc::pb::{
    DestroyRequest, ResolveRequest, SessionState, WriteRequest,
    session_service_client::SessionServiceClient,
};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use crate::{
    rig::{self, Form, Random},
    support::{
        browser::Browser,
        health::{self, ServingStatus},
        program::{PATIENCE, Program},
        redis::{RedisCluster, RedisServer, is_missing},
    },
};

const CLIENTS: u64 = 8;
/// The deadline of every call. The daemon gives up on Redis after a second.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long the clients work without a fault, before it and after it.
const WELL: Duration = Duration::from_millis(700);
/// How many successful calls in a row show that a client has recovered.
const RECOVERED: usize = 30;

const SECRET: &str = "--set=engine.default.cookie.secrets=a-signing-secret-for-tests-long-enough";

/// Starts a daemon on this Redis.
fn daemon(url: &str, settings: &[&str]) -> Program {
    let url = format!("--set=store.redis.url={url}");
    let all: Vec<_> = ["--set=store.backend=redis", &url, SECRET]
        .into_iter()
        .chain(settings.iter().copied())
        .collect();
    Program::serve(&all)
}

const WAIT: &[&str] = &["--set=store.redis.wait_replicas=1"];

async fn channel(program: &Program) -> Channel {
    let address = format!("http://{}", program.address("grpc"));
    Endpoint::from_shared(address).expect("an address").connect().await.expect("it listens")
}

/// The known state of a session that only one client changes.
enum Known {
    Live {
        browser: Browser,
        /// The version in the last answer to a change.
        acknowledged: u64,
        /// The highest version in any answer, including those of Resolve. It is higher than
        /// `acknowledged` only if a change was refused and made anyway.
        seen: u64,
    },
    Destroyed {
        browser: Browser,
    },
}

/// What all clients have counted and found.
#[derive(Default)]
struct Met {
    operations: AtomicUsize,
    refused: AtomicUsize,
    /// Sessions that were acknowledged and are gone.
    lost_sessions: AtomicUsize,
    lost_writes: AtomicUsize,
    /// Sessions whose Destroy was acknowledged and that are live again.
    back: AtomicUsize,
    /// Changes that were refused, made anyway, read, and then lost. No promise covers them.
    undone: AtomicUsize,
    last_refusal: Mutex<Option<Instant>>,
    /// Findings that are errors with every fault.
    findings: Mutex<Vec<String>>,
    healed: AtomicBool,
    recovered: AtomicUsize,
    over: AtomicBool,
}

impl Met {
    fn count(&self, what: impl Fn(&Self) -> &AtomicUsize) {
        what(self).fetch_add(1, Ordering::SeqCst);
    }

    /// Compares the stored version `found` with the one acknowledged, `least`.
    fn compare(&self, found: u64, least: u64, seen: u64) {
        if found < least {
            self.count(|met| &met.lost_writes);
        } else if found < seen {
            self.count(|met| &met.undone);
        }
    }

    /// Checks that an error is the only one that callers may see.
    fn refuse(&self, call: &str, status: &Status) {
        self.count(|met| &met.refused);
        *self.last_refusal.lock() = Some(Instant::now());
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.as_str());
        let retry = details.retry_info().is_some();
        if (status.code(), reason, retry) != (Code::Unavailable, Some("STORE_UNAVAILABLE"), true) {
            self.findings.lock().push(format!("{call}: {status:?}"));
        }
    }
}

struct Client {
    calls: SessionServiceClient<Channel>,
    random: Random,
    met: Arc<Met>,
    known: Vec<Known>,
}

fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

impl Client {
    /// Works until the end of the test, and then checks every session again.
    async fn run(mut self) {
        let mut in_a_row = 0;
        let mut recovered = false;
        while !self.met.over.load(Ordering::SeqCst) {
            self.met.count(|met| &met.operations);
            if self.step().await.is_ok() {
                in_a_row += 1;
            } else {
                in_a_row = 0;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            if !self.met.healed.load(Ordering::SeqCst) {
                in_a_row = 0;
            }
            if in_a_row >= RECOVERED && !recovered {
                recovered = true;
                self.met.count(|met| &met.recovered);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        while let Some(known) = self.known.pop() {
            self.look(known).await.expect("expected Redis to work again");
        }
    }

    async fn step(&mut self) -> Result<(), ()> {
        let choice = self.random.below(10);
        if self.known.is_empty() || choice == 0 {
            return self.create().await;
        }
        let at = self.random.below(self.known.len() as u64) as usize;
        let known = self.known.swap_remove(at);
        match (choice, known) {
            (1..5, Known::Live { browser, acknowledged, seen }) => {
                self.write(browser, acknowledged, seen).await
            }
            (5, Known::Live { browser, .. }) => self.destroy(browser).await,
            (_, known) => {
                let known = self.look(known).await?;
                self.known.extend(known);
                Ok(())
            }
        }
    }

    async fn create(&mut self) -> Result<(), ()> {
        let write = WriteRequest { set: b"{\"n\":0}".as_slice().into(), ..Default::default() };
        let created = self.calls.write(call(write)).await;
        let created = created.map_err(|status| self.met.refuse("create", &status))?.into_inner();
        let browser = Browser::with(&created.set_cookie);
        self.known.push(Known::Live { browser, acknowledged: 1, seen: 1 });
        Ok(())
    }

    async fn write(&mut self, browser: Browser, acknowledged: u64, seen: u64) -> Result<(), ()> {
        let write = WriteRequest {
            credential: browser.credential(),
            set: format!("{{\"n\":{seen}}}").into(),
            ..Default::default()
        };
        match self.calls.write(call(write)).await {
            Ok(written) => {
                let found = written.into_inner().session.expect("a session").version;
                self.met.compare(found, acknowledged + 1, seen + 1);
                self.known.push(Known::Live { browser, acknowledged: found, seen: found });
                Ok(())
            }
            Err(status) if status.code() == Code::NotFound => {
                self.met.count(|met| &met.lost_sessions);
                Ok(())
            }
            Err(status) => {
                // The change may have been made, which the next check allows for.
                self.met.refuse("write", &status);
                self.known.push(Known::Live { browser, acknowledged, seen });
                Err(())
            }
        }
    }

    async fn destroy(&mut self, browser: Browser) -> Result<(), ()> {
        let destroy = DestroyRequest { credential: browser.credential(), ..Default::default() };
        match self.calls.destroy(call(destroy)).await {
            Ok(destroyed) => {
                if destroyed.into_inner().destroyed == 0 {
                    self.met.count(|met| &met.lost_sessions);
                }
                self.known.push(Known::Destroyed { browser });
                Ok(())
            }
            Err(status) => {
                // The result is unknown, so this session is not checked again.
                self.met.refuse("destroy", &status);
                Err(())
            }
        }
    }

    /// Compares the acknowledged state with the stored one. Returns `None` if it is lost.
    async fn look(&mut self, known: Known) -> Result<Option<Known>, ()> {
        let (Known::Live { browser, .. } | Known::Destroyed { browser }) = &known;
        let resolve = ResolveRequest { credential: browser.credential(), ..Default::default() };
        let resolved = match self.calls.resolve(call(resolve)).await {
            Ok(resolved) => resolved.into_inner(),
            Err(status) => {
                self.met.refuse("resolve", &status);
                self.known.push(known);
                return Err(());
            }
        };
        let there = resolved.state() == SessionState::Active;
        Ok(match known {
            Known::Live { browser, acknowledged, seen } if there => {
                let found = resolved.session.expect("a session").version;
                self.met.compare(found, acknowledged, seen);
                // Counts each loss only once.
                let acknowledged = acknowledged.min(found);
                Some(Known::Live { browser, acknowledged, seen: found })
            }
            Known::Live { .. } => {
                self.met.count(|met| &met.lost_sessions);
                None
            }
            Known::Destroyed { .. } if there => {
                self.met.count(|met| &met.back);
                None
            }
            destroyed => Some(destroyed),
        })
    }
}

/// The losses that a fault caused.
#[derive(Debug)]
struct Cost {
    lost_sessions: usize,
    lost_writes: usize,
    back: usize,
}

impl Cost {
    #[track_caller]
    fn assert_none(&self) {
        let Self { lost_sessions, lost_writes, back } = self;
        assert_eq!((*lost_sessions, *lost_writes, *back), (0, 0, 0), "{self:?}");
    }
}

/// Starts clients, causes a fault while they work, and waits until all have recovered.
async fn endure(name: &str, program: &Program, fault: impl AsyncFnOnce()) -> Cost {
    let seed = Form::of_environment().seed();
    let channel = channel(program).await;
    let met = Arc::new(Met::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = Client {
                calls: SessionServiceClient::new(channel.clone()),
                random: Random::stream(seed, number),
                met: Arc::clone(&met),
                known: Vec::new(),
            };
            tokio::spawn(client.run())
        })
        .collect();
    let begun = Instant::now();
    // A busy machine may need some time until every call succeeds.
    loop {
        let before = met.refused.load(Ordering::SeqCst);
        tokio::time::sleep(WELL).await;
        if met.refused.load(Ordering::SeqCst) == before {
            break;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{name}: expected all calls to succeed before the fault"
        );
    }
    let since = Instant::now();
    fault().await;
    met.healed.store(true, Ordering::SeqCst);
    while met.recovered.load(Ordering::SeqCst) < CLIENTS as usize {
        let findings = met.findings.lock().clone();
        assert!(since.elapsed() < PATIENCE, "{name}: expected to recover: {findings:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(WELL).await;
    met.over.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("expected a client to end without a panic");
    }
    let number = |count: &AtomicUsize| count.load(Ordering::SeqCst);
    let cost = Cost {
        lost_sessions: number(&met.lost_sessions),
        lost_writes: number(&met.lost_writes),
        back: number(&met.back),
    };
    let outage = met.last_refusal.lock().map_or(Duration::ZERO, |last| last - since);
    rig::report(&format!(
        "rig redis faults: {name}, seed {seed}: {} operations, {} refused, the last one {:.1} s after the fault; {} sessions lost, {} writes lost, {} back, {} refused changes read and undone",
        number(&met.operations),
        number(&met.refused),
        outage.as_secs_f64(),
        cost.lost_sessions,
        cost.lost_writes,
        cost.back,
        number(&met.undone),
    ));
    let findings = met.findings.lock();
    assert!(
        findings.is_empty(),
        "{name}: {} findings: {:#?}",
        findings.len(),
        &findings[..findings.len().min(5)]
    );
    cost
}

async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

async fn wait_for_health(program: &Program, status: ServingStatus) {
    health::becomes(channel(program).await, status).await;
}

/// Redis keeps everything on disk, so nothing may be lost.
const LASTING: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_server_that_is_killed_and_started_again() {
    if is_missing() {
        return;
    }
    let mut server = RedisServer::with(LASTING);
    let program = daemon(&server.url(), &[]);
    let cost = endure("killed and restarted", &program, async || {
        server.kill();
        wait_for_health(&program, ServingStatus::NotServing).await;
        server.restart();
        wait_for_health(&program, ServingStatus::Serving).await;
    });
    cost.await.assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_server_that_is_paused() {
    if is_missing() {
        return;
    }
    let server = RedisServer::start();
    let program = daemon(&server.url(), &[]);
    let cost = endure("paused for 3 s", &program, async || {
        server.signal(Signal::STOP);
        pause(3_000).await;
        server.signal(Signal::CONT);
    });
    cost.await.assert_none();
}

/// A primary, its replica, and a Sentinel that knows both.
struct Watched {
    primary: RedisServer,
    replica: RedisServer,
    sentinel: RedisServer,
}

impl Watched {
    fn start() -> Self {
        let primary = RedisServer::start();
        let of = format!("127.0.0.1 {}", primary.port);
        let replica = RedisServer::with(&["--replicaof", &of, "--repl-diskless-sync-delay", "0"]);
        replica.wait_for(&["INFO", "replication"], "master_link_status:up");
        let sentinel = RedisServer::sentinel(&format!(
            "sentinel monitor main {of} 1\n\
             sentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 3000\n"
        ));
        let port = replica.port.to_string();
        sentinel.wait_for(&["SENTINEL", "REPLICAS", "main"], &port);
        Self { primary, replica, sentinel }
    }

    fn daemon(&self, settings: &[&str]) -> Program {
        daemon(&format!("redis+sentinel://127.0.0.1:{}/main", self.sentinel.port), settings)
    }

    fn wait_for_promotion(&self) {
        self.replica.wait_for(&["ROLE"], "master");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_primary_that_dies_behind_sentinels() {
    if is_missing() {
        return;
    }
    let mut watched = Watched::start();
    let program = watched.daemon(&[]);
    endure("failover by sentinel, primary killed", &program, async || {
        watched.primary.kill();
        watched.wait_for_promotion();
    })
    .await;
}

/// With WAIT, the replica that takes over has all acknowledged changes. It has no replica of
/// its own, so it refuses changes until it gets one.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_primary_that_dies_behind_sentinels_with_wait() {
    if is_missing() {
        return;
    }
    let mut watched = Watched::start();
    let program = watched.daemon(WAIT);
    let cost = endure("failover by sentinel, primary killed, WAIT 1", &program, async || {
        watched.primary.kill();
        watched.wait_for_promotion();
        // The old primary returns empty and as a replica, as Sentinel would configure it.
        let of = format!("127.0.0.1 {}", watched.replica.port);
        watched.primary =
            RedisServer::with(&["--replicaof", &of, "--repl-diskless-sync-delay", "0"]);
        watched.primary.wait_for(&["INFO", "replication"], "master_link_status:up");
    });
    cost.await.assert_none();
}

/// For some seconds it acts as the primary, until Sentinel tells it that it is a replica.
async fn a_primary_that_comes_back(name: &str, settings: &[&str]) -> Cost {
    let watched = Watched::start();
    let program = watched.daemon(settings);
    endure(name, &program, async || {
        watched.primary.signal(Signal::STOP);
        watched.wait_for_promotion();
        pause(500).await;
        watched.primary.signal(Signal::CONT);
        watched.primary.wait_for(&["ROLE"], "slave");
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_primary_that_is_paused_behind_sentinels() {
    if !is_missing() {
        a_primary_that_comes_back("failover by sentinel, primary paused", &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_primary_that_is_paused_behind_sentinels_with_wait() {
    if !is_missing() {
        let name = "failover by sentinel, primary paused, WAIT 1";
        a_primary_that_comes_back(name, WAIT).await.assert_none();
    }
}

async fn a_cluster_that_loses_a_primary(name: &str, settings: &[&str]) -> Cost {
    // With WAIT each primary has two replicas, so that one is left to confirm writes.
    let replicas = if settings.is_empty() { 1 } else { 2 };
    let mut cluster = RedisCluster::start(3, replicas);
    let program = daemon(&cluster.url(), settings);
    endure(name, &program, async || {
        cluster.nodes[0].kill();
        cluster.nodes[1].wait_for(&["CLUSTER", "INFO"], "cluster_state:fail");
        cluster.nodes[1].wait_for(&["CLUSTER", "INFO"], "cluster_state:ok");
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_primary_that_dies_in_a_cluster() {
    if !is_missing() {
        a_cluster_that_loses_a_primary("failover in a cluster, primary killed", &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_primary_that_dies_in_a_cluster_with_wait() {
    if !is_missing() {
        let name = "failover in a cluster, primary killed, WAIT 1";
        a_cluster_that_loses_a_primary(name, WAIT).await;
    }
}
