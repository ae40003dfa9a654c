//! `sessiond.v1.SessionService`, straight from HTTP/2.
//!
//! tonic serves all other calls. These ones are most of what a daemon does, and what tonic
//! puts round a message costs as much as the operation itself: a router, boxed bodies,
//! buffers of 8 KiB, a message of its own for each answer. The protocol is that of gRPC
//! over HTTP/2: messages in, messages out ([`messages`](super::messages)), and the status
//! in the trailers.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use tonic::Status;

use super::{
    answer,
    convert::{self, GrpcOperation},
    fields,
    messages::{self, Messages},
    pb::{self, SessionServiceMethod},
    peer::{Peer, RequestBody},
    pipeline::Pipeline,
    spans::{CallSpan, StreamTraces},
    trailers,
};
use crate::{
    service::{
        description,
        engines::Engines,
        observer::{Observer, OperationKind},
        operation::{self, Destroy, Resolve, Touch, Write},
        own,
    },
    timing::Stopwatch,
};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// The service, over the engines of a daemon.
pub struct SessionService {
    /// The engines that requests may name.
    pub engines: Engines,
    /// Is told how each operation ended, those of a pipeline included.
    pub observer: Arc<dyn Observer>,
    /// Larger messages are refused before they are read. In bytes, without the frame's header.
    pub max_message_bytes: usize,
    /// Operations of one pipeline in flight.
    pub pipeline_in_flight: usize,
}

/// A call of the service.
#[derive(Debug, Clone, Copy)]
pub enum Call {
    /// One request and one answer.
    Unary(UnaryCall),
    /// A stream of operations. It is not counted itself; its operations are.
    Pipeline,
}

/// A call with one request and one answer.
#[derive(Debug, Clone, Copy)]
pub enum UnaryCall {
    /// It asks the store. The kind is what the metrics count.
    Operation(OperationKind),
    /// What the daemon is.
    Describe,
}

impl SessionService {
    /// The call that is made with this path; `None`: it is not one of this service.
    pub fn find(path: &str) -> Option<Call> {
        let operation = |kind| Call::Unary(UnaryCall::Operation(kind));
        Some(match SessionServiceMethod::from_path(path)? {
            SessionServiceMethod::Resolve => operation(OperationKind::Resolve),
            SessionServiceMethod::Touch => operation(OperationKind::Touch),
            SessionServiceMethod::Write => operation(OperationKind::Write),
            SessionServiceMethod::Destroy => operation(OperationKind::Destroy),
            SessionServiceMethod::ListSessions => operation(OperationKind::ListSessions),
            SessionServiceMethod::Describe => Call::Unary(UnaryCall::Describe),
            SessionServiceMethod::Pipeline => Call::Pipeline,
        })
    }

    /// Answers a unary call.
    pub async fn unary<B: RequestBody>(
        &self,
        call: UnaryCall,
        body: B,
        peer: &Peer,
        mut span: CallSpan,
    ) -> Response<Unary> {
        let outcome = match call {
            UnaryCall::Operation(kind) => match kind {
                OperationKind::Resolve => self.run::<Resolve, B>(body, peer, &mut span).await,
                OperationKind::Touch => self.run::<Touch, B>(body, peer, &mut span).await,
                OperationKind::Write => self.run::<Write, B>(body, peer, &mut span).await,
                OperationKind::Destroy => self.run::<Destroy, B>(body, peer, &mut span).await,
                // Boxed, because the future of a call is as large as its largest part.
                OperationKind::ListSessions => {
                    Box::pin(span.within(self.list_sessions(body, peer))).await
                }
            },
            UnaryCall::Describe => Box::pin(self.describe(body, peer)).await,
        };
        span.end_call(outcome.as_ref().map(|_| ()));
        outcome.map_or_else(Status::into_http, |message| begun(Unary::of(message)))
    }

    async fn list_sessions<B: RequestBody>(&self, body: B, peer: &Peer) -> Result<Bytes, Status> {
        let message = Messages::new(body, self.max_message_bytes, peer).only().await?;
        let watch = Stopwatch::start();
        let _held = peer.memory.hold(message.len())?;
        fields::check_operation(OperationKind::ListSessions, &message)?;
        let mut request = pb::SessionServiceListSessionsRequest::default();
        messages::decode(message, &mut request)?;
        let request = convert::list_own(&request);
        let page = own::list(&self.engines, request, self.observer.as_ref(), watch).await?;
        Ok(messages::encode(&convert::own_page(&page)))
    }

    async fn describe<B: RequestBody>(&self, body: B, peer: &Peer) -> Result<Bytes, Status> {
        let message = Messages::new(body, self.max_message_bytes, peer).only().await?;
        messages::decode(message, &mut pb::DescribeRequest::default())?;
        let mut response = convert::description(description::describe(&self.engines));
        if let Some(limits) = &mut response.limits {
            limits.max_message_bytes = convert::count(self.max_message_bytes);
            limits.pipeline_in_flight = convert::count(self.pipeline_in_flight);
        }
        Ok(messages::encode(&response))
    }

    async fn run<O, B>(&self, body: B, peer: &Peer, span: &mut CallSpan) -> Result<Bytes, Status>
    where
        O: GrpcOperation,
        B: RequestBody,
    {
        let message = Messages::new(body, self.max_message_bytes, peer).only().await?;
        let mut watch = Stopwatch::start();
        // It may wait for the store, and its answer for the peer.
        let _held = peer.memory.hold(message.len())?;
        let operation = self.prepare::<O>(message, &mut watch)?;
        let work = operation::answered(operation, self.observer.as_ref(), watch);
        let answer = span.within(work).await;
        span.end(answer.as_ref());
        let answer = answer?;
        let mut message = Vec::new();
        answer::put(&answer, &mut message);
        Ok(message.into())
    }

    // A function of its own, so that the message is not kept while the store works.
    fn prepare<O: GrpcOperation>(
        &self,
        message: Bytes,
        watch: &mut Stopwatch,
    ) -> Result<O, Status> {
        let mut request = O::Message::default();
        fields::check_operation(O::KIND, &message)?;
        messages::decode(message, &mut request)?;
        let request = O::request(&mut request);
        Ok(operation::prepared(&self.engines, request, self.observer.as_ref(), watch)?)
    }

    /// Answers a Pipeline.
    pub fn pipeline<B: RequestBody>(
        &self,
        body: B,
        peer: &Peer,
        traces: StreamTraces,
    ) -> Response<Pipeline<B>> {
        begun(Pipeline::new(
            self.engines.clone(),
            Arc::clone(&self.observer),
            self.pipeline_in_flight,
            Messages::new(body, self.max_message_bytes, peer),
            peer,
            traces,
        ))
    }
}

/// A response whose status follows in the trailers.
pub(super) fn begun<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// The body of an answer: a message and then the status OK in the trailers; or nothing if
/// the status is in the headers.
#[derive(Default)]
pub struct Unary {
    message: Option<Bytes>,
    trailers: bool,
}

impl Unary {
    /// An answer of one message, with its prefix.
    pub(super) fn of(message: Bytes) -> Self {
        Self { message: Some(message), trailers: true }
    }
}

impl Body for Unary {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if std::mem::take(&mut self.trailers) {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers::ok()))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none() && !self.trailers
    }
}
