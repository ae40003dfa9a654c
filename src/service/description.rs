//! What a client has to know of the daemon: its version, its limits and its engines.

use std::time::Duration;

use super::{
    engines::Engines,
    input::{MAX_IDS, MAX_UNSET},
};
use crate::session::{
    cookie::{CookieFormat, MAX_HEADER_LEN},
    data::MAX_KEYS,
    engine::Engine,
    lifetime::MAX_DURATION,
    policy::Policy,
    record::{Label, Principal},
};

/// What a client has to know of the daemon.
#[derive(Debug)]
pub struct Description {
    /// The version of the daemon.
    pub version: &'static str,
    /// What it takes, besides the limits of a protocol.
    pub limits: Limits,
    /// Its engines, in the order of their names.
    pub engines: Vec<EngineDescription>,
}

/// What the daemon takes of a client.
#[derive(Debug)]
pub struct Limits {
    /// Length of a Cookie header, in bytes.
    pub max_cookie_header_bytes: usize,
    /// Length of a principal, in bytes.
    pub max_principal_bytes: usize,
    /// Length of a label, in bytes.
    pub max_label_bytes: usize,
    /// Top-level keys of a session's data, and of a `set`.
    pub max_keys: usize,
    /// Keys of an `unset`.
    pub max_unset: usize,
    /// Ids of a Destroy.
    pub max_session_ids: usize,
    /// The longest idle timeout.
    pub max_duration: Duration,
}

/// An engine, as a client has to know it.
#[derive(Debug)]
pub struct EngineDescription {
    /// By which requests choose it.
    pub name: String,
    /// Of its cookie.
    pub cookie_name: String,
    /// How the cookie holds the token.
    pub cookie_format: CookieFormat,
    /// Whether cookies are persistent, unless a session says otherwise.
    pub persistent: bool,
    /// The idle timeout, unless a session has its own.
    pub duration: Duration,
    /// The absolute timeout; `None`: there is none.
    pub absolute_duration: Option<Duration>,
    /// How far ahead deadlines are stored.
    pub touch_granularity: Duration,
    /// Whether Resolve moves the deadline.
    pub automatic_touch: bool,
    /// Length of a session's data, in bytes.
    pub max_data_bytes: usize,
}

/// Describes a daemon with these engines.
pub fn describe(engines: &Engines) -> Description {
    Description {
        version: env!("CARGO_PKG_VERSION"),
        limits: Limits {
            max_cookie_header_bytes: MAX_HEADER_LEN,
            max_principal_bytes: Principal::MAX_LEN,
            max_label_bytes: Label::MAX_LEN,
            max_keys: MAX_KEYS,
            max_unset: MAX_UNSET,
            max_session_ids: MAX_IDS,
            max_duration: MAX_DURATION,
        },
        engines: engines.iter().map(|engine| described(engine)).collect(),
    }
}

fn described(engine: &Engine) -> EngineDescription {
    let Policy { cookie, lifetime, automatic_touch, max_data_bytes, .. } = engine.policy();
    EngineDescription {
        name: engine.name().to_owned(),
        cookie_name: cookie.name().to_owned(),
        cookie_format: cookie.format(),
        persistent: cookie.is_persistent(),
        duration: lifetime.duration,
        absolute_duration: lifetime.absolute,
        touch_granularity: lifetime.granularity.of(lifetime.duration),
        automatic_touch: *automatic_touch,
        max_data_bytes: *max_data_bytes,
    }
}
