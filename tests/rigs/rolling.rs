//! A rolling restart: three daemons on one Redis, behind a balancer that deals connections
//! round-robin, are stopped and started again one after the other while frontends work with the
//! client package. No operation may fail, and nobody may be logged out.
//!
//! The restarts come in two kinds, in turn. With `runtime.drain` the balancer follows health, so
//! the daemon has left it before it refuses anything. Without, the balancer learns of the stop
//! when it cannot connect.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sessiond_client::{Client, Credential, Data, Error, State, WriteOptions};
use tokio::{
    net::{TcpListener, TcpStream, UnixStream},
    task::JoinSet,
};
use tonic::transport::Endpoint;

use crate::{
    rig::{Form, report},
    support::{
        browser::Browser,
        health::{self, ServingStatus},
        program::{PATIENCE, Program},
        redis::{RedisServer, is_missing},
    },
};

const DAEMONS: usize = 3;
/// Frontends: each is a client with a connection of its own.
const FRONTENDS: usize = 6;
/// Users of each frontend.
const USERS: usize = 4;
/// What a user does between two requests.
const PAUSE: Duration = Duration::from_millis(10);
/// How many requests each user makes at least from the stop of a daemon to that of the next one.
const REQUESTS_PER_RESTART: u64 = 5;
/// A `runtime.drain`.
const NO_DRAIN: &str = "none";

/// Deals connections round-robin over the daemons in its list that accept them.
struct Balancer {
    /// Where each daemon listens; `None`: its health says that it stops.
    daemons: Mutex<Vec<Option<PathBuf>>>,
    dealt: AtomicUsize,
    /// Connections that went to another daemon because one did not accept.
    refused: AtomicUsize,
}

impl Balancer {
    fn list(&self, daemon: usize, socket: Option<&Path>) {
        let mut daemons = self.daemons.lock().expect("no panic holds it");
        daemons[daemon] = socket.map(Path::to_owned);
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let (client, _) = listener.accept().await.expect("it listens");
            connections.spawn(Arc::clone(&self).carry(client));
            while connections.try_join_next().is_some() {}
        }
    }

    /// Carries what both sides send, until both have closed.
    async fn carry(self: Arc<Self>, mut client: TcpStream) {
        if let Some(mut daemon) = self.next().await {
            // Either side may break off.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut daemon).await;
        }
    }

    async fn next(&self) -> Option<UnixStream> {
        for _ in 0..DAEMONS {
            let next = self.dealt.fetch_add(1, Ordering::Relaxed) % DAEMONS;
            let listed = self.daemons.lock().expect("no panic holds it")[next].clone();
            let Some(socket) = listed else { continue };
            match UnixStream::connect(socket).await {
                Ok(daemon) => return Some(daemon),
                Err(_) => self.refused.fetch_add(1, Ordering::Relaxed),
            };
        }
        None
    }
}

/// What the users have done and met.
struct Progress {
    done: AtomicBool,
    requests: Vec<AtomicU64>,
    failures: Mutex<Vec<String>>,
    lost: AtomicU64,
    slowest_micros: AtomicU64,
}

impl Progress {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            done: AtomicBool::new(false),
            requests: (0..FRONTENDS * USERS).map(|_| AtomicU64::new(0)).collect(),
            failures: Mutex::default(),
            lost: AtomicU64::new(0),
            slowest_micros: AtomicU64::new(0),
        })
    }

    fn requests(&self) -> Vec<u64> {
        self.requests.iter().map(|count| count.load(Ordering::Acquire)).collect()
    }

    fn total(&self) -> u64 {
        self.requests().iter().sum()
    }

    /// Waits until every user has made so many requests since `before`.
    async fn wait_for_all(&self, before: &[u64], requests: u64) {
        let waiting = async {
            while self.requests().iter().zip(before).any(|(now, then)| *now < then + requests) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.expect("expected every user to go on");
    }
}

/// A user of a frontend, with one session that only this user changes.
struct User {
    number: usize,
    client: Client,
    browser: Browser,
    version: u64,
    written: u64,
    progress: Arc<Progress>,
}

impl User {
    fn credential(&self) -> Credential {
        Credential::cookie_header(self.browser.header())
    }

    async fn log_in(&mut self) -> Result<(), Error> {
        let mut options = WriteOptions::from(Data::from_json(r#"{"written":0}"#)?);
        options.principal = Some(format!("user {}", self.number));
        let made = self.client.write(&Credential::NONE, options).await?;
        self.browser.learn(&made.set_cookie);
        self.version = made.session.version;
        Ok(())
    }

    /// Works until it is told to stop.
    async fn work(mut self) {
        let progress = Arc::clone(&self.progress);
        let count = &progress.requests[self.number];
        while !progress.done.load(Ordering::Relaxed) {
            let asked = Instant::now();
            let kind = count.load(Ordering::Relaxed) % 4;
            let outcome = match kind {
                0 => self.write().await,
                1 => self.touch().await,
                _ => self.resolve().await,
            };
            if let Err(error) = outcome {
                let kind = ["a Write", "a Touch", "a Resolve", "a Resolve"][kind as usize];
                let told = format!("{kind} of user {}: {error:?}", self.number);
                progress.failures.lock().expect("no panic holds it").push(told);
            }
            let took = asked.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
            progress.slowest_micros.fetch_max(took, Ordering::Relaxed);
            count.fetch_add(1, Ordering::Release);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn write(&mut self) -> Result<(), Error> {
        let next = self.written + 1;
        let set = Data::from_json(&format!(r#"{{"written":{next}}}"#))?;
        let answer = self.client.write(&self.credential(), set.into()).await?;
        self.browser.learn(&answer.set_cookie);
        if answer.session.version != self.version + 1 {
            self.progress.lost.fetch_add(1, Ordering::Relaxed);
        }
        (self.version, self.written) = (answer.session.version, next);
        Ok(())
    }

    async fn touch(&mut self) -> Result<(), Error> {
        let answer = self.client.touch(&self.credential()).await?;
        self.browser.learn(&answer.set_cookie);
        if answer.state != State::Active {
            self.progress.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn resolve(&mut self) -> Result<(), Error> {
        let answer = self.client.resolve(&self.credential()).await?;
        self.browser.learn(&answer.set_cookie);
        let found = answer.session.filter(|_| answer.state == State::Active);
        let written = found.map(|found| found.data.get::<u64>("written")).transpose()?.flatten();
        if written != Some(self.written) {
            self.progress.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// One of the daemons, at a place in the list of the balancer.
struct Daemon {
    number: usize,
    socket: PathBuf,
    redis: String,
    running: Option<Running>,
}

struct Running {
    program: Program,
    /// `runtime.drain`.
    drain: &'static str,
}

impl Daemon {
    fn start(&mut self, drain: &'static str) {
        let settings = [
            "--set=store.backend=redis".to_owned(),
            format!("--set=store.redis.url={}", self.redis),
            "--set=engine.default.cookie.secrets=a-signing-secret-for-tests-long-enough".to_owned(),
            format!("--set=listen.grpc=unix:{}", self.socket.display()),
            format!("--set=runtime.drain={drain}"),
        ];
        let settings: Vec<_> = settings.iter().map(String::as_str).collect();
        let program = tokio::task::block_in_place(|| Program::serve(&settings));
        self.running = Some(Running { program, drain });
    }

    /// Stops it cleanly, and starts it again with another `runtime.drain`.
    async fn restart(&mut self, balancer: &Balancer, next_drain: &'static str) {
        let Running { mut program, drain } = self.running.take().expect("it runs");
        if drain == NO_DRAIN {
            program.signal(Signal::TERM);
        } else {
            let address = format!("http://{}", program.address("admin"));
            let channel = Endpoint::from_shared(address).expect("an address").connect().await;
            let channel = channel.expect("it listens");
            // Begun before: on a busy machine, the drain may be over before anybody asks.
            let mut watch = health::watch(channel, "").await;
            program.signal(Signal::TERM);
            let told = async {
                while let Ok(Some(health)) = watch.message().await {
                    if health.status() == ServingStatus::NotServing {
                        return;
                    }
                }
                panic!("expected NOT_SERVING before the end");
            };
            tokio::time::timeout(PATIENCE, told).await.expect("expected its health to change");
            balancer.list(self.number, None);
        }
        let status = tokio::task::block_in_place(|| program.wait());
        assert_eq!(status.code(), Some(0), "expected a clean stop: {}", program.log());
        self.start(next_drain);
        balancer.list(self.number, Some(&self.socket));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_request_fails_and_nobody_is_logged_out() {
    if is_missing() {
        return;
    }
    // Each restarts every daemon once. The drain changes after each.
    let rounds: u64 = Form::of_environment().pick(2, 6, 400);
    let drain = |round: u64| if round.is_multiple_of(2) { "300ms" } else { NO_DRAIN };
    let redis = RedisServer::start();
    let folder = tempfile::tempdir().expect("a scratch folder");
    let socket = |number: usize| folder.path().join(format!("{number}.sock"));
    let mut daemons: Vec<_> = (0..DAEMONS)
        .map(|number| Daemon { number, socket: socket(number), redis: redis.url(), running: None })
        .collect();
    for daemon in &mut daemons {
        daemon.start(drain(0));
    }
    let balancer = Arc::new(Balancer {
        daemons: Mutex::new(daemons.iter().map(|daemon| Some(daemon.socket.clone())).collect()),
        dealt: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&balancer).serve(listener));

    let progress = Progress::new();
    let mut users = JoinSet::new();
    for frontend in 0..FRONTENDS {
        let client = Client::new(&address).expect("an address");
        for user in 0..USERS {
            let mut user = User {
                number: frontend * USERS + user,
                client: client.clone(),
                browser: Browser::new(),
                version: 0,
                written: 0,
                progress: Arc::clone(&progress),
            };
            user.log_in().await.expect("all daemons are up");
            users.spawn(user.work());
        }
    }
    progress.wait_for_all(&progress.requests(), 4).await;

    let started = Instant::now();
    let mut during = 0;
    for round in 0..rounds {
        for daemon in &mut daemons {
            let before = progress.requests();
            daemon.restart(&balancer, drain(round + 1)).await;
            during += progress.total() - before.iter().sum::<u64>();
            progress.wait_for_all(&before, REQUESTS_PER_RESTART).await;
        }
    }
    let elapsed = started.elapsed();
    progress.wait_for_all(&progress.requests(), 4).await;
    progress.done.store(true, Ordering::Relaxed);
    while let Some(user) = users.join_next().await {
        user.expect("no user panics");
    }
    let failures = progress.failures.lock().expect("no panic holds it").clone();
    let lost = progress.lost.load(Ordering::Relaxed);
    report(&format!(
        "rig rolling: {} restarts of {DAEMONS} daemons on one redis under {FRONTENDS} frontends \
         with {} users in {:.1} s, {} requests, {during} of them during restarts; {} failed, \
         {lost} sessions or changes lost; slowest request {:.0} ms; {} connections dealt, {} to \
         the next daemon because one was away",
        rounds * DAEMONS as u64,
        FRONTENDS * USERS,
        elapsed.as_secs_f64(),
        progress.total(),
        failures.len(),
        progress.slowest_micros.load(Ordering::Relaxed) as f64 / 1000.0,
        balancer.dealt.load(Ordering::Relaxed),
        balancer.refused.load(Ordering::Relaxed),
    ));
    let shown = &failures[..failures.len().min(5)];
    assert!(failures.is_empty(), "{} requests failed: {shown:#?}", failures.len());
    assert_eq!(lost, 0, "expected every session and every acknowledged change");
    let least = rounds * (DAEMONS * FRONTENDS * USERS) as u64;
    assert!(during >= least, "expected at least {least} requests during restarts, found {during}");
    for daemon in daemons {
        let (code, log) = daemon.running.expect("it runs").program.stop();
        assert_eq!(code, Some(0), "{log}");
    }
}
