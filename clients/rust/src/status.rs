//! Errors of statuses: those of the daemon, and those that the gRPC library makes.

use std::{error::Error as _, time::Duration};

use tonic::{Code, Status};
use tonic_types::{RpcStatusExt, pb::Status as StatusMessage};

use crate::error::{Applied, Error, Reason};

/// The error of an operation that the Pipeline answered with one. `uncertain`: it was sent
/// before, with an unknown outcome.
pub(crate) fn answered(status: &StatusMessage, uncertain: bool) -> Error {
    let error = told(status).unwrap_or_else(|| {
        let code = Code::from_i32(status.code);
        let reason = by_code(code).unwrap_or(Reason::ProtocolError);
        Error::new(reason, code, applied_by_code(code), said(&status.message, code))
    });
    // After a repetition these can be the effect of the first attempt.
    if uncertain && matches!(error, Error::VersionMismatch(_) | Error::SessionGone(_)) {
        return error.with_applied(Applied::Unknown).not_retryable();
    }
    error
}

/// The error of a call, or of the stream as a whole.
pub(crate) fn called(status: &Status, address: &str) -> Error {
    let message = StatusMessage {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: details(status),
    };
    if let Some(error) = told(&message) {
        return error;
    }
    let code = status.code();
    // The library has put its own error behind the status, or the stream has ended in the
    // middle of a message: the connection was cut.
    let is_cut = status.source().is_some() || status.message().contains("Unexpected EOF");
    let is_ours = !status.message().contains("grpc-status");
    match code {
        _ if is_cut => {
            unreachable(address, &status.source().map_or(status.message().to_owned(), causes))
        }
        Code::Unimplemented if is_ours => Error::new(
            Reason::DaemonTooOld,
            code,
            Applied::No,
            format!(
                "the daemon at {address} does not know Describe: it is older than this client ({}), \
                 or this is an address of listen.admin; update the daemon, or use an address of \
                 listen.grpc",
                env!("CARGO_PKG_VERSION"),
            ),
        ),
        // Unknown: the stream has ended without a status, because it was reset.
        Code::Unavailable | Code::Cancelled | Code::Unknown => {
            unreachable(address, status.message())
        }
        _ => match by_code(code) {
            Some(reason) if is_ours => {
                Error::new(reason, code, applied_by_code(code), said(status.message(), code))
            }
            _ => protocol(address, status.message()),
        },
    }
}

pub(crate) fn protocol(address: &str, what: &str) -> Error {
    Error::new(
        Reason::ProtocolError,
        Code::Internal,
        Applied::Unknown,
        format!("the server at {address} does not speak the protocol of sessiond: {what}"),
    )
}

pub(crate) fn unreachable(address: &str, why: &str) -> Error {
    Error::new(
        Reason::ConnectionFailed,
        Code::Unavailable,
        Applied::Unknown,
        format!("the daemon at {address} cannot be reached: {why}"),
    )
    .with_retry_after(Some(Duration::from_secs(1)))
}

/// An error and what is behind it, on one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        texts.push(cause.to_string());
        next = cause.source();
    }
    texts.dedup();
    texts.join(": ")
}

/// What the daemon says with ErrorInfo.
fn told(status: &StatusMessage) -> Option<Error> {
    let info = status.get_details_error_info().filter(|info| info.domain == "sessiond")?;
    let code = Code::from_i32(status.code);
    let applied = match info.metadata.get("applied").map(String::as_str) {
        Some("no") => Applied::No,
        Some("unknown") => Applied::Unknown,
        _ => applied_by_code(code),
    };
    let reason = Reason::from_name(&info.reason).unwrap_or(Reason::Unrecognized);
    let message = match reason {
        Reason::Unrecognized => format!("{}: {}", info.reason, status.message),
        _ => said(&status.message, code),
    };
    let mut error = Error::new(reason, code, applied, message);
    if let Some(retry) = status.get_details_retry_info() {
        error = error.with_retry_after(retry.retry_delay);
    }
    let bad = status.get_details_bad_request();
    if let Some(violation) = bad.and_then(|bad| bad.field_violations.into_iter().next()) {
        error = error.with_field(violation.field);
    }
    Some(error)
}

fn details(status: &Status) -> Vec<prost_types::Any> {
    use prost::Message;
    StatusMessage::decode(status.details()).map(|status| status.details).unwrap_or_default()
}

fn said(message: &str, code: Code) -> String {
    if message.is_empty() { format!("the daemon answered {code:?}") } else { message.to_owned() }
}

/// Without a reason, the code says what can be said.
fn by_code(code: Code) -> Option<Reason> {
    Some(match code {
        Code::InvalidArgument => Reason::InvalidArgument,
        Code::DeadlineExceeded => Reason::Timeout,
        Code::ResourceExhausted => Reason::Overloaded,
        Code::Unavailable | Code::Cancelled => Reason::ConnectionFailed,
        Code::Unauthenticated => Reason::TokenUnknown,
        _ => return None,
    })
}

/// These refuse an operation before anything is done.
fn applied_by_code(code: Code) -> Applied {
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::Aborted
        | Code::FailedPrecondition
        | Code::Unauthenticated
        | Code::Unimplemented => Applied::No,
        _ => Applied::Unknown,
    }
}
