//! How a daemon is, as it tells its operators.

use crate::session::clock::WallTime;

/// What the daemon can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Everything.
    Serving,
    /// Sessions are resolved. The store takes no changes, for this reason.
    Reading(String),
    /// Nothing: the store fails, for this reason.
    NotServing(String),
    /// It stops, and finishes what it has begun.
    Stopping,
}

/// How a daemon is.
#[derive(Debug, Clone)]
pub struct Status {
    /// The version of the daemon.
    pub version: &'static str,
    /// When it was started.
    pub start_time: WallTime,
    /// When this was found.
    pub time: WallTime,
    /// What it can do.
    pub state: State,
    /// The kind of its store, as in the configuration.
    pub store: &'static str,
    /// In the order of their names.
    pub engines: Vec<EngineStatus>,
    /// Where it listens.
    pub listeners: Vec<ListenerStatus>,
    /// Its metrics, in the text format of OpenMetrics.
    pub metrics: String,
}

/// An engine of a daemon.
#[derive(Debug, Clone)]
pub struct EngineStatus {
    /// Its name in the configuration.
    pub name: String,
    /// How many sessions it has stored, expired ones included. `None`: the store does not know.
    pub stored: Option<u64>,
}

/// Where a daemon listens.
#[derive(Debug, Clone)]
pub struct ListenerStatus {
    /// The key in the configuration.
    pub kind: &'static str,
    /// With the real port.
    pub address: String,
}

/// Finds out how the daemon is.
pub trait StatusSource: Send + Sync + 'static {
    /// How it is now.
    fn status(&self) -> Status;
}
