//! The rules of an engine, checked.

use serde::{Deserialize, Serialize};

use super::{cookie::Cookie, lifetime::Lifetime, token::Keyring};

/// The rules of one engine.
#[derive(Debug)]
pub struct Policy {
    pub keyring: Keyring,
    pub cookie: Cookie,
    pub lifetime: Lifetime,
    /// Resolve moves the deadline.
    pub automatic_touch: bool,
    /// The most data of a session, in bytes of JSON text.
    pub max_data_bytes: usize,
    /// How many sessions a principal may have; `None`: any number.
    pub limit: Option<Limit>,
}

/// How many live sessions a principal may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub sessions: usize,
    pub on_limit: OnLimit,
}

/// What happens to a login that would exceed the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLimit {
    /// It is refused.
    RefuseNewest,
    /// It succeeds, and the sessions that were idle for longest end.
    EndIdlest,
}
