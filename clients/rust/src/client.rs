//! The client: one connection to a daemon, and the operations over it.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    data::Data,
    error::{Error, Result},
    pb::{self, pipeline_request::Operation as Request, pipeline_response::Result as Response},
    status,
    transport::{self, Answer, Settings, Shared, Tls, TokenSource},
    types::{
        Credential, Description, DestroyOptions, Destroyed, Engine, ListOptions, Listed, Operation,
        ResolveOptions, Resolved, State, TouchOptions, Touched, WriteOptions, Written,
    },
    wire,
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_MAX_IN_FLIGHT: usize = 10_000;
const PAGE_SIZE: i32 = 1000;

type Observer = dyn Fn(&Operation<'_>) + Send + Sync;

/// A connection to the daemon.
///
/// It connects at the first operation, and connects again by itself. While the daemon restarts,
/// operations wait until their time is over. Make one for each process, and clone it: clones
/// share the connection. Its methods need a Tokio runtime with timers.
///
/// No method takes longer than the client's timeout. To give one less time, put
/// `tokio::time::timeout` around it. A change that is dropped while it is under way may have
/// taken effect, or not.
///
/// Operations on one session that run in parallel take effect in some order. If you need an
/// order, await one before the next.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    backend: Backend,
    engine: String,
    timeout: Duration,
    observer: Option<Box<Observer>>,
}

/// What answers the operations.
enum Backend {
    Daemon(Arc<Shared>),
    #[cfg(feature = "testing")]
    Fake(Arc<crate::testing::Backend>),
}

impl Drop for Inner {
    fn drop(&mut self) {
        match &self.backend {
            Backend::Daemon(shared) => shared.end(),
            #[cfg(feature = "testing")]
            Backend::Fake(_) => {}
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.address()).finish_non_exhaustive()
    }
}

/// Sets a [`Client`] up: see [`Client::builder`].
#[must_use]
pub struct ClientBuilder {
    address: String,
    token: Option<String>,
    token_file: Option<PathBuf>,
    tls: Option<Tls>,
    timeout: Duration,
    max_in_flight: usize,
    engine: String,
    observer: Option<Box<Observer>>,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("address", &self.address).finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// The bearer token, if the daemon asks for one.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// A file with the bearer token: its first line that is neither empty nor begins with `#`.
    /// It is read at each connection, and again when the token is refused.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// Encrypts the connection.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How long an operation may take, with everything that is repeated. Default: 5 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many operations may be under way. One more fails with [`Error::Overloaded`] at
    /// once. Default: 10,000.
    pub fn max_in_flight(mut self, limit: usize) -> Self {
        self.max_in_flight = limit;
        self
    }

    /// The engine for operations that name none. Default: the daemon's engine `default`.
    pub fn engine(mut self, name: impl Into<String>) -> Self {
        self.engine = name.into();
        self
    }

    /// Calls a function after each operation, for metrics and traces. It must not block.
    pub fn observe(mut self, observer: impl Fn(&Operation<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// The client. It does not connect yet.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the address or an option is not allowed.
    pub fn build(self) -> Result<Client> {
        if self.timeout.is_zero() {
            return Err(Error::invalid("timeout", "expected more than zero"));
        }
        if self.max_in_flight == 0 {
            return Err(Error::invalid("max_in_flight", "expected more than zero"));
        }
        let token = match (self.token, self.token_file) {
            (None, None) => TokenSource::None,
            (Some(token), None) => TokenSource::fixed(&token)?,
            (None, Some(path)) => TokenSource::file(path),
            (Some(_), Some(_)) => {
                return Err(Error::invalid("token_file", "a token is set as well"));
            }
        };
        let endpoint = transport::endpoint(&self.address, self.tls.as_ref())?;
        let shared = Shared::new(Settings {
            address: self.address,
            timeout: self.timeout,
            max_in_flight: self.max_in_flight,
            token,
            endpoint,
        });
        Ok(Client(Arc::new(Inner {
            backend: Backend::Daemon(shared),
            engine: self.engine,
            timeout: self.timeout,
            observer: self.observer,
        })))
    }
}

impl Client {
    /// A client for the daemon at an address: `host:port` or `unix:/path`. It does not connect
    /// yet.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if it is none of these.
    pub fn new(address: impl Into<String>) -> Result<Self> {
        Self::builder(address).build()
    }

    /// A client with options.
    ///
    /// ```
    /// # fn main() -> sessiond_client::Result<()> {
    /// use std::time::Duration;
    ///
    /// let client = sessiond_client::Client::builder("unix:/run/sessiond/sessiond.sock")
    ///     .timeout(Duration::from_secs(3))
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn builder(address: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            address: address.into(),
            token: None,
            token_file: None,
            tls: None,
            timeout: DEFAULT_TIMEOUT,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            engine: String::new(),
            observer: None,
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn of_fake(fake: Arc<crate::testing::Backend>) -> Self {
        Self(Arc::new(Inner {
            backend: Backend::Fake(fake),
            engine: String::new(),
            timeout: DEFAULT_TIMEOUT,
            observer: None,
        }))
    }

    /// Where the daemon is.
    pub fn address(&self) -> &str {
        match &self.0.backend {
            Backend::Daemon(shared) => shared.address(),
            #[cfg(feature = "testing")]
            Backend::Fake(_) => "fake",
        }
    }

    /// Finds the session of a request.
    ///
    /// A credential that leads to no session is no error: see [`Resolved::state`].
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] and others: see [`Error`]. An error never means that there is no
    /// session.
    pub async fn resolve(&self, credential: &Credential) -> Result<Resolved> {
        self.resolve_with(credential, ResolveOptions::default()).await
    }

    /// [`Client::resolve`] with options.
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`].
    pub async fn resolve_with(
        &self,
        credential: &Credential,
        options: ResolveOptions,
    ) -> Result<Resolved> {
        let (engine, started) = (self.engine(options.engine), Instant::now());
        let request = Request::Resolve(pb::ResolveRequest {
            engine: engine.clone(),
            credential: wire::credential(credential),
            peek: options.peek,
            create: options.create,
        });
        let found = async {
            let Response::Resolve(found) = self.call(request, !options.create).await? else {
                return Err(self.wrong_answer("Resolve"));
            };
            Ok(Resolved {
                state: wire::state(found.state, found.session.is_some(), self.address())?,
                session: found.session.map(wire::session).transpose()?,
                set_cookie: found.set_cookie,
                token: wire::token(found.token),
            })
        };
        let found = found.await;
        self.observe("Resolve", &engine, started, found.as_ref().map(|found| Some(found.state)));
        found
    }

    /// Moves the session's deadline.
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`].
    pub async fn touch(&self, credential: &Credential) -> Result<Touched> {
        self.touch_with(credential, TouchOptions::default()).await
    }

    /// [`Client::touch`] with options.
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`], and [`Error::InvalidArgument`].
    pub async fn touch_with(
        &self,
        credential: &Credential,
        options: TouchOptions,
    ) -> Result<Touched> {
        let (engine, started) = (self.engine(options.engine), Instant::now());
        let touched = async {
            let request = Request::Touch(pb::TouchRequest {
                engine: engine.clone(),
                credential: wire::credential(credential),
                duration: wire::duration(options.duration)?,
            });
            let Response::Touch(touched) = self.call(request, true).await? else {
                return Err(self.wrong_answer("Touch"));
            };
            Ok(Touched {
                state: wire::state(touched.state, touched.session.is_some(), self.address())?,
                session: touched.session.map(wire::session).transpose()?,
                set_cookie: touched.set_cookie,
            })
        };
        let touched = touched.await;
        let state = touched.as_ref().map(|touched| Some(touched.state));
        self.observe("Touch", &engine, started, state);
        touched
    }

    /// Changes the session of the credential. [`Credential::NONE`] creates one; any other never
    /// does.
    ///
    /// # Errors
    ///
    /// [`Error::SessionGone`] if the credential is not live, [`Error::VersionMismatch`] if
    /// `if_version` is stale, [`Error::DataTooLarge`], [`Error::TooManySessions`],
    /// [`Error::InvalidArgument`], and others: see [`Error`].
    pub async fn write(&self, credential: &Credential, options: WriteOptions) -> Result<Written> {
        let (engine, started) = (self.engine(options.engine.clone()), Instant::now());
        let written = async {
            let is_safe = options.if_version.is_some();
            let request = wire::write(engine.clone(), credential, options)?;
            let Response::Write(written) = self.call(Request::Write(request), is_safe).await?
            else {
                return Err(self.wrong_answer("Write"));
            };
            let session = written.session.ok_or_else(|| self.wrong_answer("Write"))?;
            Ok(Written {
                session: wire::session(session)?,
                set_cookie: written.set_cookie,
                token: wire::token(written.token),
            })
        };
        let written = written.await;
        self.observe("Write", &engine, started, written.as_ref().map(|_| None));
        written
    }

    /// Ends the session of the credential.
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`].
    pub async fn destroy(&self, credential: &Credential) -> Result<Destroyed> {
        self.destroy_with(credential, DestroyOptions::default()).await
    }

    /// Ends sessions: see [`Scope`](crate::Scope).
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`], and [`Error::InvalidArgument`].
    pub async fn destroy_with(
        &self,
        credential: &Credential,
        options: DestroyOptions,
    ) -> Result<Destroyed> {
        let (engine, started) = (self.engine(options.engine.clone()), Instant::now());
        let destroyed = async {
            let request = wire::destroy(engine.clone(), credential, options)?;
            let Response::Destroy(destroyed) = self.call(Request::Destroy(request), true).await?
            else {
                return Err(self.wrong_answer("Destroy"));
            };
            Ok(Destroyed { count: destroyed.destroyed, set_cookie: destroyed.set_cookie })
        };
        let destroyed = destroyed.await;
        self.observe("Destroy", &engine, started, destroyed.as_ref().map(|_| None));
        destroyed
    }

    /// Lists the live sessions of the credential's own principal, all pages.
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`].
    pub async fn list_sessions(&self, credential: &Credential) -> Result<Listed> {
        self.list_sessions_with(credential, ListOptions::default()).await
    }

    /// [`Client::list_sessions`] with options.
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`].
    pub async fn list_sessions_with(
        &self,
        credential: &Credential,
        options: ListOptions,
    ) -> Result<Listed> {
        let (engine, started) = (self.engine(options.engine), Instant::now());
        let listed = self.list_pages(credential, &engine, started + self.0.timeout).await;
        let state = listed.as_ref().map(|listed| Some(listed.state));
        self.observe("ListSessions", &engine, started, state);
        listed
    }

    async fn list_pages(
        &self,
        credential: &Credential,
        engine: &str,
        deadline: Instant,
    ) -> Result<Listed> {
        let mut sessions = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = pb::SessionServiceListSessionsRequest {
                engine: engine.to_owned(),
                credential: wire::credential(credential),
                page_size: PAGE_SIZE,
                page_token,
            };
            let page = match &self.0.backend {
                Backend::Daemon(shared) => shared.list(request, deadline).await?,
                #[cfg(feature = "testing")]
                Backend::Fake(fake) => fake.list(&request)?,
            };
            let is_live = !page.current_session_id.is_empty();
            let state = wire::state(page.state, is_live, self.address())?;
            if state != State::Active {
                // It ended between two pages.
                let current_session_id = String::new();
                return Ok(Listed { state, sessions: vec![], current_session_id });
            }
            for session in page.sessions {
                sessions.push(wire::session(session)?);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                let current_session_id = page.current_session_id;
                return Ok(Listed { state, sessions, current_session_id });
            }
        }
    }

    /// What the daemon is. It is asked once for each connection.
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`].
    pub async fn describe(&self) -> Result<Arc<Description>> {
        match &self.0.backend {
            Backend::Daemon(shared) => shared.describe().await,
            #[cfg(feature = "testing")]
            Backend::Fake(fake) => fake.describe(),
        }
    }

    /// What the daemon has said last of an engine, also while it is away.
    pub(crate) async fn described_engine(&self, name: &str) -> Result<Engine> {
        let known = match &self.0.backend {
            Backend::Daemon(shared) => shared.described(),
            #[cfg(feature = "testing")]
            Backend::Fake(_) => None,
        };
        let description = match known {
            Some(description) => description,
            None => self.describe().await?,
        };
        description.engine(name).cloned().ok_or_else(|| {
            let message = format!("the daemon has no engine {name:?}");
            let code = tonic::Code::InvalidArgument;
            Error::new(crate::Reason::UnknownEngine, code, crate::Applied::No, message)
                .with_field("engine")
        })
    }

    /// Takes nothing new, waits for what is under way, at most as long as the timeout, and
    /// closes the connection. What takes longer fails with reason `CLOSED`. It closes all
    /// clones.
    ///
    /// A client that is dropped with all of its clones is closed as well.
    pub async fn close(&self) {
        match &self.0.backend {
            Backend::Daemon(shared) => shared.close().await,
            #[cfg(feature = "testing")]
            Backend::Fake(fake) => fake.close(),
        }
    }

    pub(crate) fn engine(&self, given: Option<String>) -> String {
        given.unwrap_or_else(|| self.0.engine.clone())
    }

    async fn call(&self, request: Request, is_safe: bool) -> Result<Response> {
        let Answer { result, uncertain } = match &self.0.backend {
            Backend::Daemon(shared) => shared.call(request, is_safe).await?,
            #[cfg(feature = "testing")]
            Backend::Fake(fake) => Answer { result: fake.call(request)?, uncertain: false },
        };
        match result {
            Response::Error(failed) => Err(status::answered(&failed, uncertain)),
            result => Ok(result),
        }
    }

    fn wrong_answer(&self, operation: &str) -> Error {
        let what = format!("a {operation} was answered with something else");
        status::protocol(self.address(), &what)
    }

    /// Tells of an operation.
    fn observe(
        &self,
        name: &'static str,
        engine: &str,
        started: Instant,
        outcome: Result<Option<State>, &Error>,
    ) {
        let duration = started.elapsed();
        let (state, error) = match outcome {
            Ok(state) => (state, None),
            Err(error) => (None, Some(error)),
        };
        if let Some(observer) = &self.0.observer {
            observer(&Operation { name, engine, duration, state, error });
        }
        match error {
            // An outage of the connection is told once, by the transport.
            Some(error)
                if error.is_unavailable() && error.reason() != crate::Reason::ConnectionFailed =>
            {
                let reason = error.reason().as_str();
                tracing::warn!(operation = name, ?duration, reason, error = %error, "session operation failed");
            }
            _ if duration > self.0.timeout / 2 => {
                tracing::warn!(operation = name, ?duration, "slow session operation");
            }
            _ => {}
        }
    }
}

/// Data for a write: `client.write(&credential, Data::new().into())`.
impl From<Data> for WriteOptions {
    fn from(set: Data) -> Self {
        Self { set, ..Self::default() }
    }
}
