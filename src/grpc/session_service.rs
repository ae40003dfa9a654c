//! `sessiond.v1.SessionService`, straight from HTTP/2.
//!
//! tonic serves whatever else is called. These calls are most of what a daemon
//! does, and what tonic puts round a message (a router, boxed bodies, buffers of
//! 8 KiB, a message of its own for each answer) costs as much as the operation
//! itself. The protocol is that of gRPC over HTTP/2: messages in, messages out
//! ([`messages`](super::messages)), and the status in the trailers.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    engines::Engines,
    fault::Fault,
    messages::{self, BoxError, Messages},
    observer::{Observer, Rpc},
    operation::{self, Operation},
    pipeline::Pipeline,
};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const OK: HeaderValue = HeaderValue::from_static("0");

/// The service, over the engines of a daemon.
pub struct SessionService {
    pub engines: Engines,
    pub observer: Arc<dyn Observer>,
    pub max_message_bytes: usize,
    /// Operations of one pipeline in flight.
    pub pipeline_in_flight: usize,
    /// Cancelled when the daemon stops: pipelines end.
    pub stopping: CancellationToken,
}

/// A call of the service.
#[derive(Debug, Clone, Copy)]
pub enum Call {
    Unary(Rpc),
    Pipeline,
}

impl SessionService {
    pub const NAME: &str = "sessiond.v1.SessionService";

    /// Which call is made with this path; `None`: none of the service's.
    pub fn find(path: &str) -> Option<Call> {
        match path.strip_prefix('/')?.strip_prefix(Self::NAME)? {
            "/Resolve" => Some(Call::Unary(Rpc::Resolve)),
            "/Touch" => Some(Call::Unary(Rpc::Touch)),
            "/Write" => Some(Call::Unary(Rpc::Write)),
            "/Destroy" => Some(Call::Unary(Rpc::Destroy)),
            "/Pipeline" => Some(Call::Pipeline),
            _ => None,
        }
    }

    /// Answers a unary call.
    pub async fn unary<B>(&self, rpc: Rpc, body: B) -> Response<Unary>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let outcome = match rpc {
            Rpc::Resolve => self.run::<operation::Resolve, B>(body).await,
            Rpc::Touch => self.run::<operation::Touch, B>(body).await,
            Rpc::Write => self.run::<operation::Write, B>(body).await,
            Rpc::Destroy => self.run::<operation::Destroy, B>(body).await,
        };
        let answer = |message| begun(Unary { message: Some(message), trailers: true });
        outcome.map_or_else(Status::into_http, answer)
    }

    async fn run<O, B>(&self, body: B) -> Result<Bytes, Status>
    where
        O: Operation,
        O::Request: Message + Default,
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let message = Messages::new(body, self.max_message_bytes).only().await?;
        let mut request = O::Request::default();
        messages::decode(message, &mut request)?;
        let observer = self.observer.as_ref();
        let operation = operation::prepared::<O>(&self.engines, request, observer)
            .map_err(Fault::into_status)?;
        let answer = operation::answered(operation, observer).await.map_err(Fault::into_status)?;
        let mut message = Vec::new();
        answer.put(&mut message);
        Ok(message.into())
    }

    /// Answers a Pipeline.
    pub fn pipeline<B>(&self, body: B) -> Response<Pipeline<B>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        begun(Pipeline::new(
            self.engines.clone(),
            Arc::clone(&self.observer),
            self.pipeline_in_flight,
            Messages::new(body, self.max_message_bytes),
            self.stopping.clone(),
        ))
    }
}

/// A response whose status is to follow in the trailers.
fn begun<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// The trailers of a call that went well.
pub fn ok() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, OK);
    trailers
}

/// The trailers of a stream that ends with this status.
pub fn trailers(status: Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // What can not be written as a header is left out.
    let _ = status.add_header(&mut trailers);
    trailers
}

/// The body of an answer: a message and then the status OK in the trailers; or
/// nothing, when the status is in the headers.
#[derive(Default)]
pub struct Unary {
    message: Option<Bytes>,
    trailers: bool,
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
            return Poll::Ready(Some(Ok(Frame::trailers(ok()))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none() && !self.trailers
    }
}
