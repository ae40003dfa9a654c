//! What the service tells whoever keeps the metrics.

use std::time::Duration;

use super::fault::Reason;
use crate::session::{credential::Absence, engine::Engine};

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

impl Outcome {
    /// The state as the contract names it, or the reason of the error.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Created => "CREATED",
            Self::Absent(Absence::None) => "NONE",
            Self::Absent(Absence::Invalid) => "INVALID",
            Self::Absent(Absence::NotFound) => "NOT_FOUND",
            Self::Absent(Absence::Superseded | Absence::JustSuperseded) => "SUPERSEDED",
            Self::Absent(Absence::Expired) => "EXPIRED",
            Self::Failed(reason) => reason.name(),
        }
    }
}

/// What is observed.
#[derive(Clone, Copy)]
pub struct Subject<'s> {
    /// What the caller asked for.
    pub kind: OperationKind,
    /// Whose sessions it is about. `None`: the request names no engine that there is.
    pub engine: Option<&'s Engine>,
}

/// Is told of operations.
pub trait Observer: Send + Sync + 'static {
    /// An operation has ended. `elapsed`: how long it took since its message had come, also
    /// from memory.
    fn finished(&self, subject: Subject<'_>, outcome: Outcome, elapsed: Duration);

    /// An operation begins that cannot be answered from memory.
    fn begun(&self, subject: Subject<'_>) {
        let _ = subject;
    }

    /// Such an operation has ended, or its caller has gone.
    fn ended(&self, subject: Subject<'_>) {
        let _ = subject;
    }
}

/// An operation in flight, until this is dropped.
pub(super) struct InFlight<'o> {
    subject: Subject<'o>,
    observer: &'o dyn Observer,
}

impl<'o> InFlight<'o> {
    pub(super) fn begin(subject: Subject<'o>, observer: &'o dyn Observer) -> Self {
        observer.begun(subject);
        Self { subject, observer }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.observer.ended(self.subject);
    }
}
