//! What a daemon tells whoever supervises it.

use std::{fmt::Display, sync::Arc, time::Duration};

/// What the daemon does from now on.
#[derive(Clone, Copy)]
pub enum Phase<'a> {
    /// It serves everything.
    Serving,
    /// It serves what reads, and says why no more.
    OnlyReads(&'a dyn Display),
    /// It serves nothing that needs the store, and says why.
    NotServing(&'a dyn Display),
    /// It reloads.
    Reloading,
    /// The reload is over. The phase before it goes on.
    Reloaded,
    /// The same, and the reload was refused.
    ReloadRefused(&'a dyn Display),
    /// It will stop after this time, and says so to those who ask for its health.
    Draining(Duration),
    /// It takes no more connections and finishes what is in flight.
    Stopping,
}

/// Hears each phase when it begins. May be called on any thread.
pub(super) type Supervisor = Arc<dyn Fn(Phase<'_>) + Send + Sync>;
