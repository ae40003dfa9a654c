//! What the service tells whoever keeps the metrics.

use std::time::Duration;

use super::fault::Reason;
use crate::session::credential::Absence;

/// The operations, as they are counted. One within a pipeline counts as its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// Also one that creates or adopts a session.
    Resolve,
    /// A Touch of its own. The touch within a Resolve is not counted.
    Touch,
    /// Also one that creates a session.
    Write,
    /// Of any scope, counted once.
    Destroy,
    /// Of one's own sessions, a page of them.
    ListSessions,
}

impl OperationKind {
    /// Every kind, for a counter of each that exists before its first operation.
    pub const ALL: [Self; 5] =
        [Self::Resolve, Self::Touch, Self::Write, Self::Destroy, Self::ListSessions];

    /// The name in every protocol and in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resolve => "Resolve",
            Self::Touch => "Touch",
            Self::Write => "Write",
            Self::Destroy => "Destroy",
            Self::ListSessions => "ListSessions",
        }
    }
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The session is live; after a Destroy: it was live until now.
    Active,
    /// A session was created, by a Write or by a Resolve with `create`.
    Created,
    /// No live session. This is not a failure.
    Absent(Absence),
    /// The caller got an error.
    Failed(Reason),
}

/// Is told of every operation that has ended.
pub trait Observer: Send + Sync + 'static {
    /// `elapsed` is 0 for an operation that was answered from memory: no clock is read
    /// for it.
    fn finished(&self, kind: OperationKind, outcome: Outcome, elapsed: Duration);
}
