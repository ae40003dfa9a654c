//! A fake of the daemon in memory, for the tests of an application: the same answers, without a
//! daemon. One suite of behaviours runs against both.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> sessiond_client::Result<()> {
//! use sessiond_client::{Data, Reason, RequestSession, testing::Fake};
//!
//! let fake = Fake::new();
//! // What the browser of somebody who is logged in sends.
//! let header = fake.cookie("ann", Data::new());
//! let session = RequestSession::open(&fake.client(), header.clone()).await?;
//! assert_eq!(session.principal().as_deref(), Some("ann"));
//!
//! fake.fail(Reason::StoreUnavailable);
//! assert!(RequestSession::open(&fake.client(), header).await.is_err());
//! # Ok(()) }
//! ```

mod cookie;
mod engine;
mod refusal;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use self::{engine::Store, refusal::Refusal};
use crate::{
    client::Client,
    data::Data,
    error::{Applied, Error, Reason, Result},
    pb::{self, pipeline_request::Operation as Request, pipeline_response::Result as Response},
    status,
    types::{Description, SessionInfo},
    wire,
};

/// An engine of a [`Fake`]. The default is the daemon's, but for the name of the cookie.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The name of its cookie. Default: `session`.
    pub cookie_name: String,
    /// Whether the cookie has the `s:` of express-session before the token. Default: no.
    pub express_format: bool,
    /// Whether its cookies outlive the browser, unless a write says otherwise. Default: yes.
    pub persistent: bool,
    /// Idle timeout. Default: 30 minutes.
    pub duration: Duration,
    /// The longest life of a session. Default: no limit.
    pub absolute_duration: Option<Duration>,
    /// By how much a deadline must move before it is stored. Default: a 64th of the duration,
    /// at most a minute.
    pub touch_granularity: Option<Duration>,
    /// Whether a resolve moves the deadline. Default: yes.
    pub automatic_touch: bool,
    /// Length of a session's data as JSON text. Default: 64 KiB.
    pub max_data_bytes: usize,
    /// How long an id from before a roll can still end its session. Default: a minute.
    pub roll_grace: Duration,
    /// How many live sessions a principal may have. Default: any number.
    pub max_sessions_per_principal: Option<usize>,
    /// Whether a principal's idlest session ends above that. Otherwise the login is refused,
    /// which is the default.
    pub end_idlest: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            cookie_name: "session".to_owned(),
            express_format: false,
            persistent: true,
            duration: Duration::from_secs(30 * 60),
            absolute_duration: None,
            touch_granularity: None,
            automatic_touch: true,
            max_data_bytes: 64 << 10,
            roll_grace: Duration::from_secs(60),
            max_sessions_per_principal: None,
            end_idlest: false,
        }
    }
}

impl EngineOptions {
    fn prefix(&self) -> &'static str {
        if self.express_format { "s:" } else { "" }
    }

    fn granularity(&self, duration: Duration) -> Duration {
        match self.touch_granularity {
            Some(granularity) => granularity.min(duration),
            None => (duration / 64).min(Duration::from_secs(60)),
        }
    }

    fn describe(&self, name: &str) -> pb::Engine {
        let format =
            if self.express_format { pb::CookieFormat::Express } else { pb::CookieFormat::Plain };
        pb::Engine {
            name: name.to_owned(),
            cookie_name: self.cookie_name.clone(),
            cookie_format: format.into(),
            persistent: self.persistent,
            duration: Some(wire::on_wire(self.duration)),
            absolute_duration: self.absolute_duration.map(wire::on_wire),
            touch_granularity: Some(wire::on_wire(self.granularity(self.duration))),
            automatic_touch: self.automatic_touch,
            max_data_bytes: self.max_data_bytes.try_into().unwrap_or(u32::MAX),
        }
    }
}

/// A fake of the daemon: see [`testing`](crate::testing). A clone is the same fake.
#[derive(Clone)]
pub struct Fake {
    backend: Arc<Backend>,
    client: Client,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

impl Fake {
    /// A fake with an engine `default`.
    pub fn new() -> Self {
        Self::with_engines([("default", EngineOptions::default())])
    }

    /// A fake with these engines.
    pub fn with_engines<'a>(engines: impl IntoIterator<Item = (&'a str, EngineOptions)>) -> Self {
        let store = |(name, options): (&str, _)| (name.to_owned(), Store::new(options));
        let backend = Arc::new(Backend {
            state: Mutex::new(State {
                engines: engines.into_iter().map(store).collect(),
                ahead: Duration::ZERO,
                failure: None,
                closed: false,
            }),
        });
        Self { client: Client::of_fake(Arc::clone(&backend)), backend }
    }

    /// A client of the fake, for whatever takes a client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The time of the fake.
    pub fn now(&self) -> SystemTime {
        self.backend.state().now()
    }

    /// Moves the clock forward: sessions expire, grace periods end.
    pub fn advance(&self, duration: Duration) {
        self.backend.state().ahead += duration;
    }

    /// Lets all operations fail with a reason of the daemon from now on, until
    /// [`recover`](Self::recover). Nothing is changed by them.
    ///
    /// # Panics
    ///
    /// If the reason is none of the daemon's, nor `CONNECTION_FAILED`.
    pub fn fail(&self, reason: Reason) {
        self.plan(reason, None, None);
    }

    /// Lets the next `times` operations of this name fail: `"Resolve"`, `"Touch"`, `"Write"`,
    /// `"Destroy"` or `"ListSessions"`.
    ///
    /// # Panics
    ///
    /// As [`fail`](Self::fail).
    pub fn fail_next(&self, reason: Reason, operation: &str, times: u32) {
        self.plan(reason, Some(operation.to_owned()), Some(times));
    }

    fn plan(&self, reason: Reason, operation: Option<String>, times: Option<u32>) {
        assert!(Refusal::new(reason).is_known(), "{reason} is no reason of the daemon");
        self.backend.state().failure = Some(Failure { reason, operation, times });
    }

    /// Lets operations succeed again.
    pub fn recover(&self) {
        self.backend.state().failure = None;
    }

    /// Makes a session of the engine `default`, and returns the Cookie header that a browser
    /// sends for it. An empty principal is nobody.
    ///
    /// # Panics
    ///
    /// If the daemon would refuse it.
    pub fn cookie(&self, principal: &str, data: Data) -> String {
        self.engine_cookie("default", principal, data)
    }

    /// [`cookie`](Self::cookie) for another engine.
    ///
    /// # Panics
    ///
    /// If the daemon would refuse it, or if there is no such engine.
    pub fn engine_cookie(&self, engine: &str, principal: &str, data: Data) -> String {
        let request = pb::WriteRequest {
            set: data.to_json(),
            principal: Some(principal.to_owned()),
            ..Default::default()
        };
        let mut state = self.backend.state();
        let now = state.now();
        let store = state.engines.get_mut(engine);
        let store = store.unwrap_or_else(|| panic!("the fake has no engine {engine:?}"));
        match store.write(&request, now) {
            Ok(written) => {
                let EngineOptions { cookie_name, .. } = &store.options;
                format!("{cookie_name}={}{}", store.options.prefix(), written.token)
            }
            Err(refusal) => panic!("the daemon refuses such a session: {}", refusal.reason),
        }
    }

    /// The live sessions of an engine, with their data, ordered by id.
    ///
    /// # Panics
    ///
    /// If there is no such engine.
    pub fn sessions(&self, engine: &str) -> Vec<SessionInfo> {
        let state = self.backend.state();
        let now = state.now();
        let store = state.engines.get(engine);
        let store = store.unwrap_or_else(|| panic!("the fake has no engine {engine:?}"));
        let sessions = store.sessions(now).into_iter();
        sessions.map(|session| wire::session(session).expect("valid data")).collect()
    }
}

/// What the client asks.
pub(crate) struct Backend {
    state: Mutex<State>,
}

struct State {
    engines: BTreeMap<String, Store>,
    ahead: Duration,
    failure: Option<Failure>,
    closed: bool,
}

struct Failure {
    reason: Reason,
    /// `None`: all.
    operation: Option<String>,
    /// `None`: until it is taken back.
    times: Option<u32>,
}

impl State {
    fn now(&self) -> SystemTime {
        // The daemon is told the time as well: its rules have no clock of their own.
        #[expect(clippy::disallowed_methods, reason = "a fake has no other clock")]
        let now = SystemTime::now();
        now + self.ahead
    }

    /// The store of an engine, unless a failure is planned.
    fn store(&mut self, operation: &str, engine: &str) -> Result<&mut Store, Refusal> {
        if let Some(failure) = &mut self.failure
            && failure.operation.as_deref().is_none_or(|planned| planned == operation)
            && failure.times != Some(0)
        {
            failure.times = failure.times.map(|times| times - 1);
            return Err(Refusal::new(failure.reason));
        }
        let engine = if engine.is_empty() { "default" } else { engine };
        self.engines.get_mut(engine).ok_or(Refusal::new(Reason::UnknownEngine).of("engine"))
    }
}

impl Backend {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.closed { Err(Error::closed(Applied::No)) } else { Ok(state) }
    }

    /// Runs an operation. One at a time, so they are as linearizable as the daemon's.
    pub(crate) fn call(&self, request: Request) -> Result<Response> {
        let mut state = self.open()?;
        let now = state.now();
        let answer = match request {
            Request::Resolve(request) => state
                .store("Resolve", &request.engine)
                .and_then(|store| store.resolve(&request, now))
                .map(Response::Resolve),
            Request::Touch(request) => state
                .store("Touch", &request.engine)
                .map(|store| Response::Touch(store.touch(&request, now))),
            Request::Write(request) => state
                .store("Write", &request.engine)
                .and_then(|store| store.write(&request, now))
                .map(Response::Write),
            Request::Destroy(request) => state
                .store("Destroy", &request.engine)
                .and_then(|store| store.destroy(&request, now))
                .map(Response::Destroy),
        };
        Ok(answer.unwrap_or_else(|refusal| Response::Error(refusal.status())))
    }

    pub(crate) fn list(
        &self,
        request: &pb::SessionServiceListSessionsRequest,
    ) -> Result<pb::SessionServiceListSessionsResponse> {
        let mut state = self.open()?;
        let now = state.now();
        match state.store("ListSessions", &request.engine) {
            Ok(store) => Ok(store.list(request, now)),
            Err(refusal) => Err(status::answered(&refusal.status(), false)),
        }
    }

    pub(crate) fn describe(&self) -> Result<Arc<Description>> {
        let state = self.open()?;
        let engine = |(name, store): (&String, &Store)| store.options.describe(name);
        let description = pb::DescribeResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            limits: Some(pb::Limits {
                max_message_bytes: 1 << 20,
                pipeline_in_flight: 256,
                max_cookie_header_bytes: cookie::MAX_HEADER_BYTES as u32,
                max_principal_bytes: 256,
                max_label_bytes: 256,
                max_keys: engine::MAX_KEYS as u32,
                max_unset: 1000,
                max_session_ids: 1000,
                max_duration: Some(wire::on_wire(Duration::from_secs(400 * 24 * 60 * 60))),
            }),
            engines: state.engines.iter().map(engine).collect(),
        };
        Ok(Arc::new(wire::description(description)))
    }

    pub(crate) fn close(&self) {
        self.state().closed = true;
    }
}
