//! Where an attack is played: a daemon, a bystander, and somebody who measures.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::OpenOptionsExt,
    pin::Pin,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prost::Message;
use rustix::process::{Pid, Signal, kill_process, setpriority_process};
use sessiond::grpc::pb::{
    Credential, ResolveRequest, ResolveResponse, SessionState, WriteRequest, WriteResponse,
    credential::Kind,
};
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
};

use super::{
    caller::{self, Caller, Request},
    judge::{Door, Limits, MIB, Measured, Memory, Newcomer, Row, TABLE, Window},
};
use crate::{
    rig::{Form, report},
    support::program::Program,
};

pub(super) const RESOLVE: &str = "/sessiond.v1.SessionService/Resolve";
pub(super) const WRITE: &str = "/sessiond.v1.SessionService/Write";
pub(super) const PIPELINE: &str = "/sessiond.v1.SessionService/Pipeline";
pub(super) const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
pub(super) const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Attackers come from here; the bystander and newcomers come from 127.0.0.1.
const ATTACKERS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Between the calls of the bystander.
const PACE: Duration = Duration::from_millis(2);
/// What a caller says of a GOAWAY with NO_ERROR.
const GRACEFUL: &str = "GOAWAY with the code [0, 0, 0, 0]";
/// How long an attack may take to get going. After that it is measured as it is.
const SETTING_OUT: Duration = Duration::from_secs(10);
/// How long somebody new tries to get in.
const NEWCOMERS_PATIENCE: Duration = Duration::from_secs(3);
/// The first pause of the client packages between two attempts.
const NEWCOMERS_PAUSE: Duration = Duration::from_millis(100);
/// How long the daemon has to give memory back when the peers are gone.
const GIVING_BACK: Duration = Duration::from_secs(10);
/// How long the daemon has to finish with the peers of a round before the next one.
const IDLING: Duration = Duration::from_secs(20);
/// An attack that has taken so much has shown enough, and must not take the machine.
const CEILING_BYTES: u64 = 512 * MIB;
/// Of the answer to a Resolve of the large session.
const LARGE_DATA_BYTES: usize = 60 << 10;

/// Measurements disturb each other, whatever the number of test threads is.
static ALONE: Mutex<()> = Mutex::new(());

pub(super) type Play<T> = fn(Arc<Target>) -> Pin<Box<dyn Future<Output = T>>>;

/// One attack.
pub(super) struct Attack {
    pub name: &'static str,
    pub settings: &'static [&'static str],
    /// How much memory it may take. Without a token: as good as nothing.
    pub more_bytes: u64,
    /// Plays it until it is dropped. Tells the target when it has got going.
    pub play: Play<()>,
    /// What honest peers do in the neighbourhood of the attack, and what must work. Nothing
    /// is measured meanwhile.
    pub errand: Option<Play<Result<(), String>>>,
}

impl Attack {
    /// An attack by a peer that has no token.
    pub(super) const fn by_anybody(name: &'static str, play: Play<()>) -> Self {
        Self { name, settings: &[], more_bytes: Limits::STRICT.more_bytes, play, errand: None }
    }

    /// An attack by a peer that may call: it may use the whole budget.
    pub(super) const fn with_token(name: &'static str, play: Play<()>) -> Self {
        Self { more_bytes: WITH_TOKEN_BYTES, ..Self::by_anybody(name, play) }
    }

    pub(super) const fn with_settings(self, settings: &'static [&'static str]) -> Self {
        Self { settings, ..self }
    }

    pub(super) const fn with_errand(self, errand: Play<Result<(), String>>) -> Self {
        Self { errand: Some(errand), ..self }
    }
}

/// What peers with a token may make the daemon hold, all together.
const WITH_TOKEN_BYTES: u64 = 128 * MIB;

/// What an attack knows of the daemon.
pub(super) struct Target {
    pub form: Form,
    pub grpc: SocketAddr,
    pub metrics: SocketAddr,
    pub token: String,
    /// Of a session with little data.
    pub cookie: String,
    /// Of a session with much.
    pub large_cookie: String,
    daemon: Pid,
    deeds: AtomicU64,
    occupied: AtomicUsize,
    going: AtomicBool,
}

impl Target {
    /// Counts what the attack does, and tells that it has got going.
    pub(super) fn did(&self, deeds: u64) {
        self.deeds.fetch_add(deeds, Ordering::SeqCst);
        if self.occupied.load(Ordering::SeqCst) == 0 {
            self.going.store(true, Ordering::SeqCst);
        }
    }

    /// One of `all` connections has tried to do what it is there for. The attack has got
    /// going when all have.
    pub(super) fn occupied(&self, all: usize) {
        if self.occupied.fetch_add(1, Ordering::SeqCst) + 1 >= all {
            self.going.store(true, Ordering::SeqCst);
        }
    }

    pub(super) async fn connect(&self) -> std::io::Result<tokio::net::TcpStream> {
        self.connect_from(ATTACKERS).await
    }

    pub(super) async fn connect_from(
        &self,
        from: Ipv4Addr,
    ) -> std::io::Result<tokio::net::TcpStream> {
        connect(from, self.grpc).await
    }

    pub(super) async fn connect_to_metrics(&self) -> std::io::Result<tokio::net::TcpStream> {
        connect(ATTACKERS, self.metrics).await
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(self.daemon, signal).expect("the daemon is there");
    }

    pub(super) fn credential(&self) -> Option<Credential> {
        credential(&self.cookie)
    }

    pub(super) fn large_credential(&self) -> Option<Credential> {
        credential(&self.large_cookie)
    }
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn credential(cookie: &str) -> Option<Credential> {
    Some(Credential { kind: Some(Kind::CookieHeader(cookie.to_owned().into())) })
}

/// How often and for how long is measured.
struct Plan {
    rounds: u32,
    quiet_windows: u32,
    attack_windows: u32,
    window: Duration,
}

impl Plan {
    fn of(form: Form) -> Self {
        let plan = |rounds, quiet_windows, attack_windows, millis| Self {
            rounds,
            quiet_windows,
            attack_windows,
            window: Duration::from_millis(millis),
        };
        form.pick(plan(3, 1, 2, 150), plan(4, 1, 2, 250), plan(5, 2, 3, 1_000))
    }
}

/// Plays an attack, prints its row, and fails with all that was too much.
pub(super) fn play(attack: &Attack) {
    let _alone = ALONE.lock();
    let form = Form::of_environment();
    static HEAD: Once = Once::new();
    HEAD.call_once(|| {
        TABLE.lines().for_each(|line| report(&format!("rig attacks: {line}")));
    });
    let measured = Stage::set(attack, form).measure(attack, &Plan::of(form));
    let limits = Limits { more_bytes: attack.more_bytes, ..Limits::of(form) };
    let faults = limits.judge(&measured);
    let row = Row { name: attack.name, measured: &measured, faults: faults.len() };
    report(&format!("rig attacks: {row}"));
    assert!(
        faults.is_empty(),
        "the attack {} does more than it may:\n- {}\n",
        attack.name,
        faults.join("\n- ")
    );
}

struct Stage {
    program: Program,
    target: Arc<Target>,
    admin: SocketAddr,
    resolve: Request,
    check: Request,
    bystander: Caller,
    findings: Vec<String>,
    newcomers: Vec<Newcomer>,
    // Held for its Drop.
    _scratch: tempfile::TempDir,
}

impl Stage {
    fn set(attack: &Attack, form: Form) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let token = "a-token-of-the-rig-that-is-long-enough-for-anybody".to_owned();
        let token_file = scratch.path().join("tokens");
        let mut file = std::fs::OpenOptions::new();
        let file = file.write(true).create_new(true).mode(0o600).open(&token_file);
        file.and_then(|mut file| file.write_all(token.as_bytes())).expect("the token is written");
        let token_file = format!("--set=listen.auth.token_file={}", token_file.display());
        // Two workers, so that what goes to four connections meets the bystander's.
        let mut settings = vec![token_file.as_str(), "--set=runtime.threads=2"];
        settings.extend(attack.settings);
        let program = Program::serve_in(scratch.path(), &settings);
        let address = |kind| program.address(kind).parse().expect("an IP address and a port");
        let (grpc, admin, metrics) = (address("grpc"), address("admin"), address("metrics"));

        let mut bystander = Caller::connect(grpc, caller::PATIENCE).expect("it listens");
        let mut create = |data: String| {
            let write = WriteRequest { set: data.into(), ..Default::default() };
            let answer = bystander.call(&Request::new(WRITE, Some(&token), &write));
            let answer = WriteResponse::decode(&*answer.expect("a session is created"));
            let answer = answer.expect("an answer to a Write");
            let pair = answer.set_cookie[0].split(';').next();
            pair.expect("a Set-Cookie value has a pair").to_owned()
        };
        let cookie = create(r#"{"user":"ann"}"#.to_owned());
        let large_cookie = create(format!(r#"{{"pad":"{}"}}"#, "x".repeat(LARGE_DATA_BYTES)));
        let resolve = ResolveRequest { credential: credential(&cookie), ..Default::default() };
        let resolve = Request::new(RESOLVE, Some(&token), &resolve);
        let check = Request::new(HEALTH_CHECK, None, &HealthCheckRequest::default());
        let target = Target {
            form,
            grpc,
            metrics,
            token,
            cookie,
            large_cookie,
            daemon: program.pid(),
            deeds: AtomicU64::new(0),
            occupied: AtomicUsize::new(0),
            going: AtomicBool::new(false),
        };
        Self {
            program,
            target: Arc::new(target),
            admin,
            resolve,
            check,
            bystander,
            findings: Vec::new(),
            newcomers: Vec::new(),
            _scratch: scratch,
        }
    }

    fn measure(mut self, attack: &Attack, plan: &Plan) -> Measured {
        // Whatever happens once happens now.
        self.watch(plan.window);
        self.doors();
        self.newcomers.clear();
        if let Some(errand) = attack.errand {
            let done = run(&self.target, errand, None);
            self.findings.extend(done.and_then(Result::err));
            self.target.going.store(false, Ordering::SeqCst);
        }

        let first = self.resident("VmRSS:");
        let peak_before = self.resident("VmHWM:");
        let (mut quiet, mut during) = (Vec::new(), Vec::new());
        let mut most = first;
        for _ in 0..plan.rounds {
            // What the last round has left to do is no noise of the bystander's own.
            self.wait_for_idleness();
            for _ in 0..plan.quiet_windows {
                quiet.extend(self.watch(plan.window));
            }
            let attack = Playing::start(&self.target, attack.play, first + CEILING_BYTES);
            attack.wait_until_going();
            for _ in 0..plan.attack_windows {
                during.extend(self.watch(plan.window));
            }
            self.doors();
            most = most.max(attack.end());
        }
        // The kernel has seen each moment, and the samples only some.
        let peak = self.resident("VmHWM:");
        if peak > peak_before {
            most = most.max(peak);
        }
        if self.target.deeds.load(Ordering::SeqCst) == 0 && most < first + CEILING_BYTES {
            self.findings.push("the attack did nothing: expected it to get through".to_owned());
        }

        let after = self.wait_for_memory(first);
        if let Err(problem) = self.newcomer() {
            self.findings.push(format!("somebody new after the attack: {problem}"));
        }
        self.watch(plan.window);
        // It reads only while it calls, so it would not see the GOAWAY of a stop.
        drop(self.bystander);
        let (code, log) = self.program.stop();
        if code != Some(0) {
            self.findings.push(format!("expected a clean stop after the attack, found {code:?}"));
        }
        Measured {
            quiet,
            during,
            newcomers: self.newcomers,
            memory: Memory { first, most, after },
            log_lines: log.lines().count(),
            findings: self.findings,
        }
    }

    /// Has the bystander call for some time. A failed call is a finding; the bystander
    /// connects anew then.
    fn watch(&mut self, time: Duration) -> Option<Window> {
        let mut times = Vec::new();
        let end = Instant::now() + time;
        while Instant::now() < end {
            let begun = Instant::now();
            let answered = self.bystander.call(&self.resolve).and_then(is_active);
            times.push(begun.elapsed());
            if let Err(problem) = answered {
                // When places are scarce, an idle connection makes room, and a client connects
                // anew. That is no fault.
                if !problem.contains(GRACEFUL) {
                    self.find(problem);
                }
                match Caller::connect(self.target.grpc, NEWCOMERS_PATIENCE) {
                    Ok(caller) => self.bystander = caller,
                    Err(problem) => self.find(problem),
                }
            }
            thread::sleep(PACE.saturating_sub(begun.elapsed()));
        }
        Window::of(times)
    }

    /// The first of its kind is enough.
    fn find(&mut self, problem: String) {
        if !self.findings.contains(&problem) {
            self.findings.push(problem);
        }
    }

    fn doors(&mut self) {
        type Way = fn(&Stage) -> Result<(), String>;
        let ways: [(Door, Way); 3] = [
            (Door::Sessions, Self::newcomer),
            (Door::Health, Self::probe),
            (Door::Metrics, Self::scrape),
        ];
        for (door, way) in ways {
            let begun = Instant::now();
            let took = way(self).ok().map(|()| begun.elapsed());
            self.newcomers.push(Newcomer { door, took });
        }
    }

    /// Tries again as the client packages do: if more wait for a place than may, the last one
    /// is closed.
    fn newcomer(&self) -> Result<(), String> {
        let end = Instant::now() + NEWCOMERS_PATIENCE;
        loop {
            let patience = end.saturating_duration_since(Instant::now());
            let resolved = Caller::connect(self.target.grpc, patience)
                .and_then(|mut caller| caller.call(&self.resolve))
                .and_then(is_active);
            if resolved.is_ok() || Instant::now() + NEWCOMERS_PAUSE > end {
                return resolved;
            }
            std::thread::sleep(NEWCOMERS_PAUSE);
        }
    }

    fn probe(&self) -> Result<(), String> {
        let mut caller = Caller::connect(self.admin, NEWCOMERS_PATIENCE)?;
        let answer = caller.call(&self.check)?;
        let answer = HealthCheckResponse::decode(&*answer).map_err(|error| error.to_string())?;
        match answer.status() {
            ServingStatus::Serving => Ok(()),
            other => Err(format!("expected SERVING, found {other:?}")),
        }
    }

    fn scrape(&self) -> Result<(), String> {
        // As Prometheus asks.
        const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nhost: rig\r\nconnection: close\r\n\
            accept: application/openmetrics-text\r\n\r\n";
        let scrape = || {
            let mut stream = TcpStream::connect_timeout(&self.target.metrics, NEWCOMERS_PATIENCE)?;
            stream.set_read_timeout(Some(NEWCOMERS_PATIENCE))?;
            stream.write_all(REQUEST)?;
            let mut page = String::new();
            stream.read_to_string(&mut page)?;
            std::io::Result::Ok(page)
        };
        let page = scrape().map_err(|error| error.to_string())?;
        if page.starts_with("HTTP/1.1 200") && page.ends_with("# EOF\n") {
            Ok(())
        } else {
            Err(format!("expected a page of metrics, found {:?}", page.lines().next()))
        }
    }

    fn resident(&self, line: &str) -> u64 {
        resident(self.target.daemon, line)
    }

    /// Waits until no thread of the daemon has work, for a bounded time. CPU time would not
    /// tell: on a busy machine a thread with work gets little of it.
    fn wait_for_idleness(&mut self) {
        let deadline = Instant::now() + IDLING;
        let mut idle = 0;
        while idle < 8 {
            if Instant::now() > deadline {
                let problem = format!("busy for more than {IDLING:?} after the peers had gone");
                return self.find(problem);
            }
            thread::sleep(Duration::from_millis(5));
            idle = if is_at_work(self.target.daemon) { 0 } else { idle + 1 };
        }
    }

    /// Waits until as much is given back as must be, for a bounded time.
    fn wait_for_memory(&self, first: u64) -> u64 {
        let limits = Limits::STRICT;
        let enough = first * limits.after_percent / 100 + limits.after_beyond_bytes;
        let deadline = Instant::now() + GIVING_BACK;
        loop {
            let now = self.resident("VmRSS:");
            if now <= enough || Instant::now() > deadline {
                return now;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn is_active(answer: Vec<u8>) -> Result<(), String> {
    let answer = ResolveResponse::decode(&*answer).map_err(|error| error.to_string())?;
    match answer.state() {
        SessionState::Active => Ok(()),
        other => Err(format!("expected the session to be ACTIVE, found {other:?}")),
    }
}

fn resident(daemon: Pid, line: &str) -> u64 {
    let path = format!("/proc/{}/status", daemon.as_raw_nonzero());
    let status = std::fs::read_to_string(path).expect("the daemon is there");
    let text = status.lines().find_map(|found| found.strip_prefix(line));
    let kib = text.and_then(|text| text.trim().strip_suffix(" kB"));
    let kib: u64 = kib.expect("a line in kB").parse().expect("a number");
    kib * 1024
}

/// Whether a thread runs or waits for a core.
fn is_at_work(daemon: Pid) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.as_raw_nonzero()));
    tasks.expect("the daemon is there").flatten().any(|task| {
        // A thread may have ended meanwhile.
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // The name is in brackets, and the state comes after it.
        stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('R'))
    })
}

/// Runs what peers do, on this thread, to its end or until it is stopped.
fn run<T>(target: &Arc<Target>, play: Play<T>, stop: Option<CancellationToken>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let stop = stop.unwrap_or_default();
        tokio::select! {
            () = stop.cancelled() => None,
            done = play(Arc::clone(target)) => Some(done),
        }
    })
}

/// An attack under way. It has a thread of its own, and another one that looks after it.
struct Playing {
    target: Arc<Target>,
    stop: CancellationToken,
    attack: thread::JoinHandle<()>,
    guard: thread::JoinHandle<u64>,
}

impl Playing {
    fn start(target: &Arc<Target>, play: Play<()>, ceiling: u64) -> Self {
        target.going.store(false, Ordering::SeqCst);
        target.occupied.store(0, Ordering::SeqCst);
        let stop = CancellationToken::new();
        let attack = thread::spawn({
            let (target, stop) = (Arc::clone(target), stop.clone());
            move || {
                // An attacker has a machine of its own: its work is not the daemon's. On
                // Linux this is the thread's.
                let _ = setpriority_process(None, 19);
                run(&target, play, Some(stop));
            }
        });
        let guard = thread::spawn({
            let (daemon, stop) = (target.daemon, stop.clone());
            move || {
                let mut most = 0;
                while !stop.is_cancelled() {
                    most = most.max(resident(daemon, "VmRSS:"));
                    if most > ceiling {
                        stop.cancel();
                    }
                    thread::sleep(Duration::from_millis(10));
                }
                most
            }
        });
        Self { target: Arc::clone(target), stop, attack, guard }
    }

    fn wait_until_going(&self) {
        let deadline = Instant::now() + SETTING_OUT;
        while !self.target.going.load(Ordering::SeqCst)
            && !self.stop.is_cancelled()
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it, and returns the most that was resident.
    fn end(self) -> u64 {
        self.stop.cancel();
        self.attack.join().expect("the attack ends without a panic");
        self.guard.join().expect("the guard ends without a panic")
    }
}
