//! Faults: the one table from what went wrong to what a gRPC caller sees.

use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::session::{error::Error, store::StoreErrorKind};

/// The domain of google.rpc.ErrorInfo.
const DOMAIN: &str = "sessiond";

/// How long a caller should wait before it tries a failed store again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The reason of google.rpc.ErrorInfo, which a program can act upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    InvalidArgument,
    InvalidData,
    DataTooLarge,
    MalformedMessage,
    MessageTooLarge,
    CompressionUnsupported,
    UnknownEngine,
    SessionGone,
    VersionMismatch,
    TooManySessions,
    TooManyWatchers,
    WatcherTooSlow,
    Overloaded,
    StoreFull,
    StoreUnavailable,
    RecordUnreadable,
    ShuttingDown,
    TokenRequired,
    TokenUnknown,
}

impl Reason {
    pub const ALL: [Reason; 19] = [
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
        Self::TokenRequired,
        Self::TokenUnknown,
    ];

    pub fn name(self) -> &'static str {
        self.entry().0
    }

    pub fn code(self) -> Code {
        self.entry().1
    }

    fn entry(self) -> (&'static str, Code) {
        match self {
            Self::InvalidArgument => ("INVALID_ARGUMENT", Code::InvalidArgument),
            Self::InvalidData => ("INVALID_DATA", Code::InvalidArgument),
            Self::DataTooLarge => ("DATA_TOO_LARGE", Code::InvalidArgument),
            Self::MalformedMessage => ("MALFORMED_MESSAGE", Code::InvalidArgument),
            Self::MessageTooLarge => ("MESSAGE_TOO_LARGE", Code::InvalidArgument),
            Self::CompressionUnsupported => ("COMPRESSION_UNSUPPORTED", Code::Unimplemented),
            Self::UnknownEngine => ("UNKNOWN_ENGINE", Code::InvalidArgument),
            Self::SessionGone => ("SESSION_GONE", Code::NotFound),
            Self::VersionMismatch => ("VERSION_MISMATCH", Code::Aborted),
            Self::TooManySessions => ("TOO_MANY_SESSIONS", Code::FailedPrecondition),
            Self::TooManyWatchers => ("TOO_MANY_WATCHERS", Code::ResourceExhausted),
            Self::WatcherTooSlow => ("WATCHER_TOO_SLOW", Code::ResourceExhausted),
            Self::Overloaded => ("OVERLOADED", Code::ResourceExhausted),
            Self::StoreFull => ("STORE_FULL", Code::ResourceExhausted),
            Self::StoreUnavailable => ("STORE_UNAVAILABLE", Code::Unavailable),
            Self::RecordUnreadable => ("RECORD_UNREADABLE", Code::DataLoss),
            Self::ShuttingDown => ("SHUTTING_DOWN", Code::Unavailable),
            Self::TokenRequired => ("TOKEN_REQUIRED", Code::Unauthenticated),
            Self::TokenUnknown => ("TOKEN_UNKNOWN", Code::Unauthenticated),
        }
    }
}

/// Why a call failed, as its caller may know it. Holds no secret, token or
/// session data.
#[derive(Debug)]
pub struct Fault {
    pub reason: Reason,
    message: String,
    /// The request's field at fault.
    field: Option<&'static str>,
    retry: bool,
}

impl Fault {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), field: None, retry: false }
    }

    pub fn at(reason: Reason, field: &'static str, message: impl Into<String>) -> Self {
        Self { field: Some(field), ..Self::new(reason, message) }
    }

    /// The same, of another field.
    pub fn with_field(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn into_status(self) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason.name(), DOMAIN, []);
        if let Some(field) = self.field {
            details.add_bad_request_violation(field, &self.message);
        }
        if self.retry {
            details.set_retry_info(Some(RETRY_DELAY));
        }
        Status::with_error_details(self.reason.code(), self.message, details)
    }

    /// The same as a message, for the answer within a pipeline.
    pub fn into_message(self) -> tonic_types::pb::Status {
        let status = self.into_status();
        tonic_types::pb::Status::decode(status.details()).unwrap_or_else(|_| {
            // Our own encoding was made a line above.
            tonic_types::pb::Status {
                code: status.code().into(),
                message: status.message().to_owned(),
                details: Vec::new(),
            }
        })
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
                let (reason, retry) = match error.kind {
                    StoreErrorKind::Unavailable => (Reason::StoreUnavailable, true),
                    StoreErrorKind::Overloaded => (Reason::Overloaded, true),
                    StoreErrorKind::Full => (Reason::StoreFull, false),
                    StoreErrorKind::Unreadable => (Reason::RecordUnreadable, false),
                };
                Self { retry, ..Self::new(reason, message) }
            }
        }
    }
}

/// What a caller is told whose own deadline has passed. It has no reason of ours.
pub fn late() -> Status {
    Status::deadline_exceeded("the deadline of the call has passed")
}

/// The fault behind a status that the transport made up before a service saw
/// the message; `None` when it is none of these.
pub fn of_transport(status: &Status) -> Option<Fault> {
    if !status.details().is_empty() {
        return None;
    }
    let reason = match status.code() {
        // tonic's codes for a message over the limit and for one it can not read.
        Code::OutOfRange => Reason::MessageTooLarge,
        Code::Internal => Reason::MalformedMessage,
        _ => return None,
    };
    Some(Fault::new(reason, status.message()))
}

/// Gives the answers that the transport made up itself their place in the table.
pub fn name_transport_faults(
    response: http::Response<tonic::body::Body>,
) -> http::Response<tonic::body::Body> {
    // Only an answer without a message has its status in the headers.
    if !response.headers().contains_key("grpc-status") {
        return response;
    }
    match Status::from_header_map(response.headers()).as_ref().and_then(of_transport) {
        Some(fault) => fault.into_status().into_http(),
        None => response,
    }
}
