//! The four operations as unary calls, straight from HTTP/2.
//!
//! tonic serves whatever else is called. These calls are most of what a daemon
//! does, and what tonic puts round a message (a router, boxed bodies, buffers
//! of 8 KiB) costs more than the operation itself (`benches/compare`). The
//! protocol is that of gRPC over HTTP/2: a message with a prefix of five octets
//! in, the same out, and the status in the trailers.

use std::{
    convert::Infallible,
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use prost::Message;
use tonic::Status;

use super::{
    engines::Engines,
    fault::{Fault, Reason},
    observer::{Observer, Rpc},
    operation::{self, Operation},
};
use crate::session::store::Store;

/// The compression flag, and the length of the message.
const PREFIX_LEN: usize = 5;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const OK: HeaderValue = HeaderValue::from_static("0");

type BoxError = Box<dyn Error + Send + Sync>;

/// The unary calls of `sessiond.v1.SessionService`.
pub struct UnaryCalls<S> {
    pub engines: Engines<S>,
    pub observer: Arc<dyn Observer>,
    pub max_message_bytes: usize,
}

impl<S: Store> UnaryCalls<S> {
    /// Which of the calls is made with this path; `None`: none of them.
    pub fn find(path: &str) -> Option<Rpc> {
        match path.strip_prefix("/sessiond.v1.SessionService/")? {
            "Resolve" => Some(Rpc::Resolve),
            "Touch" => Some(Rpc::Touch),
            "Write" => Some(Rpc::Write),
            "Destroy" => Some(Rpc::Destroy),
            _ => None,
        }
    }

    /// Answers a call.
    pub async fn answer<B>(&self, rpc: Rpc, body: B) -> Response<Answer>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let outcome = match rpc {
            Rpc::Resolve => self.run::<operation::Resolve<S>, B>(body).await,
            Rpc::Touch => self.run::<operation::Touch<S>, B>(body).await,
            Rpc::Write => self.run::<operation::Write<S>, B>(body).await,
            Rpc::Destroy => self.run::<operation::Destroy<S>, B>(body).await,
        };
        outcome.map_or_else(Status::into_http, Answer::with)
    }

    async fn run<O, B>(&self, body: B) -> Result<Bytes, Status>
    where
        O: Operation<S>,
        O::Request: Message + Default,
        O::Response: Message,
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let message = read_message(body, self.max_message_bytes).await?;
        let request = O::Request::decode(message).map_err(|error| {
            Fault::new(Reason::MalformedMessage, format!("the message makes no sense: {error}"))
                .into_status()
        })?;
        let observer = self.observer.as_ref();
        let operation = operation::prepared::<S, O>(&self.engines, request, observer)
            .map_err(Fault::into_status)?;
        if let Some(response) = operation::recalled(&operation, observer) {
            return Ok(write_message(&response));
        }
        // Boxed, so that those answered from memory are small.
        let response = Box::pin(operation::observed(operation, observer)).await;
        response.map(|response| write_message(&response)).map_err(Fault::into_status)
    }
}

/// The one message of a call.
async fn read_message<B>(mut body: B, limit: usize) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    // Nearly always all of it is in the first frame, and is not copied.
    let mut whole = Bytes::new();
    let mut parts = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| Status::from_error(error.into()))?.into_data() else {
            continue;
        };
        if whole.is_empty() && parts.is_empty() {
            whole = data;
        } else {
            if parts.is_empty() {
                parts.extend_from_slice(&std::mem::take(&mut whole));
            }
            parts.extend_from_slice(&data);
        }
        let so_far = if parts.is_empty() { &whole[..] } else { &parts[..] };
        check_prefix(so_far, limit)?;
        if body.is_end_stream() {
            break;
        }
    }
    let mut message = if parts.is_empty() { whole } else { parts.freeze() };
    if message.len() < PREFIX_LEN {
        return Err(malformed("expected a message, found the end of the call"));
    }
    let len = message.slice(1..PREFIX_LEN).get_u32() as usize;
    message.advance(PREFIX_LEN);
    if message.len() < len {
        return Err(malformed("the call ends within its message"));
    }
    Ok(message)
}

fn malformed(problem: &str) -> Status {
    Fault::new(Reason::MalformedMessage, problem).into_status()
}

/// Refuses what is not worth waiting for the rest of.
fn check_prefix(so_far: &[u8], limit: usize) -> Result<(), Status> {
    let Some((&[flag, ref len @ ..], rest)) = so_far.split_first_chunk::<PREFIX_LEN>() else {
        return Ok(());
    };
    if flag != 0 {
        let problem = "the message is compressed; expected grpc-encoding: identity";
        let mut status = Fault::new(Reason::CompressionUnsupported, problem).into_status();
        let accepted = "identity".parse().expect("ASCII");
        status.metadata_mut().insert("grpc-accept-encoding", accepted);
        return Err(status);
    }
    let len = u32::from_be_bytes(*len) as usize;
    if len > limit {
        let problem = format!("the message has {len} bytes, at most {limit} are taken");
        return Err(Fault::new(Reason::MessageTooLarge, problem).into_status());
    }
    if rest.len() > len {
        return Err(malformed("expected one message, found more"));
    }
    Ok(())
}

fn write_message(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_LEN + len);
    bytes.put_u8(0);
    // Data is bounded by max_data_bytes, far below 4 GiB.
    bytes.put_u32(len as u32);
    message.encode(&mut bytes).expect("there is room for all of it");
    bytes.freeze()
}

/// The body of an answer: a message and then the status OK in the trailers; or
/// nothing, when the status is in the headers.
#[derive(Default)]
pub struct Answer {
    message: Option<Bytes>,
    trailers: bool,
}

impl Answer {
    fn with(message: Bytes) -> Response<Self> {
        let mut response = Response::new(Self { message: Some(message), trailers: true });
        response.headers_mut().insert(CONTENT_TYPE, GRPC);
        response
    }
}

impl Body for Answer {
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
            let mut trailers = HeaderMap::with_capacity(1);
            trailers.insert(GRPC_STATUS, OK);
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none() && !self.trailers
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, stream};
    use http_body_util::StreamBody;
    use tonic::Code;
    use tonic_types::StatusExt;

    use super::*;

    const LIMIT: usize = 10;

    /// What is read from a body of these frames.
    fn read(frames: &[&'static [u8]]) -> Result<Bytes, (Code, String)> {
        let frames: Vec<_> = frames
            .iter()
            .map(|frame| Ok::<_, Infallible>(Frame::data(Bytes::from_static(frame))))
            .collect();
        let body = StreamBody::new(stream::iter(frames));
        let read = read_message(body, LIMIT).now_or_never().expect("nothing to wait for");
        read.map_err(|status| {
            let reason = status.get_details_error_info().expect("a reason").reason;
            (status.code(), reason)
        })
    }

    #[test]
    fn a_message_may_come_in_any_pieces() {
        let whole = Ok(Bytes::from_static(b"hello"));
        assert_eq!(read(&[b"\0\0\0\0\x05hello"]), whole);
        assert_eq!(read(&[b"\0\0\0\0\x05", b"hello"]), whole);
        assert_eq!(read(&[b"\0\0", b"", b"\0\0\x05he", b"l", b"lo", b""]), whole);
        assert_eq!(read(&[b"\0\0\0\0\0"]), Ok(Bytes::new()), "all fields may be absent");
        assert_eq!(read(&[b"\0\0\0\0\x0a0123456789"]).map(|bytes| bytes.len()), Ok(LIMIT));
    }

    #[test]
    fn what_is_no_single_message_is_refused() {
        for (frames, code, reason) in [
            (&[] as &[&'static [u8]], Code::InvalidArgument, "MALFORMED_MESSAGE"),
            (&[b"\0\0\0\0"], Code::InvalidArgument, "MALFORMED_MESSAGE"),
            (&[b"\0\0\0\0\x05hell"], Code::InvalidArgument, "MALFORMED_MESSAGE"),
            (&[b"\0\0\0\0\x05hello\0"], Code::InvalidArgument, "MALFORMED_MESSAGE"),
            (&[b"\0\0\0\0\0", b"\0\0\0\0\0"], Code::InvalidArgument, "MALFORMED_MESSAGE"),
            // Refused before any more of it comes.
            (&[b"\0\0\0\0\x0b"], Code::InvalidArgument, "MESSAGE_TOO_LARGE"),
            (&[b"\0\xff\xff\xff\xff"], Code::InvalidArgument, "MESSAGE_TOO_LARGE"),
            (&[b"\x01\0\0\0\x05hello"], Code::Unimplemented, "COMPRESSION_UNSUPPORTED"),
        ] {
            assert_eq!(read(frames), Err((code, reason.to_owned())), "{frames:?}");
        }
    }
}
