//! Sessions for axum: a tower layer, and the extractor [`Session`].
//!
//! ```no_run
//! use axum::{Router, routing::post};
//! use sessiond_client::{Client, Result, axum::{Session, SessionLayer}};
//!
//! async fn visit(session: Session) -> Result<String> {
//!     let visits = session
//!         .update_value("visits", |visits: &mut u64| {
//!             *visits += 1;
//!             *visits
//!         })
//!         .await?;
//!     Ok(format!("visit {visits}\n"))
//! }
//!
//! # fn main() -> Result<()> {
//! let client = Client::new("127.0.0.1:50051")?;
//! let app: Router = Router::new()
//!     .route("/visit", post(visit))
//!     .layer(SessionLayer::new(client));
//! # Ok(()) }
//! ```
//!
//! The layer finds the session before the handler runs. A visitor without the session cookie
//! costs no call. What the handler inserts and removes is written when it has returned its
//! response, before the head of the response goes out, in one write, and only if something
//! changed. At most one Set-Cookie line of the session's name goes out, with
//! `Cache-Control: no-store`.
//!
//! [`Error`] is a response, so that handlers can use `?`: 503 with Retry-After while the daemon
//! or its store is away, 409 for a change with an id from before a login, 413, 403, otherwise
//! 500; the body is `{}`. If a handler returns such an error, what it has not saved is dropped.
//! A request whose session cannot be read never reaches the handler, so it is never served as
//! nobody's.
//!
//! A body that is streamed is made after the head is sent. What it changes is not written,
//! unless it calls [`RequestSession::save`] itself; it can begin no session.

use std::{
    future::Future,
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum_core::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderValue, Method, Request,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, SET_COOKIE},
    request::Parts,
};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    client::Client,
    error::{Applied, Error, Reason, Result},
    session::RequestSession,
    types,
};

/// The session of a request: an extractor. Its methods are those of [`RequestSession`].
#[derive(Debug, Clone)]
pub struct Session(RequestSession);

impl Deref for Session {
    type Target = RequestSession;

    fn deref(&self) -> &RequestSession {
        &self.0
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Session {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            let message = "no session in this request: put a SessionLayer around its route";
            let code = tonic::Code::FailedPrecondition;
            Error::new(Reason::NoSessionLayer, code, Applied::No, message)
        })
    }
}

/// `None` if there is no [`SessionLayer`] around the route.
impl<S: Send + Sync> OptionalFromRequestParts<S> for Session {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

/// What to answer if an error ends a request.
type OnError = dyn Fn(&Error) -> Response + Send + Sync;

/// A layer that finds the session of each request, saves it, and sets its cookie.
///
/// Put it around the routes that need a session, and inside of layers that change bodies or
/// headers, such as compression.
#[derive(Clone)]
pub struct SessionLayer {
    client: Client,
    engine: Option<Arc<str>>,
    on_error: Option<Arc<OnError>>,
}

impl SessionLayer {
    /// A layer over a client. Use one client in the process.
    pub fn new(client: Client) -> Self {
        Self { client, engine: None, on_error: None }
    }

    /// The engine of the sessions. Default: that of the client. A handler sees the session of
    /// the innermost layer.
    #[must_use]
    pub fn engine(mut self, name: impl Into<Arc<str>>) -> Self {
        self.engine = Some(name.into());
        self
    }

    /// Answers when the session cannot be read or saved, in place of the default: a page of
    /// your own. Retry-After and `Cache-Control: no-store` are added.
    #[must_use]
    pub fn on_error(mut self, answer: impl Fn(&Error) -> Response + Send + Sync + 'static) -> Self {
        self.on_error = Some(Arc::new(answer));
        self
    }

    fn answer(&self, error: Error) -> Response {
        match &self.on_error {
            None => error.into_response(),
            Some(answer) => {
                let mut response = answer(&error);
                error.tell(&mut response);
                response
            }
        }
    }
}

impl std::fmt::Debug for SessionLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionLayer")
            .field("client", &self.client)
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for SessionLayer {
    type Service = SessionService<S>;

    fn layer(&self, inner: S) -> SessionService<S> {
        SessionService { inner, layer: self.clone() }
    }
}

/// The service that a [`SessionLayer`] makes.
#[derive(Debug, Clone)]
pub struct SessionService<S> {
    inner: S,
    layer: SessionLayer,
}

impl<S, B> Service<Request<B>> for SessionService<S>
where
    S: Service<Request<B>, Response = Response> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The one that is ready goes away with the request.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let layer = self.layer.clone();
        Box::pin(async move {
            let header = types::cookie_header(request.headers()).unwrap_or_default();
            let engine = layer.engine.as_deref();
            let opened = RequestSession::open_engine(&layer.client, header, engine).await;
            let session = match opened {
                Ok(session) => session,
                Err(error) => return Ok(layer.answer(error)),
            };
            request.extensions_mut().insert(Session(session.clone()));
            let method = request.method().clone();
            let mut response = inner.call(request).await?;
            let has_failed = response.extensions().get::<Failed>().is_some();
            if let Err(error) = save(&session, &method, has_failed).await {
                response = layer.answer(error);
            }
            session.head_sent();
            set_cookie(&session, response.headers_mut());
            Ok(response)
        })
    }
}

/// Marks the response to an error of this crate.
#[derive(Clone)]
struct Failed;

/// Saves the session at the end of a request.
async fn save(session: &RequestSession, method: &Method, has_failed: bool) -> Result<()> {
    if has_failed {
        if session.is_changed() {
            session.drop_changes("the handler has failed");
        }
        return Ok(());
    }
    match session.save().await {
        // What a safe request stores on the way is dropped; sent again, it has the new id.
        Err(Error::Superseded(_)) if method.is_safe() => {
            session.drop_changes("the id is from before a login");
            Ok(())
        }
        saved => saved.map(drop),
    }
}

/// Sets the one Set-Cookie line of the session's name.
fn set_cookie(session: &RequestSession, headers: &mut HeaderMap) {
    let Some(line) = session.set_cookie() else { return };
    let Ok(value) = HeaderValue::try_from(&line) else {
        tracing::error!("the daemon's Set-Cookie value is no header value");
        return;
    };
    let name = cookie_name(line.as_bytes());
    let lines = headers.get_all(SET_COOKIE).iter();
    let others: Vec<_> =
        lines.filter(|other| cookie_name(other.as_bytes()) != name).cloned().collect();
    headers.remove(SET_COOKIE);
    for other in others {
        headers.append(SET_COOKIE, other);
    }
    headers.append(SET_COOKIE, value);
    // A shared cache must not hand one user's cookie to others.
    if !is_kept_from_caches(headers) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

fn cookie_name(line: &[u8]) -> &[u8] {
    let name = line.split(|&octet| octet == b'=').next().unwrap_or_default();
    crate::wire::trim(name)
}

fn is_kept_from_caches(headers: &HeaderMap) -> bool {
    headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').map(str::trim).any(|directive| {
            directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("private")
        })
    })
}

impl Error {
    /// Adds what an answer to this error has, whatever its body.
    fn tell(&self, response: &mut Response) {
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(Failed);
    }
}

/// The answer to an error: see [`Error::status`]. The body is `{}`.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.as_u16() == 500 {
            tracing::error!(reason = self.reason().as_str(), error = %self, "session failed");
        }
        let mut response = Response::new(Body::from("{}"));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.tell(&mut response);
        response
    }
}
