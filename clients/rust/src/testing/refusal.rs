//! Errors as the daemon answers them.

use std::{collections::HashMap, time::Duration};

use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt, pb::Status};

use crate::error::Reason;

/// Why the fake refuses an operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    field: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(reason: Reason) -> Self {
        Self { reason, field: None }
    }

    /// The field that is at fault.
    pub(super) fn of(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }

    pub(super) fn is_known(self) -> bool {
        self.told().is_some()
    }

    /// Code, whether it may have been applied, whether there is a RetryInfo.
    fn told(self) -> Option<(Code, &'static str, bool)> {
        Some(match self.reason {
            Reason::InvalidArgument
            | Reason::InvalidData
            | Reason::DataTooLarge
            | Reason::UnknownEngine
            | Reason::MalformedMessage
            | Reason::MessageTooLarge => (Code::InvalidArgument, "no", false),
            Reason::CompressionUnsupported => (Code::Unimplemented, "no", false),
            Reason::SessionGone => (Code::NotFound, "no", false),
            Reason::VersionMismatch => (Code::Aborted, "no", false),
            Reason::TooManySessions => (Code::FailedPrecondition, "no", false),
            Reason::Overloaded => (Code::ResourceExhausted, "no", true),
            Reason::StoreFull => (Code::ResourceExhausted, "no", false),
            Reason::StoreUnavailable => (Code::Unavailable, "unknown", true),
            Reason::ShuttingDown => (Code::Unavailable, "no", true),
            Reason::RecordUnreadable => (Code::DataLoss, "no", false),
            Reason::TokenRequired | Reason::TokenUnknown => (Code::Unauthenticated, "no", false),
            Reason::RoleRequired => (Code::PermissionDenied, "no", false),
            Reason::Timeout => (Code::DeadlineExceeded, "unknown", false),
            // The client's own, which a test may want to see.
            Reason::ConnectionFailed => (Code::Unavailable, "unknown", true),
            Reason::InFlightLimit
            | Reason::Closed
            | Reason::ProtocolError
            | Reason::DaemonTooOld
            | Reason::Superseded
            | Reason::HeadSent
            | Reason::NoSessionLayer
            | Reason::Unrecognized => return None,
        })
    }

    pub(super) fn status(self) -> Status {
        let (code, applied, has_retry) = self.told().unwrap_or((Code::Internal, "unknown", false));
        let metadata = HashMap::from([("applied".to_owned(), applied.to_owned())]);
        let mut details = ErrorDetails::with_error_info(self.reason.as_str(), "sessiond", metadata);
        if has_retry {
            details.set_retry_info(Some(Duration::from_secs(1)));
        }
        if let Some(field) = self.field {
            details.add_bad_request_violation(field, "not allowed");
        }
        let message = format!("the fake answers {}", self.reason);
        let status = tonic::Status::with_error_details(code, message, details);
        prost::Message::decode(status.details()).unwrap_or_default()
    }
}
