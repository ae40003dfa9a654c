//! What this room tells whoever keeps the metrics.

use std::time::Duration;

use super::fault::Reason;
use crate::session::credential::Absence;

/// The operations, as they are counted. One within a pipeline counts as its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rpc {
    Resolve,
    Touch,
    Write,
    Destroy,
}

impl Rpc {
    pub const ALL: [Rpc; 4] = [Self::Resolve, Self::Touch, Self::Write, Self::Destroy];
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The session is live; of a Destroy: was until now.
    Active,
    Created,
    Absent(Absence),
    Failed(Reason),
}

/// Is told of every operation that has ended.
pub trait Observer: Send + Sync + 'static {
    /// What was answered from memory has taken no time: reading a clock would cost
    /// a tenth of it.
    fn finished(&self, rpc: Rpc, outcome: Outcome, elapsed: Duration);
}
