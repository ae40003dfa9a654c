//! The spans of calls, with the names of OpenTelemetry's semantic conventions for RPC.
//!
//! A unary call is one span. A Pipeline is a stream without end, so each of its operations is a
//! span: a trace of its own, with a link to the span that opened the stream. The API has no place
//! for a `traceparent` of an operation.
//!
//! Of a session, a span has the public id. It never has a token, a principal or data.

use std::{borrow::Cow, future::Future, sync::Arc, time::Duration};

use http::{HeaderMap, Uri};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{peer::Peer, status};
use crate::{
    service::{
        access::Remote,
        answer::Answer,
        fault::{Fault, Reason},
        observer::OperationKind,
    },
    session::{Lookup, id::PublicId},
    trace::{self, Context, Kind, Span, Tracer, Within},
};

const TRACEPARENT: &str = "traceparent";
/// The rest of a longer name of the server is left out. DNS has no longer ones.
const MAX_NAME_LEN: usize = 255;

/// Whether calls are traced.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Tracer>>);

impl Traces {
    /// Calls are traced by `tracer`.
    pub fn by(tracer: Arc<Tracer>) -> Self {
        Self(Some(tracer))
    }

    /// The span of a call, which has `timeout` to answer.
    #[inline]
    pub fn call(
        &self,
        headers: &HeaderMap,
        uri: &Uri,
        peer: &Peer,
        timeout: Option<Duration>,
    ) -> CallSpan {
        let Some(tracer) = &self.0 else { return CallSpan::default() };
        let name = || Cow::Owned(method_of(uri).to_owned());
        let Some(mut span) = tracer.begin(parent(headers), Kind::Server, name) else {
            return CallSpan::default();
        };
        describe(&mut span, peer.origin.remote, uri);
        CallSpan::new(span, method_of(uri), timeout)
    }

    /// For the operations of a Pipeline.
    pub fn stream(&self, headers: &HeaderMap, uri: &Uri, peer: &Peer) -> StreamTraces {
        StreamTraces(self.0.as_ref().map(|tracer| {
            let (remote, uri) = (peer.origin.remote, uri.clone());
            Box::new(Stream { tracer: Arc::clone(tracer), opened: parent(headers), remote, uri })
        }))
    }
}

fn parent(headers: &HeaderMap) -> Option<Context> {
    Context::parse(headers.get(TRACEPARENT)?.as_bytes())
}

fn method_of(uri: &Uri) -> &str {
    uri.path().trim_start_matches('/')
}

fn describe(span: &mut Span, remote: Remote, uri: &Uri) {
    span.set("rpc.system.name", "grpc");
    if let Some(authority) = uri.authority() {
        let name: String = authority.host().chars().take(MAX_NAME_LEN).collect();
        span.set("server.address", name);
        if let Some(port) = authority.port_u16() {
            span.set("server.port", port);
        }
    }
    match remote {
        Remote::Tcp(address) => {
            span.set("network.transport", "tcp");
            span.set("network.peer.address", address.ip().to_string());
            span.set("network.peer.port", address.port());
        }
        Remote::Unix { .. } => span.set("network.transport", "unix"),
        Remote::Unknown => {}
    }
}

/// Whether the operations of a Pipeline are traced.
#[derive(Default)]
pub struct StreamTraces(Option<Box<Stream>>);

struct Stream {
    tracer: Arc<Tracer>,
    /// The span that opened the stream.
    opened: Option<Context>,
    remote: Remote,
    uri: Uri,
}

impl StreamTraces {
    /// The span of an operation.
    #[inline]
    pub(super) fn operation(&self, kind: OperationKind, timeout: Option<Duration>) -> CallSpan {
        let Some(stream) = &self.0 else { return CallSpan::default() };
        let name = || Cow::Owned(format!("{} {}", method_of(&stream.uri), kind.name()));
        match stream.tracer.begin(None, Kind::Server, name) {
            None => CallSpan::default(),
            Some(span) => stream.describe(span, kind, timeout),
        }
    }
}

impl Stream {
    #[cold]
    fn describe(&self, mut span: Span, kind: OperationKind, timeout: Option<Duration>) -> CallSpan {
        describe(&mut span, self.remote, &self.uri);
        span.set("sessiond.operation", kind.name());
        if let Some(opened) = self.opened {
            span.link(opened);
        }
        CallSpan::new(span, method_of(&self.uri), timeout)
    }
}

/// The span of a call, or of an operation of a Pipeline. Most are not recorded, and then this is
/// nothing.
#[derive(Default)]
pub struct CallSpan(Option<Box<Open>>);

struct Open {
    span: Span,
    method: String,
    timeout: Option<Duration>,
    has_ended: bool,
}

impl CallSpan {
    #[cold]
    fn new(span: Span, method: &str, timeout: Option<Duration>) -> Self {
        let method = method.to_owned();
        Self(Some(Box::new(Open { span, method, timeout, has_ended: false })))
    }

    /// What runs there is below this span.
    pub(super) fn within<F: Future>(&self, work: F) -> Within<F> {
        trace::within(self.0.as_ref().map(|open| &open.span), work)
    }

    /// How an operation has ended.
    pub(super) fn end(&mut self, outcome: Result<&Answer, &Fault>) {
        if let Some(open) = &mut self.0 {
            match outcome {
                Ok(answer) => open.answered(answer),
                Err(fault) => open.end(status::code(fault.reason), Some(fault.reason.name())),
            }
        }
    }

    /// How a call that tonic answers has ended. A stream has not failed at its beginning.
    pub(super) fn end_by_head(&mut self, headers: &HeaderMap) {
        if self.0.is_some() {
            let status = Status::from_header_map(headers);
            self.end_call(status.as_ref().map_or(Ok(()), Err));
        }
    }

    /// How a call has ended, unless that is said already.
    pub(super) fn end_call(&mut self, outcome: Result<(), &Status>) {
        if let Some(open) = self.0.as_mut().filter(|open| !open.has_ended) {
            match outcome {
                Ok(()) => open.end(Code::Ok, None),
                Err(status) => open.refused(status),
            }
        }
    }
}

impl Open {
    #[cold]
    fn answered(&mut self, answer: &Answer) {
        let id = match answer {
            Answer::Resolve(Lookup::Live(live)) | Answer::Touch(Lookup::Live(live)) => {
                Some(live.session.id)
            }
            Answer::Resolve(Lookup::Absent(_)) | Answer::Touch(Lookup::Absent(_)) => None,
            Answer::Write(live) => Some(live.session.id),
            Answer::Destroy(destroyed) => {
                self.span.set("sessiond.destroyed", destroyed.count);
                None
            }
        };
        self.span.set("sessiond.state", answer.outcome().name());
        if let Some(id) = id {
            self.set_session(id);
        }
        self.end(Code::Ok, None);
    }

    fn set_session(&mut self, id: PublicId) {
        self.span.set("sessiond.session.id", id.to_string());
    }

    #[cold]
    fn refused(&mut self, status: &Status) {
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.as_str());
        let reason = Reason::ALL.into_iter().map(Reason::name).find(|name| Some(*name) == reason);
        // A name that a caller made up is none of a few.
        if status.code() == Code::Unimplemented && reason.is_none() {
            self.method = "_OTHER".to_owned();
            self.span.rename("_OTHER");
        }
        self.end(status.code(), reason);
    }

    #[cold]
    fn end(&mut self, code: Code, reason: Option<&'static str>) {
        self.has_ended = true;
        self.span.set("rpc.method", std::mem::take(&mut self.method));
        self.span.set("rpc.response.status_code", name(code));
        if let Some(reason) = reason {
            self.span.set("sessiond.reason", reason);
        }
        if is_error_of_server(code) {
            self.span.fail(name(code));
        }
    }
}

impl Drop for Open {
    /// Its caller has gone, or its time is over.
    fn drop(&mut self) {
        if !self.has_ended {
            let is_late = self.timeout.is_some_and(|timeout| self.span.elapsed() >= timeout);
            let code = if is_late { Code::DeadlineExceeded } else { Code::Cancelled };
            self.end(code, is_late.then(|| Reason::Timeout.name()));
        }
    }
}

/// The conventions for gRPC: other codes are the fault of the caller.
fn is_error_of_server(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// As gRPC writes it in its documents.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
