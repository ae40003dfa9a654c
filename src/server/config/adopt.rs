//! `[engine.NAME.adopt]`: its keys, their checks, and the resulting options.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    ConfigError, SecretText, Span,
    redis::{self, RedisAccess, RedisConfig, RedisTlsConfig},
};
use crate::{
    session::{
        foreign::{Format, Reading},
        lifetime::MAX_DURATION,
    },
    store::redis::{RedisOptions, RedisUrl},
};

/// `[engine.NAME.adopt]`: where an application keeps the sessions that are adopted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdoptConfig {
    /// The library that wrote them, or off.
    pub from: AdoptFrom,
    /// The application's Redis. A replica is enough.
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
    /// What comes before the id in the application's keys; "auto": the library's usual prefix.
    pub key_prefix: String,
    /// A JSON Pointer (RFC 6901); empty: adopted sessions are anonymous.
    pub principal: String,
    /// The least time for which an old cookie is remembered as adopted; at most 400 days.
    pub remember: Span,
    /// The most time for one look into the application's store.
    pub timeout: Span,
    /// The most time until a connection can be used.
    pub connect_timeout: Span,
    /// Used if the URL asks for TLS.
    pub tls: RedisTlsConfig,
}

impl Default for AdoptConfig {
    fn default() -> Self {
        let RedisConfig { url, timeout, connect_timeout, .. } = RedisConfig::default();
        Self {
            from: AdoptFrom::Off,
            url,
            username: String::new(),
            password_file: PathBuf::new(),
            password: SecretText::default(),
            sentinel_username: String::new(),
            sentinel_password_file: PathBuf::new(),
            sentinel_password: SecretText::default(),
            key_prefix: AUTO.to_owned(),
            principal: String::new(),
            remember: Span::secs(90 * 24 * 60 * 60),
            timeout,
            connect_timeout,
            tls: RedisTlsConfig::default(),
        }
    }
}

/// The library whose sessions are adopted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdoptFrom {
    /// No session is adopted. Old marks are still swept.
    Off,
    /// Sessions of express-session, kept by connect-redis.
    ExpressSession,
    /// Sessions of hyper-express-session, kept as in its documentation.
    HyperExpressSession,
}

impl AdoptFrom {
    /// The format of its records, and the usual prefix of its keys.
    fn manner(self) -> Option<(Format, &'static str)> {
        match self {
            Self::Off => None,
            // The default of connect-redis.
            Self::ExpressSession => Some((Format::ExpressSession, "sess:")),
            // From the examples in its documentation.
            Self::HyperExpressSession => Some((Format::HyperExpressSession, "session:")),
        }
    }
}

/// Which sessions an engine adopts, and how.
#[derive(Debug)]
pub struct AdoptChoice {
    /// How to reach the application's Redis.
    pub redis: RedisOptions,
    /// How to read its records.
    pub reading: Reading,
    /// The least time for which an old cookie is remembered as adopted.
    pub remember: std::time::Duration,
}

/// Stands for the usual prefix of `from`.
const AUTO: &str = "auto";
const MAX_PREFIX_BYTES: usize = 128;

/// Checks the values, and reads the files if adoption is on. `None`: adoption is off.
pub(super) fn check(
    name: &str,
    adopt: &AdoptConfig,
    max_data_bytes: usize,
    logins: &RedisAccess,
) -> Result<Option<AdoptChoice>, ConfigError> {
    let table = format!("engine.{name}.adopt");
    let key = |key: &str| format!("{table}.{key}");
    let prefix = adopt.key_prefix.as_str();
    if prefix.len() > MAX_PREFIX_BYTES || prefix.chars().any(char::is_control) {
        let problem =
            format!("expected at most {MAX_PREFIX_BYTES} bytes of text, found {prefix:?}");
        return Err(ConfigError::new(key("key_prefix"), problem));
    }
    if !adopt.principal.is_empty() && !adopt.principal.starts_with('/') {
        let problem = format!(
            "expected \"\" or a JSON pointer such as \"/passport/user\", found {:?}",
            adopt.principal
        );
        return Err(ConfigError::new(key("principal"), problem));
    }
    // RFC 6901, section 3. What is written otherwise would name nothing.
    if adopt.principal.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
        let problem = format!(
            "expected \"~0\" for a \"~\" in a name, and \"~1\" for a \"/\", found {:?}",
            adopt.principal
        );
        return Err(ConfigError::new(key("principal"), problem));
    }
    if adopt.remember.0 > MAX_DURATION {
        let problem = format!("expected at most 400days, found {}", adopt.remember);
        return Err(ConfigError::new(key("remember"), problem));
    }
    let mut access = adopt.access();
    redis::check_access(&table, &access)?;
    let Some((format, usual_prefix)) = adopt.from.manner() else {
        return Ok(None);
    };
    if access.key_prefix == AUTO {
        usual_prefix.clone_into(&mut access.key_prefix);
    }
    Ok(Some(AdoptChoice {
        redis: redis::options(&table, &access, logins)?,
        reading: Reading { format, principal: adopt.principal.clone(), max_data_bytes },
        remember: adopt.remember.0,
    }))
}

impl AdoptConfig {
    /// How to reach the application's Redis, in the form that the store's Redis has.
    pub(super) fn access(&self) -> RedisConfig {
        RedisConfig {
            url: self.url.clone(),
            username: self.username.clone(),
            password_file: self.password_file.clone(),
            password: self.password.clone(),
            sentinel_username: self.sentinel_username.clone(),
            sentinel_password_file: self.sentinel_password_file.clone(),
            sentinel_password: self.sentinel_password.clone(),
            key_prefix: self.key_prefix.clone(),
            timeout: self.timeout,
            connect_timeout: self.connect_timeout,
            tls: self.tls.clone(),
            ..RedisConfig::default()
        }
    }
}
