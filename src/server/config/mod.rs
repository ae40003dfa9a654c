//! The configuration: all keys and their defaults.
//!
//! Parsing binds no address and opens no store. [`layers`] reads the sources. [`policy`]
//! makes the checks that need more than one value, and builds the rules of the engines.
//! [`backends`] lists the kinds of stores. [`sled`] has the keys of `[store.sled]`,
//! [`redis`] those of `[store.redis]`, [`adopt`] those of `[engine.NAME.adopt]`. [`files`]
//! reads the files of secrets and tokens. [`text`] has the types of values that are written as
//! text. `config/sessiond.toml` explains each
//! key.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::session::{
    cookie::{CookieAttributes, CookieFormat, SameSite},
    policy::OnLimit,
};

pub use self::{
    adopt::{AdoptChoice, AdoptConfig, AdoptFrom},
    backends::{Backend, Kind},
    files::first_line,
    layers::{ConfigError, Sources, load},
    policy::{Checked, check},
    redis::{RedisConfig, RedisTlsConfig},
    sled::{DurabilityConfig, SledConfig},
    text::{AddrOrOff, ListenAddr, SecretText, Size, SizeOrNone, Span, SpanOrAuto, SpanOrNone},
};

mod adopt;
mod backends;
mod files;
mod layers;
mod policy;
mod redis;
mod sled;
mod text;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub listen: Listen,
    pub engine: BTreeMap<String, EngineConfig>,
    pub store: StoreConfig,
    pub cleanup: CleanupConfig,
    pub limits: Limits,
    pub runtime: RuntimeConfig,
    pub log: LogConfig,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    pub grpc: Vec<ListenAddr>,
    pub admin: Vec<ListenAddr>,
    pub metrics: AddrOrOff,
    pub reflection: bool,
    pub tls: TlsConfig,
    pub auth: AuthConfig,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            grpc: vec![loopback(50051)],
            admin: vec![loopback(50052)],
            metrics: AddrOrOff(Some(([127, 0, 0, 1], 9464).into())),
            reflection: true,
            tls: TlsConfig::default(),
            auth: AuthConfig::default(),
        }
    }
}

fn loopback(port: u16) -> ListenAddr {
    ListenAddr::Tcp(([127, 0, 0, 1], port).into())
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    pub client_ca_file: PathBuf,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    pub token_file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    pub duration: Span,
    pub automatic_touch: bool,
    pub touch_granularity: SpanOrAuto,
    pub absolute_duration: SpanOrNone,
    pub max_data_bytes: Size,
    /// 0: unlimited.
    pub max_sessions_per_principal: u32,
    pub on_limit: OnLimit,
    pub cookie: CookieConfig,
    pub adopt: AdoptConfig,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            duration: Span::secs(30 * 60),
            automatic_touch: true,
            touch_granularity: SpanOrAuto(None),
            absolute_duration: SpanOrNone(None),
            max_data_bytes: Size::kib(64),
            max_sessions_per_principal: 0,
            on_limit: OnLimit::RefuseNewest,
            cookie: CookieConfig::default(),
            adopt: AdoptConfig::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CookieConfig {
    pub name: String,
    pub domain: String,
    pub path: String,
    pub secure: bool,
    pub http_only: bool,
    pub same_site: SameSite,
    pub partitioned: bool,
    pub persistent: bool,
    pub format: CookieFormat,
    pub secret_file: PathBuf,
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

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    pub backend: Backend,
    pub sled: SledConfig,
    pub redis: RedisConfig,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { backend: Backend::Sled, sled: SledConfig::default(), redis: RedisConfig::default() }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CleanupConfig {
    pub interval: Span,
    pub slice: u32,
}

impl Default for CleanupConfig {
    fn default() -> Self {
        Self { interval: Span::secs(60), slice: 1000 }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub max_connections: u32,
    pub max_connection_age: SpanOrNone,
    pub max_concurrent_streams: u32,
    pub max_message_bytes: Size,
    pub max_header_bytes: Size,
    pub pipeline_in_flight: u32,
    pub max_watchers: u32,
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
            pipeline_in_flight: 256,
            max_watchers: 64,
            watch_queue: 1024,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeConfig {
    pub threads: u32,
    pub shutdown_grace: Span,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self { threads: 0, shutdown_grace: Span::secs(5) }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    pub level: LogLevel,
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
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
