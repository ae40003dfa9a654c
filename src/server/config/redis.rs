//! `[store.redis]`: its keys, their checks, and the resulting options.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

use super::{ConfigError, SecretText, Span, files, reading};
use crate::store::codec::Layout;
use crate::store::redis::{Login, RedisOptions, RedisUrl, Source, Target, Tls, Wait};

/// `[store.redis]`: the Redis or Valkey that keeps the sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// One server, Sentinels or a cluster, over TCP or TLS.
    pub url: RedisUrl,
    /// An ACL user; empty: the default user.
    pub username: String,
    /// The password, on the first line of a file. Empty: the next field counts.
    pub password_file: PathBuf,
    /// The same, inline. Used if no file is named.
    pub password: SecretText,
    /// For the Sentinels. The login of the servers is not sent to them.
    pub sentinel_username: String,
    /// The password for the Sentinels, on the first line of a file. Empty: the next field counts.
    pub sentinel_password_file: PathBuf,
    /// The same, inline. Used if no file is named.
    pub sentinel_password: SecretText,
    /// What every key begins with: at most 64 characters.
    pub key_prefix: String,
    /// The most time for one operation, its repetitions included; at most a minute.
    pub timeout: Span,
    /// The most time until a connection can be used, and for the answer to a probe.
    pub connect_timeout: Span,
    /// To each server. All requests share them.
    pub connections: u32,
    /// Operations that may wait for Redis at a time. More are refused.
    pub max_pending: u32,
    /// How long Redis keeps a record past its deadline.
    pub expiry_grace: Span,
    /// Replicas that must have a change before it is acknowledged. 0: none.
    pub wait_replicas: u32,
    /// The most time for one WAIT. A change may have to wait for two.
    pub wait_timeout: Span,
    /// The layout of the records that are written.
    pub record_layout: u8,
    /// Used if the URL asks for TLS.
    pub tls: RedisTlsConfig,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".parse().expect("a URL"),
            username: String::new(),
            password_file: PathBuf::new(),
            password: SecretText::default(),
            sentinel_username: String::new(),
            sentinel_password_file: PathBuf::new(),
            sentinel_password: SecretText::default(),
            key_prefix: "sessiond".to_owned(),
            timeout: Span::secs(1),
            connect_timeout: Span::secs(1),
            connections: 1,
            max_pending: 4096,
            expiry_grace: Span::secs(60),
            wait_replicas: 0,
            wait_timeout: Span(Duration::from_millis(300)),
            record_layout: Layout::LATEST as u8,
            tls: RedisTlsConfig::default(),
        }
    }
}

/// PEM files for connections to Redis over TLS.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisTlsConfig {
    /// The CA of the servers' certificates; empty: those that the system trusts.
    pub ca_file: PathBuf,
    /// A client certificate. Set it together with `key_file`.
    pub cert_file: PathBuf,
    /// The key of that certificate.
    pub key_file: PathBuf,
}

/// The index of principals relies on this: a change sent five minutes ago can no longer
/// arrive.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// Checks the values. Reads no file.
pub(super) fn check(redis: &RedisConfig) -> Result<(), ConfigError> {
    let key = |key: &str| format!("store.redis.{key}");
    let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
    let prefix = redis.key_prefix.as_str();
    // No braces, which would put all sessions into one slot, and no character that has a
    // meaning in a Redis pattern.
    if prefix.is_empty() || prefix.len() > 64 || !prefix.chars().all(clean) {
        let problem = format!(
            "expected 1 to 64 letters, digits, \"_\", \"-\", \".\", \":\" and \"/\", found {prefix:?}"
        );
        return Err(ConfigError::new(key("key_prefix"), problem));
    }
    for (name, count, most) in
        [("connections", redis.connections, 64), ("max_pending", redis.max_pending, 1 << 20)]
    {
        if !(1..=most).contains(&count) {
            let problem = format!("expected 1 to {most}, found {count}");
            return Err(ConfigError::new(key(name), problem));
        }
    }
    // A change may first have to wait for the round before its own.
    if redis.wait_replicas > 0 && redis.wait_timeout.0 > redis.timeout.0 / 2 {
        let problem = format!(
            "expected at most half of store.redis.timeout, which is {}, found {}",
            redis.timeout, redis.wait_timeout
        );
        return Err(ConfigError::new(key("wait_timeout"), problem));
    }
    layout(redis)?;
    check_access("store.redis", redis)
}

fn layout(redis: &RedisConfig) -> Result<Layout, ConfigError> {
    Layout::of(redis.record_layout).ok_or_else(|| {
        let (latest, found) = (Layout::LATEST as u8, redis.record_layout);
        let problem = format!("expected 1 to {latest}, found {found}");
        ConfigError::new("store.redis.record_layout", problem)
    })
}

/// Checks the access to a Redis. `table` is the table that configures it.
pub(super) fn check_access(table: &str, redis: &RedisConfig) -> Result<(), ConfigError> {
    let key = |key: &str| format!("{table}.{key}");
    if redis.timeout.0 > MAX_TIMEOUT {
        let problem = format!("expected at most {}, found {}", Span(MAX_TIMEOUT), redis.timeout);
        return Err(ConfigError::new(key("timeout"), problem));
    }
    let named = |path: &Path| !path.as_os_str().is_empty();
    let RedisTlsConfig { ca_file, cert_file, key_file } = &redis.tls;
    if named(cert_file) != named(key_file) {
        let problem =
            format!("expected both {table}.tls.cert_file and {table}.tls.key_file, or neither");
        return Err(ConfigError::new(key("tls"), problem));
    }
    if !redis.url.tls && (named(ca_file) || named(cert_file)) {
        let problem = "is only for a URL that starts with rediss";
        return Err(ConfigError::new(key("tls"), problem));
    }
    let sentinels = !redis.sentinel_username.is_empty()
        || named(&redis.sentinel_password_file)
        || !redis.sentinel_password.0.is_empty();
    if sentinels && !matches!(redis.url.target, Target::Sentinel { .. }) {
        let problem = "is only for a URL that starts with redis+sentinel or rediss+sentinel";
        return Err(ConfigError::new(key("sentinel_password_file"), problem));
    }
    Ok(())
}

/// The passwords and certificates with which every Redis is connected to, by the table of each.
/// A clone is the same access.
#[derive(Clone, Default)]
pub struct RedisAccess(Arc<RwLock<BTreeMap<String, Entry>>>);

#[derive(Clone)]
struct Entry {
    redis: RedisConfig,
    /// Of what was read.
    hash: [u8; 32],
}

impl RedisAccess {
    /// Whether a table of `next` holds another password or certificate than here, by the names of
    /// the tables.
    pub fn changed(&self, next: &Self) -> Vec<String> {
        let (here, there) = (self.0.read(), next.0.read());
        let tables = here.iter().filter(|(table, own)| own.successor(there.get(*table)).is_some());
        tables.map(|(table, _)| table.clone()).collect()
    }

    /// Connects with the passwords and certificates of `next` from now on. Tables that are not
    /// here are left out.
    pub fn replace(&self, next: &Self) {
        let (mut here, there) = (self.0.write(), next.0.read());
        for (table, own) in here.iter_mut() {
            if let Some(next) = own.successor(there.get(table)) {
                *own = next.clone();
            }
        }
    }

    /// What `read` gives now; or, if it may be replaced, a way to read it at each connection.
    fn source<T: 'static>(
        &self,
        table: &str,
        may_change: bool,
        now: T,
        read: fn(&str, &RedisConfig) -> Result<T, ConfigError>,
    ) -> Source<T> {
        if !may_change {
            return Source::Fixed(now);
        }
        let (access, table) = (self.clone(), table.to_owned());
        Source::read(move || {
            let redis = access.0.read().get(&table).map(|entry| entry.redis.clone());
            Ok(read(&table, &redis.unwrap_or_default())?)
        })
    }
}

impl Entry {
    /// What takes its place, if it differs. A password or files where there were none, and the
    /// reverse, are for a restart.
    fn successor<'n>(&self, next: Option<&'n Self>) -> Option<&'n Self> {
        next.filter(|next| self.hash != next.hash && given(&self.redis) == given(&next.redis))
    }
}

/// Whether a password is given, one for the Sentinels, and files for TLS. A password in the URL
/// counts if none is given.
pub(super) fn given(redis: &RedisConfig) -> [bool; 3] {
    let named = |path: &Path| !path.as_os_str().is_empty();
    let RedisTlsConfig { ca_file, cert_file, key_file } = &redis.tls;
    [
        named(&redis.password_file) || !redis.password.0.is_empty(),
        named(&redis.sentinel_password_file) || !redis.sentinel_password.0.is_empty(),
        named(ca_file) || named(cert_file) || named(key_file),
    ]
}

impl fmt::Debug for RedisAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisAccess")
    }
}

/// Reads the files and builds the options of the store. Passwords and files are read again at
/// each connection, as `access` then says.
pub(super) fn options(
    table: &str,
    redis: &RedisConfig,
    access: &RedisAccess,
) -> Result<RedisOptions, ConfigError> {
    let (own, sentinels) = (server_password(table, redis)?, sentinel_password(table, redis)?);
    let papers = tls(table, redis)?;
    let mut hash = Sha256::new();
    for part in [own.as_bytes(), sentinels.as_bytes(), &papers.roots, &papers.certificate] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(papers.key.as_slice());
    let entry = Entry { redis: redis.clone(), hash: hash.finalize().into() };
    access.0.write().insert(table.to_owned(), entry);
    let [has_own, has_sentinels, has_tls] = given(redis);
    Ok(RedisOptions {
        url: redis.url.clone(),
        login: Login {
            username: redis.username.clone(),
            password: access.source(table, has_own, own, server_password),
        },
        sentinel_login: Login {
            username: redis.sentinel_username.clone(),
            password: access.source(table, has_sentinels, sentinels, sentinel_password),
        },
        tls: access.source(table, has_tls, papers, tls),
        key_prefix: redis.key_prefix.clone(),
        timeout: redis.timeout.0,
        connect_timeout: redis.connect_timeout.0,
        connections: redis.connections as usize,
        max_pending: redis.max_pending as usize,
        expiry_grace: redis.expiry_grace.0,
        wait: (redis.wait_replicas > 0)
            .then_some(Wait { replicas: redis.wait_replicas, timeout: redis.wait_timeout.0 }),
        record_layout: layout(redis)?,
    })
}

fn tls(table: &str, redis: &RedisConfig) -> Result<Tls, ConfigError> {
    let RedisTlsConfig { ca_file, cert_file, key_file } = &redis.tls;
    let pem = |name: &str, path: &Path, check: fn(&[u8]) -> Result<(), String>| {
        if path.as_os_str().is_empty() {
            return Ok(Vec::new());
        }
        let wrong = |problem| ConfigError::new(format!("{table}.tls.{name}"), problem);
        let mut text =
            reading::bytes(path).map_err(|error| wrong(reading::unreadable(path, &error)))?;
        check(&text).map_err(|error| wrong(format!("cannot use the file: {error}")))?;
        Ok(std::mem::take(&mut *text))
    };
    Ok(Tls {
        roots: pem("ca_file", ca_file, certificates)?,
        certificate: pem("cert_file", cert_file, certificates)?,
        key: pem("key_file", key_file, private_key)?.into(),
    })
}

pub(super) fn certificates(pem: &[u8]) -> Result<(), String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("expected certificates in PEM, found none".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("expected certificates in PEM: {error}")),
    }
}

fn private_key(pem: &[u8]) -> Result<(), String> {
    let found = PrivateKeyDer::from_pem_slice(pem);
    found.map(drop).map_err(|error| format!("expected a private key in PEM: {error}"))
}

fn server_password(table: &str, redis: &RedisConfig) -> Result<Zeroizing<String>, ConfigError> {
    password(&format!("{table}.password_file"), &redis.password_file, &redis.password)
}

fn sentinel_password(table: &str, redis: &RedisConfig) -> Result<Zeroizing<String>, ConfigError> {
    let key = format!("{table}.sentinel_password_file");
    password(&key, &redis.sentinel_password_file, &redis.sentinel_password)
}

/// The password: the first line of the file, or else the value in the configuration.
fn password(key: &str, file: &Path, inline: &SecretText) -> Result<Zeroizing<String>, ConfigError> {
    match files::read(key, file)? {
        None => Ok(Zeroizing::new(inline.0.clone())),
        Some(text) => match files::lines(&text).next() {
            Some(line) => Ok(Zeroizing::new(line.to_owned())),
            None => Err(ConfigError::new(
                key,
                "the file holds no password, expected it on the first line",
            )),
        },
    }
}
