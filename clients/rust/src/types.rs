//! What goes into the operations of a client, and what comes out.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, header::COOKIE};

use crate::data::Data;

/// What a request presents to prove which session is its own.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(pub(crate) Kind);

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    None,
    CookieHeader(Bytes),
    Token(Bytes),
}

impl Credential {
    /// Presents nothing. A write with it creates a session.
    pub const NONE: Self = Self(Kind::None);

    /// The credential of a Cookie header, unchanged. Any octets are accepted. Several header
    /// lines are joined with `"; "`.
    pub fn cookie_header(header: impl Into<Bytes>) -> Self {
        Self(Kind::CookieHeader(header.into()))
    }

    /// The credential of a token of an answer, for programs that keep it elsewhere than in a
    /// cookie.
    pub fn token(token: impl Into<Bytes>) -> Self {
        Self(Kind::Token(token.into()))
    }

    /// The credential of a request: its Cookie header lines.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        cookie_header(headers).map_or(Self::NONE, Self::cookie_header)
    }

    /// Whether it presents nothing.
    pub fn is_none(&self) -> bool {
        matches!(self.0, Kind::None)
    }
}

/// The Cookie header lines of a request as one.
pub(crate) fn cookie_header(headers: &HeaderMap) -> Option<Bytes> {
    let mut lines = headers.get_all(COOKIE).iter();
    let first = lines.next()?;
    let mut all = Bytes::copy_from_slice(first.as_bytes());
    for line in lines {
        all = [&all, b"; ".as_slice(), line.as_bytes()].concat().into();
    }
    Some(all)
}

/// Prints the type only: what it holds is a secret.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::None => "Credential(none)",
            Kind::CookieHeader(_) => "Credential(cookie header)",
            Kind::Token(_) => "Credential(token)",
        })
    }
}

/// What became of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Live: there is a session.
    Active,
    /// Created by this call.
    Created,
    /// No session cookie in the credential.
    None,
    /// Malformed, or signed by no known secret.
    Invalid,
    /// Authentic, but the session was destroyed, or has expired and was removed.
    NotFound,
    /// Authentic, but the session's time is over.
    Expired,
    /// Authentic, but the id was replaced since: serve the request as nobody's and change no
    /// cookie.
    Superseded,
}

/// A session as it is stored.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Public id, 16 characters: stable for the session's life, not a credential, safe to log.
    pub id: String,
    /// The data. Empty in the answers of touch, write and list_sessions.
    pub data: Data,
    /// 1 at creation, one more with each write.
    pub version: u64,
    /// Whom the session belongs to. Empty: nobody.
    pub principal: String,
    /// When the session was created.
    pub create_time: SystemTime,
    /// When the session ends, unless it is used before.
    pub expire_time: SystemTime,
    /// When the session was last used, exact to the engine's `touch_granularity`.
    pub last_use_time: SystemTime,
    /// The idle timeout in force.
    pub duration: Duration,
    /// The text for the user's list of devices. Empty: none.
    pub label: String,
}

/// Options of [`Client::resolve_with`](crate::Client::resolve_with).
#[derive(Debug, Clone, Default)]
pub struct ResolveOptions {
    /// The engine. `None`: that of the client.
    pub engine: Option<String>,
    /// Look without moving the deadline.
    pub peek: bool,
    /// Make a session if the credential is not live.
    pub create: bool,
}

/// The answer of a resolve.
#[derive(Clone)]
#[non_exhaustive]
pub struct Resolved {
    /// What became of the credential.
    pub state: State,
    /// There is one if the state is [`State::Active`] or [`State::Created`].
    pub session: Option<SessionInfo>,
    /// Values of Set-Cookie lines to send.
    pub set_cookie: Vec<String>,
    /// The token, if it is new to the caller.
    pub token: Option<String>,
}

/// Options of [`Client::touch_with`](crate::Client::touch_with).
#[derive(Debug, Clone, Default)]
pub struct TouchOptions {
    /// The engine. `None`: that of the client.
    pub engine: Option<String>,
    /// The session's own idle timeout from now on, at most 400 days. `None`: as it was.
    pub duration: Option<Duration>,
}

/// The answer of a touch.
#[derive(Clone)]
#[non_exhaustive]
pub struct Touched {
    /// What became of the credential.
    pub state: State,
    /// There is one if the state is [`State::Active`]. It has no data.
    pub session: Option<SessionInfo>,
    /// Values of Set-Cookie lines to send.
    pub set_cookie: Vec<String>,
}

/// What a [`Client::write`](crate::Client::write) changes. `replace` applies first, then
/// `unset`, then `set`.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// The engine. `None`: that of the client.
    pub engine: Option<String>,
    /// Top-level keys to set. The other keys stay as they are.
    pub set: Data,
    /// Top-level keys to remove, at most 1000.
    pub unset: Vec<String>,
    /// Drop all data first.
    pub replace: bool,
    /// Change the session only at this version, at least 1; otherwise
    /// [`Error::VersionMismatch`](crate::Error::VersionMismatch). Not when creating.
    pub if_version: Option<u64>,
    /// Give the browser a new id for the same session. Set it at every login.
    pub roll: bool,
    /// Whom the session belongs to, at most 256 octets. Empty: nobody. `None`: as it was.
    pub principal: Option<String>,
    /// The session's own idle timeout, at most 400 days. `None`: as it was.
    pub duration: Option<Duration>,
    /// Whether the cookie outlives the browser ("remember me"). `None`: as it was, or as the
    /// engine says.
    pub persistent: Option<bool>,
    /// A text for the user's list of devices, at most 256 octets. Empty removes it. `None`: as
    /// it was.
    pub label: Option<String>,
}

/// The answer of a write.
#[derive(Clone)]
#[non_exhaustive]
pub struct Written {
    /// The session after the change, without data.
    pub session: SessionInfo,
    /// Values of Set-Cookie lines to send.
    pub set_cookie: Vec<String>,
    /// The token, if it is new to the caller: created, rolled or signed again.
    pub token: Option<String>,
}

/// Which sessions a destroy ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    /// The session of the credential.
    #[default]
    This,
    /// All of the principal's sessions but this one.
    Others,
    /// All of the principal's sessions.
    All,
    /// Sessions of the same principal with these public ids, 1 to 1000.
    Ids(Vec<String>),
}

/// Options of [`Client::destroy_with`](crate::Client::destroy_with).
#[derive(Debug, Clone, Default)]
pub struct DestroyOptions {
    /// The engine. `None`: that of the client.
    pub engine: Option<String>,
    /// Which sessions end.
    pub scope: Scope,
}

/// The answer of a destroy.
#[derive(Clone)]
#[non_exhaustive]
pub struct Destroyed {
    /// How many live sessions were ended.
    pub count: u32,
    /// The deletion cookie, if the credential held a session cookie and its session is meant.
    pub set_cookie: Vec<String>,
}

/// Options of [`Client::list_sessions_with`](crate::Client::list_sessions_with).
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// The engine. `None`: that of the client.
    pub engine: Option<String>,
}

/// The answer of [`Client::list_sessions`](crate::Client::list_sessions).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Listed {
    /// What became of the credential.
    pub state: State,
    /// The live sessions of the credential's principal, ordered by id, without data.
    pub sessions: Vec<SessionInfo>,
    /// Public id of the credential's own session. Empty unless the state is
    /// [`State::Active`].
    pub current_session_id: String,
}

macro_rules! without_secrets {
    ($($name:ident { $($field:ident),* })*) => {
        $(
            /// Prints no token and no cookie.
            impl fmt::Debug for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.debug_struct(stringify!($name))
                        $(.field(stringify!($field), &self.$field))*
                        .finish_non_exhaustive()
                }
            }
        )*
    };
}

without_secrets! {
    Resolved { state, session }
    Touched { state, session }
    Written { session }
    Destroyed { count }
}

/// What the daemon says of itself.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Description {
    /// Its version, such as `"0.1.0"`.
    pub version: String,
    /// What it takes of a client.
    pub limits: Limits,
    /// Its engines, ordered by name.
    pub engines: Vec<Engine>,
}

impl Description {
    /// The engine of this name. Empty: `"default"`.
    pub fn engine(&self, name: &str) -> Option<&Engine> {
        let name = if name.is_empty() { "default" } else { name };
        self.engines.iter().find(|engine| engine.name == name)
    }
}

/// What the daemon takes of a client.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Limits {
    /// Length of a message, in bytes.
    pub max_message_bytes: usize,
    /// Operations of a Pipeline that run at the same time.
    pub pipeline_in_flight: usize,
    /// Length of a Cookie header, in bytes.
    pub max_cookie_header_bytes: usize,
    /// Length of a principal, in bytes.
    pub max_principal_bytes: usize,
    /// Length of a label, in bytes.
    pub max_label_bytes: usize,
    /// Number of top-level keys of a session's data.
    pub max_keys: usize,
    /// Number of keys in a write's `unset`.
    pub max_unset: usize,
    /// Number of ids in a destroy.
    pub max_session_ids: usize,
    /// Longest idle timeout.
    pub max_duration: Duration,
}

/// A kind of session, as the daemon is configured.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Engine {
    /// Its name.
    pub name: String,
    /// The name of its cookie.
    pub cookie_name: String,
    /// Whether the cookie has the `s:` of express-session before the token.
    pub express_format: bool,
    /// Whether its cookies outlive the browser, unless a write says otherwise.
    pub persistent: bool,
    /// Idle timeout, unless a session has its own.
    pub duration: Duration,
    /// The longest life of a session. `None`: no limit.
    pub absolute_duration: Option<Duration>,
    /// By how much a deadline must move before it is stored.
    pub touch_granularity: Duration,
    /// Whether a resolve moves the deadline.
    pub automatic_touch: bool,
    /// Length of a session's data as JSON text, in bytes.
    pub max_data_bytes: usize,
}

/// What [`ClientBuilder::observe`](crate::ClientBuilder::observe) is told of an operation.
#[derive(Debug)]
#[non_exhaustive]
pub struct Operation<'a> {
    /// `"Resolve"`, `"Touch"`, `"Write"`, `"Destroy"` or `"ListSessions"`.
    pub name: &'static str,
    /// The engine. Empty: `"default"`.
    pub engine: &'a str,
    /// How long it took, with everything that was repeated.
    pub duration: Duration,
    /// What became of the credential, if the answer says so.
    pub state: Option<State>,
    /// Why it failed.
    pub error: Option<&'a crate::Error>,
}
