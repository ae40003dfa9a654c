//! Statuses: how gRPC tells a [`Fault`].

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::service::fault::{Applied, Fault, Reason};

/// The domain of google.rpc.ErrorInfo.
const DOMAIN: &str = "sessiond";
/// The key of its metadata that says whether the call may have changed something all the same.
const APPLIED: &str = "applied";

/// The gRPC code of a reason: the one table of them.
pub fn code(reason: Reason) -> Code {
    match reason {
        Reason::InvalidArgument => Code::InvalidArgument,
        Reason::InvalidData => Code::InvalidArgument,
        Reason::DataTooLarge => Code::InvalidArgument,
        Reason::MalformedMessage => Code::InvalidArgument,
        Reason::MessageTooLarge => Code::InvalidArgument,
        Reason::CompressionUnsupported => Code::Unimplemented,
        Reason::UnknownEngine => Code::InvalidArgument,
        Reason::SessionGone => Code::NotFound,
        Reason::VersionMismatch => Code::Aborted,
        Reason::TooManySessions => Code::FailedPrecondition,
        Reason::TooManyWatchers => Code::ResourceExhausted,
        Reason::WatcherTooSlow => Code::ResourceExhausted,
        Reason::Overloaded => Code::ResourceExhausted,
        Reason::StoreFull => Code::ResourceExhausted,
        Reason::StoreUnavailable => Code::Unavailable,
        Reason::RecordUnreadable => Code::DataLoss,
        Reason::ShuttingDown => Code::Unavailable,
        Reason::Timeout => Code::DeadlineExceeded,
        Reason::TokenRequired => Code::Unauthenticated,
        Reason::TokenUnknown => Code::Unauthenticated,
        Reason::RoleRequired => Code::PermissionDenied,
        Reason::ReloadRefused => Code::FailedPrecondition,
    }
}

impl From<Fault> for Status {
    fn from(Fault { reason, message, field, applied }: Fault) -> Self {
        let mut details = ErrorDetails::new();
        let metadata = [(APPLIED.to_owned(), applied.name().to_owned())];
        details.set_error_info(reason.name(), DOMAIN, metadata);
        if let Some(field) = field {
            details.add_bad_request_violation(field, &message);
        }
        if let Some(delay) = reason.retry_delay() {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(code(reason), message, details)
    }
}

/// The status as a message, for the answer within a pipeline.
impl From<Fault> for tonic_types::pb::Status {
    fn from(fault: Fault) -> Self {
        let status = Status::from(fault);
        // Our own encoding was made a line above, so decoding it does not fail.
        Self::decode(status.details()).unwrap_or_else(|_| Self {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: Vec::new(),
        })
    }
}

/// For a call whose own deadline has passed.
pub fn late() -> Status {
    Fault::new(Reason::Timeout, "the deadline of the call has passed").into()
}

/// For a call whose peer has begun a message and does not send the rest of it.
pub(super) fn stalled() -> Status {
    let message = "the message did not come within limits.stall_timeout";
    Fault::new(Reason::Timeout, message).with_applied(Applied::No).into()
}

/// For a stream that ends although its call is not over: the daemon stops, or the connection
/// has reached limits.max_connection_age.
pub(super) fn closing() -> Status {
    let message = "the connection is closing; open another one and call again";
    Fault::new(Reason::ShuttingDown, message).into()
}

/// The fault behind a status that the transport made before a service saw the message;
/// `None` if it is another status.
fn of_transport(status: &Status) -> Option<Fault> {
    if !status.details().is_empty() {
        return None;
    }
    let reason = match status.code() {
        // tonic's codes for a message over the limit and for one it cannot read.
        Code::OutOfRange => Reason::MessageTooLarge,
        Code::Internal => Reason::MalformedMessage,
        _ => return None,
    };
    Some(Fault::new(reason, status.message()))
}

/// Gives a reason to the answers that the transport made itself. `unserved` is said to callers
/// of a service or method that is not served here.
pub fn name_transport_faults(
    response: http::Response<tonic::body::Body>,
    unserved: &str,
) -> http::Response<tonic::body::Body> {
    // Only an answer without a message has its status in the headers.
    if !response.headers().contains_key("grpc-status") {
        return response;
    }
    let status = Status::from_header_map(response.headers());
    match status.as_ref().and_then(of_transport) {
        Some(fault) => Status::from(fault).into_http(),
        // tonic's router says nothing.
        None if status.is_some_and(|status| {
            status.code() == Code::Unimplemented && status.message().is_empty()
        }) =>
        {
            Status::unimplemented(unserved).into_http()
        }
        None => response,
    }
}
