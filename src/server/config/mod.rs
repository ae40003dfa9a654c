//! The configuration: all keys and their defaults.
//!
//! Parsing binds no address and opens no store. [`layers`] reads the sources. [`policy`]
//! makes the checks that need more than one value, and builds the rules of the engines.
//! [`backends`] lists the kinds of stores. [`sled`] has the keys of `[store.sled]`,
//! [`redis`] those of `[store.redis]`, [`adopt`] those of `[engine.NAME.adopt]`, [`access`] those
//! of `[listen.auth]`, [`traces`] those of `[traces]`. [`files`] reads the files of secrets and tokens, with [`reading`].
//! [`sockets`] has the keys of `[listen.unix]`. [`difference`] says what a reload leaves to a restart. [`suggest`] guesses at what was meant by
//! a key that does not exist. [`text`] has the types of values that are written as text.
//! `config/sessiond.toml` explains each key.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::session::{
    cookie::{CookieAttributes, CookieFormat, SameSite},
    policy::OnLimit,
};

pub(crate) use self::text::is_localhost;
pub use self::{
    access::bearer_token,
    adopt::{AdoptChoice, AdoptConfig, AdoptFrom},
    backends::{Backend, Kind, MakeOptions},
    difference::restart_keys,
    layers::{ConfigError, Layers, Sources, load, read_layers},
    policy::{Checked, check, check_all},
    redis::{RedisAccess, RedisConfig, RedisTlsConfig},
    sled::{DurabilityConfig, SledConfig},
    sockets::{SocketAccess, SocketGroup, UnixAccess, UnixConfig},
    text::{
        AddrOrOff, ListenAddr, SecretText, Size, SizeOrNone, SocketMode, Span, SpanOrAuto,
        SpanOrNone,
    },
    traces::TracesConfig,
};

mod access;
mod adopt;
mod backends;
mod difference;
mod files;
mod layers;
mod policy;
pub(super) mod reading;
mod redis;
mod sled;
mod sockets;
mod suggest;
mod text;
mod traces;

/// The configuration file, with the defaults for what it leaves out. `config/sessiond.toml`
/// explains every key. Values that depend on each other are not checked yet; see [`check`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses, TLS and access.
    pub listen: Listen,
    /// By name. Empty: one engine with the default name and the default rules.
    pub engine: BTreeMap<String, EngineConfig>,
    /// Where sessions are kept.
    pub store: StoreConfig,
    /// How expired sessions are removed.
    pub cleanup: CleanupConfig,
    /// What callers may take up at most.
    pub limits: Limits,
    /// Threads, and how the process ends.
    pub runtime: RuntimeConfig,
    /// When changes are taken over without a restart.
    pub reload: ReloadConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// Which operations are traced, and for whom.
    pub traces: TracesConfig,
}

/// `[listen]`: where the daemon is called, and by whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// For SessionService and health. Port 0 takes a free port.
    pub grpc: Vec<ListenAddr>,
    /// For SessionAdminService. Empty: it is not served.
    pub admin: Vec<ListenAddr>,
    /// For Prometheus, over plain HTTP.
    pub metrics: AddrOrOff,
    /// Whether gRPC server reflection is served, in v1 and v1alpha.
    pub reflection: bool,
    /// Who may connect to the unix sockets of `grpc` and `admin`.
    pub unix: UnixConfig,
    /// For the TCP addresses of `grpc` and `admin`.
    pub tls: TlsConfig,
    /// Whom callers of `grpc` and `admin` must prove to be.
    pub auth: AuthConfig,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            grpc: vec![loopback(50051)],
            admin: vec![loopback(50052)],
            metrics: AddrOrOff(Some(([127, 0, 0, 1], 9464).into())),
            reflection: true,
            unix: UnixConfig::default(),
            tls: TlsConfig::default(),
            auth: AuthConfig::default(),
        }
    }
}

fn loopback(port: u16) -> ListenAddr {
    ListenAddr::Tcp(([127, 0, 0, 1], port).into())
}

/// `[listen.tls]`: PEM files. All empty: no TLS.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate and its chain. Set it together with `key_file`.
    pub cert_file: PathBuf,
    /// The key of that certificate.
    pub key_file: PathBuf,
    /// The CA that must have signed the certificates of clients. Empty: none are asked for.
    pub client_ca_file: PathBuf,
}

/// `[listen.auth]`: who may call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// One token on each line, alone or with a role and a name. Empty: no token is asked for.
    pub token_file: PathBuf,
    /// Roles of the names in the certificates of clients.
    pub subjects: Vec<String>,
}

/// `[engine.NAME]`: the rules of one kind of session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// The idle timeout; at most 400 days.
    pub duration: Span,
    /// Whether Resolve moves the deadline.
    pub automatic_touch: bool,
    /// How far ahead deadlines are stored; auto: a 64th of `duration`, at most 60 s.
    pub touch_granularity: SpanOrAuto,
    /// The absolute timeout, counted from the creation.
    pub absolute_duration: SpanOrNone,
    /// How long after a roll the former id can still end the session.
    pub roll_grace: SpanOrNone,
    /// The most data of a session, as JSON text.
    pub max_data_bytes: Size,
    /// 0: unlimited.
    pub max_sessions_per_principal: u32,
    /// What happens to a login above `max_sessions_per_principal`.
    pub on_limit: OnLimit,
    /// The session cookie and the secrets that sign it.
    pub cookie: CookieConfig,
    /// Sessions that are taken over from an application.
    pub adopt: AdoptConfig,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            duration: Span::secs(30 * 60),
            automatic_touch: true,
            touch_granularity: SpanOrAuto(None),
            absolute_duration: SpanOrNone(None),
            roll_grace: SpanOrNone(Some(std::time::Duration::from_secs(60))),
            max_data_bytes: Size::kib(64),
            max_sessions_per_principal: 0,
            on_limit: OnLimit::RefuseNewest,
            cookie: CookieConfig::default(),
            adopt: AdoptConfig::default(),
        }
    }
}

/// `[engine.NAME.cookie]`: the attributes of RFC 6265bis, and the secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CookieConfig {
    /// A prefix such as `__Host-` requires certain attributes.
    pub name: String,
    /// Empty: this host only.
    pub domain: String,
    /// Empty: the directory of the request that set the cookie.
    pub path: String,
    /// Sent over encrypted connections only.
    pub secure: bool,
    /// Scripts cannot read it.
    pub http_only: bool,
    /// Which requests from other sites carry it.
    pub same_site: SameSite,
    /// A separate cookie for each top-level site (CHIPS).
    pub partitioned: bool,
    /// Whether Max-Age and Expires are sent.
    pub persistent: bool,
    /// How values are written. Every spelling is read.
    pub format: CookieFormat,
    /// One secret on each line: the first signs, all verify. Empty: only `secrets`.
    pub secret_file: PathBuf,
    /// The same, inline. They come after those of the file.
    pub secrets: Vec<SecretText>,
}

impl Default for CookieConfig {
    fn default() -> Self {
        let attributes = CookieAttributes::default();
        Self {
            name: attributes.name,
            domain: attributes.domain,
            path: attributes.path,
            secure: attributes.secure,
            http_only: attributes.http_only,
            same_site: attributes.same_site,
            partitioned: attributes.partitioned,
            persistent: attributes.persistent,
            format: attributes.format,
            secret_file: PathBuf::new(),
            secrets: Vec::new(),
        }
    }
}

/// `[store]`: where sessions are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Only the table of this backend counts.
    pub backend: Backend,
    /// Used if the backend is sled.
    pub sled: SledConfig,
    /// Used if the backend is redis.
    pub redis: RedisConfig,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { backend: Backend::Sled, sled: SledConfig::default(), redis: RedisConfig::default() }
    }
}

/// `[cleanup]`: the removal of expired sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CleanupConfig {
    /// The time between two sweeps, give or take a tenth.
    pub interval: Span,
    /// The most entries that one slice of a sweep looks at. Requests run between slices.
    pub slice: u32,
}

impl Default for CleanupConfig {
    fn default() -> Self {
        Self { interval: Span::secs(60), slice: 1000 }
    }
}

/// `[limits]`: what callers may take up at most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// To `grpc` and `admin` together. More wait until one closes.
    pub max_connections: u32,
    /// When a client is told to open a new connection, give or take a tenth.
    pub max_connection_age: SpanOrNone,
    /// Calls at a time on one connection. More wait in the client.
    pub max_concurrent_streams: u32,
    /// The largest request. Must leave room for the data of every engine.
    pub max_message_bytes: Size,
    /// The most metadata of one call.
    pub max_header_bytes: Size,
    /// What all peers together may make the daemon hold. Beyond it calls are refused.
    pub max_held_bytes: Size,
    /// How long a peer may take for the rest of a message, or leave an answer unread.
    pub stall_timeout: Span,
    /// Operations of one Pipeline in flight. Flow control holds the rest.
    pub pipeline_in_flight: u32,
    /// Streams of WatchSessions at a time. More are refused.
    pub max_watchers: u32,
    /// Events that a watcher may be behind before it is dropped.
    pub watch_queue: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_connection_age: SpanOrNone(None),
            max_concurrent_streams: 256,
            max_message_bytes: Size::mib(1),
            max_header_bytes: Size::kib(16),
            max_held_bytes: Size::mib(64),
            stall_timeout: Span::secs(20),
            pipeline_in_flight: 256,
            max_watchers: 64,
            watch_queue: 1024,
        }
    }
}

/// `[runtime]`: threads, and how the process ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeConfig {
    /// Threads that serve requests. 0: one for each core.
    pub threads: u32,
    /// How long a stop still takes connections while health is NOT_SERVING.
    pub drain: SpanOrNone,
    /// How long a stop waits for calls in flight before it cuts them.
    pub shutdown_grace: Span,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self { threads: 0, drain: SpanOrNone(None), shutdown_grace: Span::secs(5) }
    }
}

/// `[reload]`: when changes are taken over without a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadConfig {
    /// How often the files of secrets, tokens, passwords and certificates are looked at.
    pub watch: SpanOrNone,
}

impl Default for ReloadConfig {
    fn default() -> Self {
        Self { watch: SpanOrNone(None) }
    }
}

/// `[log]`: what goes to standard error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Less severe lines are left out.
    pub level: LogLevel,
    /// How a line is written.
    pub format: LogFormat,
    /// Operations that take at least this long are logged.
    pub slow: SpanOrNone,
}

impl Default for LogConfig {
    fn default() -> Self {
        let slow = SpanOrNone(Some(std::time::Duration::from_secs(1)));
        Self { level: LogLevel::Info, format: LogFormat::Text, slow }
    }
}

/// Severity, as `tracing` grades it. The libraries below never log less than warnings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What an operator must look at: something does not work.
    Error,
    /// Also what may need an operator's attention.
    Warn,
    /// Also starts, stops and what was found at the start.
    Info,
    /// Also what helps to find out why something happened.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For a terminal or a journal.
    Text,
    /// One JSON object in each line.
    Json,
}

impl Config {
    /// The default values: one engine, named `default`.
    pub fn defaults() -> Self {
        let engine = [("default".to_owned(), EngineConfig::default())].into();
        Self { engine, ..Self::default() }
    }

    /// The default values with `--dev`: loopback addresses, no files, and a cookie that
    /// works over plain HTTP. Secrets are generated at start.
    pub fn dev() -> Self {
        let mut config = Self::defaults();
        config.store.backend = Backend::Memory;
        for engine in config.engine.values_mut() {
            engine.cookie.name = "session".to_owned();
            engine.cookie.secure = false;
        }
        config
    }

    /// The effective configuration as TOML, without secrets.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
    }
}
