//! Faults: why a call failed, as its caller may know it.
//!
//! Each protocol has one table of its own from [`Reason`] to its codes; that of gRPC is
//! `grpc::status`.

use std::time::Duration;

use crate::session::{error::Error, store::StoreErrorKind};

/// How long a caller should wait before it asks again for what there was no room for.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long a caller should wait before it tries a failed store again. With the pauses between two
/// attempts to reach Redis, all goes on within a second after an outage.
const STORE_RETRY_DELAY: Duration = Duration::from_millis(250);

/// Why a call failed, for programs to act upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A field has a value that is not allowed. Nothing was done.
    InvalidArgument,
    /// The new data is not a JSON object, or has too many levels. Nothing was done.
    InvalidData,
    /// The data would exceed the engine's `max_data_bytes`. Nothing was done.
    DataTooLarge,
    /// The message cannot be decoded. It was refused before it was read.
    MalformedMessage,
    /// The message exceeds `limits.max_message_bytes`. It was refused before it was read.
    MessageTooLarge,
    /// The message is compressed. It was refused before it was read.
    CompressionUnsupported,
    /// No engine of that name is configured.
    UnknownEngine,
    /// The credential of a Write is not live. Nothing was done.
    SessionGone,
    /// Another Write came first (`if_version`). Nothing was done.
    VersionMismatch,
    /// The principal has as many sessions as the engine allows. Nothing was done.
    TooManySessions,
    /// `limits.max_watchers` streams are open already.
    TooManyWatchers,
    /// The watcher fell behind by more than `limits.watch_queue` events and was dropped.
    WatcherTooSlow,
    /// Too many operations wait for the store. An operation on several sessions may be done in
    /// part.
    Overloaded,
    /// The store has no room for creations and changes. Reading and ending sessions still works.
    StoreFull,
    /// The store failed. The operation may have taken effect.
    StoreUnavailable,
    /// The stored record is damaged. The log has the cause.
    RecordUnreadable,
    /// The daemon stops. The operation was not applied.
    ShuttingDown,
    /// The time is over that the caller has given.
    Timeout,
    /// The call has no bearer token, and the daemon asks for one.
    TokenRequired,
    /// The bearer token is not one that the daemon knows.
    TokenUnknown,
    /// The caller is known, and has not the role that the call needs.
    RoleRequired,
    /// What a reload would take over is wrong. Nothing has changed.
    ReloadRefused,
}

impl Reason {
    /// Every reason, for a counter of each that exists before its first failure.
    pub const ALL: [Reason; 22] = [
        Self::InvalidArgument,
        Self::InvalidData,
        Self::DataTooLarge,
        Self::MalformedMessage,
        Self::MessageTooLarge,
        Self::CompressionUnsupported,
        Self::UnknownEngine,
        Self::SessionGone,
        Self::VersionMismatch,
        Self::TooManySessions,
        Self::TooManyWatchers,
        Self::WatcherTooSlow,
        Self::Overloaded,
        Self::StoreFull,
        Self::StoreUnavailable,
        Self::RecordUnreadable,
        Self::ShuttingDown,
        Self::Timeout,
        Self::TokenRequired,
        Self::TokenUnknown,
        Self::RoleRequired,
        Self::ReloadRefused,
    ];

    /// The name that callers see, in every protocol and in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::InvalidData => "INVALID_DATA",
            Self::DataTooLarge => "DATA_TOO_LARGE",
            Self::MalformedMessage => "MALFORMED_MESSAGE",
            Self::MessageTooLarge => "MESSAGE_TOO_LARGE",
            Self::CompressionUnsupported => "COMPRESSION_UNSUPPORTED",
            Self::UnknownEngine => "UNKNOWN_ENGINE",
            Self::SessionGone => "SESSION_GONE",
            Self::VersionMismatch => "VERSION_MISMATCH",
            Self::TooManySessions => "TOO_MANY_SESSIONS",
            Self::TooManyWatchers => "TOO_MANY_WATCHERS",
            Self::WatcherTooSlow => "WATCHER_TOO_SLOW",
            Self::Overloaded => "OVERLOADED",
            Self::StoreFull => "STORE_FULL",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::RecordUnreadable => "RECORD_UNREADABLE",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::Timeout => "TIMEOUT",
            Self::TokenRequired => "TOKEN_REQUIRED",
            Self::TokenUnknown => "TOKEN_UNKNOWN",
            Self::RoleRequired => "ROLE_REQUIRED",
            Self::ReloadRefused => "RELOAD_REFUSED",
        }
    }

    /// How long to wait before the same call to the same daemon is worth repeating.
    /// `None`: waiting alone does not help.
    pub fn retry_delay(self) -> Option<Duration> {
        match self {
            Self::Overloaded => Some(RETRY_DELAY),
            Self::StoreUnavailable => Some(STORE_RETRY_DELAY),
            Self::InvalidArgument
            | Self::InvalidData
            | Self::DataTooLarge
            | Self::MalformedMessage
            | Self::MessageTooLarge
            | Self::CompressionUnsupported
            | Self::UnknownEngine
            | Self::SessionGone
            | Self::VersionMismatch
            | Self::TooManySessions
            | Self::TooManyWatchers
            | Self::WatcherTooSlow
            | Self::StoreFull
            | Self::RecordUnreadable
            | Self::ShuttingDown
            | Self::Timeout
            | Self::TokenRequired
            | Self::TokenUnknown
            | Self::RoleRequired
            | Self::ReloadRefused => None,
        }
    }

    /// Whether the store is why.
    pub(super) fn is_of_store(self) -> bool {
        use Reason::{Overloaded, RecordUnreadable, StoreFull, StoreUnavailable};
        matches!(self, Overloaded | RecordUnreadable | StoreFull | StoreUnavailable)
    }

    /// Whether an operation on one session that failed for this reason may have changed
    /// something all the same.
    fn applied(self) -> Applied {
        match self {
            Self::StoreUnavailable | Self::Timeout => Applied::Unknown,
            Self::InvalidArgument
            | Self::InvalidData
            | Self::DataTooLarge
            | Self::MalformedMessage
            | Self::MessageTooLarge
            | Self::CompressionUnsupported
            | Self::UnknownEngine
            | Self::SessionGone
            | Self::VersionMismatch
            | Self::TooManySessions
            | Self::TooManyWatchers
            | Self::WatcherTooSlow
            | Self::Overloaded
            | Self::StoreFull
            | Self::RecordUnreadable
            | Self::ShuttingDown
            | Self::TokenRequired
            | Self::TokenUnknown
            | Self::RoleRequired
            | Self::ReloadRefused => Applied::No,
        }
    }
}

/// Whether a call that failed may have changed something all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It has changed nothing.
    No,
    /// It may have.
    Unknown,
}

impl Applied {
    /// The word that callers see, in every protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a call failed, as its caller may know it. Holds no secret, token or session data.
#[derive(Debug)]
pub struct Fault {
    /// Decides the code that a protocol answers.
    pub reason: Reason,
    /// For the caller's log: what happened, what was expected, what to do.
    pub message: String,
    /// The field of the request that is at fault.
    pub field: Option<&'static str>,
    /// Whether the call may have changed something all the same.
    pub applied: Applied,
}

impl Fault {
    /// A fault of the whole request.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), field: None, applied: reason.applied() }
    }

    /// A fault of one field of the request.
    pub fn at(reason: Reason, field: &'static str, message: impl Into<String>) -> Self {
        Self { field: Some(field), ..Self::new(reason, message) }
    }

    /// The same fault, of a call that may have changed something, or has not.
    pub fn with_applied(self, applied: Applied) -> Self {
        Self { applied, ..self }
    }

    /// The same fault, at another field.
    pub fn with_field(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::SessionGone => Self::new(Reason::SessionGone, message),
            Error::VersionMismatch { .. } => {
                Self::at(Reason::VersionMismatch, "if_version", message)
            }
            Error::TooManySessions { .. } => {
                Self::at(Reason::TooManySessions, "principal", message)
            }
            Error::InvalidData(_) => Self::at(Reason::InvalidData, "set", message),
            Error::DataTooLarge { .. } => Self::at(Reason::DataTooLarge, "set", message),
            Error::InvalidArgument { field, .. } => {
                Self::at(Reason::InvalidArgument, field, message)
            }
            Error::Store(error) => {
                let reason = match error.kind {
                    StoreErrorKind::Unavailable => Reason::StoreUnavailable,
                    StoreErrorKind::Overloaded => Reason::Overloaded,
                    StoreErrorKind::Full => Reason::StoreFull,
                    StoreErrorKind::Unreadable => Reason::RecordUnreadable,
                };
                Self::new(reason, message)
            }
        }
    }
}
