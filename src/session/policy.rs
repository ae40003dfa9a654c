//! The policy of an engine, after its configuration was checked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{cookie::Cookie, lifetime::Lifetime, token::Keyring};

/// The rules of one engine.
#[derive(Debug)]
pub struct Policy {
    /// Signs and verifies the ids.
    pub keyring: Keyring,
    /// How the browser keeps the token.
    pub cookie: Cookie,
    /// Timeouts, and how often deadlines move.
    pub lifetime: Lifetime,
    /// Whether Resolve moves the deadline.
    pub automatic_touch: bool,
    /// How long after a roll the id from before it can still end the session, and keeps a
    /// Resolve with `create` from making another one. Requests that were sent before the
    /// browser had the new id come within this time.
    pub roll_grace: Duration,
    /// The maximum size of a session's data, in bytes of JSON text.
    pub max_data_bytes: usize,
    /// The limit on the sessions of a principal; `None`: no limit.
    pub limit: Option<Limit>,
}

/// A limit on the live sessions of a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The most live sessions of one principal. At least 1.
    pub sessions: usize,
    /// What happens to a login above that.
    pub on_limit: OnLimit,
}

/// What happens to a login that would exceed the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLimit {
    /// The login is refused.
    RefuseNewest,
    /// The login succeeds, and the sessions that were idle for the longest time end.
    EndIdlest,
}
