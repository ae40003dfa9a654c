//! A daemon in this process, with a clock that the test moves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use sessiond::{
    grpc::pb::{
        CleanupRequest, DestroyRequest, DestroyResponse, DestroyScope, ListSessionsRequest,
        ResolveRequest, ResolveResponse, RevokeSessionsRequest, SessionState, TouchRequest,
        TouchResponse, WriteRequest, WriteResponse,
        session_admin_service_client::SessionAdminServiceClient,
        session_service_client::SessionServiceClient,
    },
    server::{
        Server, Surroundings,
        clock::{Machine, SystemClock},
        config::{AddrOrOff, Backend, Config, ListenAddr, SecretText, Span},
        passed::PassedSockets,
        system::SystemEntropy,
    },
    session::{
        clock::{Clock, Moment, TimeMark, WallOffset, WallTime},
        store::StoreError,
    },
};
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use super::{browser::Browser, redis::RedisServer};

pub(crate) const SECRET: &str = "a-signing-secret-for-tests-long-enough";
pub(crate) const START: Moment = Moment::from_unix_millis(1_800_000_000_000);

/// A machine whose time stands still until it is told otherwise.
pub(crate) struct TestMachine {
    /// Milliseconds since [`START`]. One number for both clocks, so that they move together.
    elapsed: AtomicU64,
    /// How far the wall clock is ahead of what is right, in milliseconds.
    ahead: AtomicI64,
    /// The elapsed time at the last boot, which also names it.
    booted: AtomicU64,
    is_synchronized: AtomicBool,
}

impl TestMachine {
    /// Sets the wall clock to so many milliseconds ahead of what is right.
    pub(crate) fn set_wall_ahead(&self, millis: i64) {
        self.ahead.store(millis, Ordering::SeqCst);
    }

    /// The machine is off for so long, and is then booted.
    pub(crate) fn reboot(&self, off: Duration) {
        let elapsed = self.elapsed.fetch_add(off.as_millis() as u64, Ordering::SeqCst);
        self.booted.store(elapsed + off.as_millis() as u64, Ordering::SeqCst);
        self.is_synchronized.store(false, Ordering::SeqCst);
    }

    /// Its wall clock is right, and known to be.
    pub(crate) fn synchronize(&self) {
        self.set_wall_ahead(0);
        self.is_synchronized.store(true, Ordering::SeqCst);
    }
}

struct SharedMachine(Arc<TestMachine>);

impl Machine for SharedMachine {
    fn wall(&self) -> WallTime {
        let right = START.unix_millis() + self.0.elapsed.load(Ordering::SeqCst);
        WallTime::from_unix_millis(right.saturating_add_signed(self.0.ahead.load(Ordering::SeqCst)))
    }

    fn since_boot(&self) -> Duration {
        let booted = self.0.booted.load(Ordering::SeqCst);
        Duration::from_millis(self.0.elapsed.load(Ordering::SeqCst) - booted)
    }

    fn boot(&self) -> Option<[u8; 16]> {
        Some(u128::from(self.0.booted.load(Ordering::SeqCst)).to_be_bytes())
    }

    fn is_synchronized(&self) -> bool {
        self.0.is_synchronized.load(Ordering::SeqCst)
    }
}

/// The clock of a process on such a machine.
pub(crate) struct TestClock {
    pub machine: Arc<TestMachine>,
    clock: SystemClock<SharedMachine>,
}

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        Self::on(Arc::new(TestMachine {
            elapsed: AtomicU64::new(0),
            ahead: AtomicI64::new(0),
            booted: AtomicU64::new(0),
            is_synchronized: AtomicBool::new(false),
        }))
    }

    /// The clock of another process on this machine.
    pub(crate) fn on(machine: Arc<TestMachine>) -> Arc<Self> {
        let clock = SystemClock::over(SharedMachine(Arc::clone(&machine)));
        Arc::new(Self { machine, clock })
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.machine.elapsed.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Moment {
        self.clock.now()
    }

    fn wall_offset(&self) -> WallOffset {
        self.clock.wall_offset()
    }

    /// The test's time is the time.
    fn follow(&self, _: Moment, _: Moment) {}

    fn resume(&self, mark: TimeMark) {
        self.clock.resume(mark);
    }

    fn mark(&self) -> TimeMark {
        self.clock.mark()
    }

    fn follow_wall(&self) -> bool {
        self.clock.follow_wall()
    }
}

/// A running daemon. `stop` stops it cleanly; dropping it does not wait.
pub(crate) struct Daemon {
    pub clock: Arc<TestClock>,
    pub client: SessionServiceClient<Channel>,
    pub admin: SessionAdminServiceClient<Channel>,
    pub config: Config,
    pub grpc: String,
    admin_address: String,
    pub metrics: Option<ListenAddr>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), StoreError>>,
    // Kept for its Drop. A daemon that is started again shares it.
    scratch: Arc<Scratch>,
}

/// The storage of a daemon.
struct Scratch {
    directory: tempfile::TempDir,
    redis: Option<RedisServer>,
}

impl Daemon {
    pub(crate) async fn start(backend: Backend) -> Self {
        Self::with(backend, |_| {}).await
    }

    /// A daemon whose configuration is `--dev`'s, on port 0, with changes.
    pub(crate) async fn with(backend: Backend, change: impl FnOnce(&mut Config)) -> Self {
        Self::at(backend, TestClock::new(), change).await
    }

    /// The same, with this clock.
    pub(crate) async fn at(
        backend: Backend,
        clock: Arc<TestClock>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let backend = in_force(backend);
        let scratch = Arc::new(Scratch {
            directory: tempfile::tempdir().expect("a scratch folder"),
            redis: (backend == Backend::Redis).then(RedisServer::start),
        });
        let mut config = Config::dev();
        config.store.backend = backend;
        config.store.sled.path = scratch.directory.path().join("data");
        if let Some(redis) = &scratch.redis {
            config.store.redis.url = redis.url().parse().expect("a URL");
            // Long enough for a busy machine.
            config.store.redis.timeout = Span::secs(30);
            config.store.redis.connect_timeout = Span::secs(10);
        }
        config.listen.grpc = vec!["127.0.0.1:0".parse().expect("an address")];
        config.listen.admin = config.listen.grpc.clone();
        config.listen.metrics = AddrOrOff(None);
        change(&mut config);
        for engine in config.engine.values_mut() {
            if engine.cookie.secrets.is_empty() {
                engine.cookie.secrets = vec![SecretText(SECRET.to_owned())];
            }
        }
        Self::run(config, clock, scratch).await
    }

    async fn run(config: Config, clock: Arc<TestClock>, scratch: Arc<Scratch>) -> Self {
        let surroundings = Surroundings {
            clock: Arc::clone(&clock) as _,
            entropy: Arc::new(SystemEntropy),
            sockets: PassedSockets::default(),
        };
        let server = Server::build(config.clone(), surroundings).await.expect("the daemon starts");
        let addresses = server.addresses();
        let uri = |address: &ListenAddr| match address {
            ListenAddr::Tcp(tcp) => format!("http://{tcp}"),
            unix => unix.to_string(),
        };
        let grpc = uri(&addresses.grpc[0]);
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        let channel =
            |uri: &str| Channel::from_shared(uri.to_owned()).expect("an address").connect_lazy();
        Self {
            clock,
            client: SessionServiceClient::new(channel(&grpc)),
            admin: SessionAdminServiceClient::new(channel(&uri(&addresses.admin[0]))),
            config,
            grpc,
            admin_address: addresses.admin[0].to_string(),
            metrics: addresses.metrics,
            stop: Some(stop),
            running,
            scratch,
        }
    }

    /// Stops it cleanly and waits until it has ended.
    pub(crate) async fn stop(mut self) -> Stopped {
        drop(self.stop.take());
        let stopped = self.running.await.expect("the daemon stops without a panic");
        stopped.expect("the store is synced");
        Stopped {
            config: self.config,
            machine: Arc::clone(&self.clock.machine),
            scratch: self.scratch,
        }
    }

    /// The Redis server that keeps its sessions.
    pub(crate) fn redis(&self) -> Option<&RedisServer> {
        self.scratch.redis.as_ref()
    }

    /// The address of the admin service.
    pub(crate) fn admin_address(&self) -> &str {
        &self.admin_address
    }

    /// Begins a clean stop without waiting.
    pub(crate) fn ask_to_stop(&mut self) {
        drop(self.stop.take());
    }

    pub(crate) async fn resolve(&self, browser: &Browser) -> ResolveResponse {
        self.resolve_with(ResolveRequest { credential: browser.credential(), ..Default::default() })
            .await
    }

    pub(crate) async fn resolve_with(&self, request: ResolveRequest) -> ResolveResponse {
        let answer = self.client.clone().resolve(request).await;
        answer.expect("a Resolve is answered").into_inner()
    }

    pub(crate) async fn state(&self, browser: &Browser) -> SessionState {
        self.resolve(browser).await.state()
    }

    pub(crate) async fn touch(&self, browser: &Browser) -> TouchResponse {
        let request = TouchRequest { credential: browser.credential(), ..Default::default() };
        self.client.clone().touch(request).await.expect("a Touch is answered").into_inner()
    }

    pub(crate) async fn try_write(&self, request: WriteRequest) -> Result<WriteResponse, Status> {
        self.client.clone().write(request).await.map(|answer| answer.into_inner())
    }

    pub(crate) async fn write(&self, request: WriteRequest) -> WriteResponse {
        self.try_write(request).await.expect("a Write is taken")
    }

    /// Changes the session of a browser, which stores the new cookie.
    pub(crate) async fn change(
        &self,
        browser: &mut Browser,
        request: WriteRequest,
    ) -> WriteResponse {
        let credential = browser.credential();
        let answer = self.write(WriteRequest { credential, ..request }).await;
        browser.learn(&answer.set_cookie);
        answer
    }

    /// A browser with a new session that holds `data`.
    pub(crate) async fn visitor(&self, data: &str) -> Browser {
        let answer = self.write(set(data)).await;
        Browser::with(&answer.set_cookie)
    }

    pub(crate) async fn try_destroy(&self, browser: &Browser) -> Result<DestroyResponse, Status> {
        let request = DestroyRequest { credential: browser.credential(), ..Default::default() };
        self.client.clone().destroy(request).await.map(|answer| answer.into_inner())
    }

    pub(crate) async fn destroy(&self, browser: &Browser) -> DestroyResponse {
        self.try_destroy(browser).await.expect("a Destroy is answered")
    }

    /// A browser with a session of its own that logs in as `principal`.
    pub(crate) async fn login(&self, principal: &str) -> Browser {
        let answer = self.write(login(principal)).await;
        Browser::with(&answer.set_cookie)
    }

    pub(crate) async fn try_destroy_scope(
        &self,
        browser: &Browser,
        scope: DestroyScope,
    ) -> Result<DestroyResponse, Status> {
        let (credential, scope) = (browser.credential(), scope.into());
        let request = DestroyRequest { credential, scope, ..Default::default() };
        self.client.clone().destroy(request).await.map(|answer| answer.into_inner())
    }

    pub(crate) async fn destroy_scope(
        &self,
        browser: &Browser,
        scope: DestroyScope,
    ) -> DestroyResponse {
        self.try_destroy_scope(browser, scope).await.expect("a Destroy is answered")
    }

    /// The ids of a principal's live sessions, from all pages.
    pub(crate) async fn list(&self, principal: &str) -> Vec<String> {
        let (mut ids, mut page_token) = (Vec::new(), String::new());
        loop {
            let principal = principal.to_owned();
            let request = ListSessionsRequest { principal, page_token, ..Default::default() };
            let page = self.admin.clone().list_sessions(request).await;
            let page = page.expect("a list is answered").into_inner();
            ids.extend(page.sessions.into_iter().map(|session| session.id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return ids;
            }
        }
    }

    pub(crate) async fn revoke(&self, principal: &str, session_ids: &[String]) -> u32 {
        let request = RevokeSessionsRequest {
            principal: principal.to_owned(),
            session_ids: session_ids.to_vec(),
            ..Default::default()
        };
        let answer = self.admin.clone().revoke_sessions(request).await;
        answer.expect("a revocation is answered").into_inner().revoked
    }

    /// The public id of a browser's session.
    pub(crate) async fn id(&self, browser: &Browser) -> String {
        let credential = browser.credential();
        let peek = ResolveRequest { credential, peek: true, ..Default::default() };
        self.resolve_with(peek).await.session.expect("a live session").id
    }

    pub(crate) async fn cleanup(&self) -> u64 {
        let answer = self.admin.clone().cleanup(CleanupRequest::default()).await;
        answer.expect("a Cleanup is answered").into_inner().removed
    }
}

/// The backend for a test: the one it asks for, or that of SESSIOND_TEST_BACKEND for the whole
/// suite.
pub(crate) fn in_force(asked: Backend) -> Backend {
    match std::env::var("SESSIOND_TEST_BACKEND").as_deref() {
        Err(_) | Ok("") => asked,
        Ok("redis") => Backend::Redis,
        Ok(other) => panic!("SESSIOND_TEST_BACKEND is {other:?}, expected redis or nothing"),
    }
}

/// What a cleanup returns when this many sessions have expired. Redis removes them itself, by
/// its own clock.
pub(crate) fn swept(backend: Backend, count: u64) -> u64 {
    if in_force(backend) == Backend::Redis { 0 } else { count }
}

/// A stopped daemon that can be started again on the same store.
pub(crate) struct Stopped {
    pub config: Config,
    pub machine: Arc<TestMachine>,
    scratch: Arc<Scratch>,
}

impl Stopped {
    /// The wall clock is set back to where it began.
    pub(crate) fn set_clock_back(&mut self) {
        let elapsed = self.machine.elapsed.load(Ordering::SeqCst);
        self.machine.set_wall_ahead(-(elapsed as i64));
    }

    pub(crate) async fn start(self) -> Daemon {
        Daemon::run(self.config, TestClock::on(self.machine), self.scratch).await
    }
}

/// A Write that gives the session to a principal.
pub(crate) fn login(principal: &str) -> WriteRequest {
    WriteRequest { principal: Some(principal.to_owned().into()), ..Default::default() }
}

/// A Write that sets `data`.
pub(crate) fn set(data: &str) -> WriteRequest {
    WriteRequest { set: data.to_owned().into(), ..Default::default() }
}

/// The data of the session as text.
pub(crate) fn data(answer: &ResolveResponse) -> String {
    let session = answer.session.as_ref().expect("a live session");
    String::from_utf8(session.data.to_vec()).expect("data is text")
}

pub(crate) fn millis(timestamp: Option<&prost_types::Timestamp>) -> u64 {
    let timestamp = timestamp.expect("a timestamp");
    timestamp.seconds as u64 * 1000 + timestamp.nanos as u64 / 1_000_000
}

/// Checks the code of an error, its reason, and the field that it names.
#[track_caller]
pub(crate) fn assert_fault(status: &Status, code: Code, reason: &str, field: Option<&str>) {
    assert_eq!(status.code(), code, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().expect("every error carries ErrorInfo");
    assert_eq!((info.domain.as_str(), info.reason.as_str()), ("sessiond", reason), "{status:?}");
    assert_ne!(applied(status), None, "expected {status:?} to say whether it was applied");
    let violations = details.bad_request().map(|bad| bad.field_violations.as_slice());
    let found = violations.and_then(|all| all.first()).map(|first| first.field.as_str());
    assert_eq!(found, field, "the field that {status:?} names");
}

/// What an error says of whether the operation may have changed something: "no" or "unknown".
pub(crate) fn applied(status: &Status) -> Option<String> {
    let details = status.get_error_details();
    let said = details.error_info()?.metadata.get("applied")?.clone();
    ["no", "unknown"].contains(&said.as_str()).then_some(said)
}
