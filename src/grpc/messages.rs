//! Messages as gRPC over HTTP/2 frames them: a prefix of five octets, then the message. A
//! message may begin and end anywhere in the frames of HTTP/2.

use std::{
    error::Error,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use tonic::Status;

use crate::service::fault::{Fault, Reason};

/// The compression flag, and the length of the message.
pub(super) const PREFIX_LEN: usize = 5;

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// Begins a message of `len` octets, and makes room for it.
pub(super) fn put_prefix(len: usize, out: &mut Vec<u8>) {
    out.reserve(PREFIX_LEN + len);
    out.push(0);
    // Data is bounded by max_data_bytes, far below 4 GiB.
    out.extend_from_slice(&(len as u32).to_be_bytes());
}

/// The messages of a call.
pub struct Messages<B> {
    body: B,
    limit: usize,
    /// What has arrived and was not returned yet.
    here: Bytes,
}

impl<B> Messages<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// The messages of `body`, each of at most `limit` octets.
    pub fn new(body: B, limit: usize) -> Self {
        Self { body, limit, here: Bytes::new() }
    }

    /// The next message; `None`: there are no more. After an error no message follows.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            if let Some(message) = self.take() {
                return Poll::Ready(Some(message));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.put(data);
                    }
                }
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(Status::from_error(error.into()))));
                }
                None if self.here.is_empty() => return Poll::Ready(None),
                None => {
                    let problem = "the call ends within a message";
                    return Poll::Ready(Some(Err(malformed(problem))));
                }
            }
        }
    }

    /// The one message of a call.
    pub async fn only(mut self) -> Result<Bytes, Status> {
        let Some(message) = poll_fn(|cx| self.poll_next(cx)).await.transpose()? else {
            return Err(malformed("expected a message, found the end of the call"));
        };
        // Nearly always nothing more can come.
        let is_over = self.here.is_empty() && self.body.is_end_stream();
        if !is_over && poll_fn(|cx| self.poll_next(cx)).await.transpose()?.is_some() {
            return Err(malformed("expected one message, found more"));
        }
        Ok(message)
    }

    fn take(&mut self) -> Option<Result<Bytes, Status>> {
        let (&[flag, ref len @ ..], rest) = self.here.split_first_chunk::<PREFIX_LEN>()?;
        let len = u32::from_be_bytes(*len) as usize;
        // Refused before the rest of it comes.
        if let Err(refused) = check(flag, len, self.limit) {
            return Some(Err(refused));
        }
        if rest.len() < len {
            return None;
        }
        self.here.advance(PREFIX_LEN);
        Some(Ok(self.here.split_to(len)))
    }

    fn put(&mut self, data: Bytes) {
        if self.here.is_empty() {
            self.here = data;
            return;
        }
        let begun = std::mem::take(&mut self.here);
        let mut joined = begun.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        joined.extend_from_slice(&data);
        self.here = joined.freeze();
    }
}

fn check(flag: u8, len: usize, limit: usize) -> Result<(), Status> {
    if flag != 0 {
        let problem = "the message is compressed; expected grpc-encoding: identity";
        let mut status = Status::from(Fault::new(Reason::CompressionUnsupported, problem));
        let accepted = "identity".parse().expect("ASCII");
        status.metadata_mut().insert("grpc-accept-encoding", accepted);
        return Err(status);
    }
    if len > limit {
        let problem = format!("the message has {len} bytes, at most {limit} are taken");
        return Err(Fault::new(Reason::MessageTooLarge, problem).into());
    }
    Ok(())
}

fn malformed(problem: &str) -> Status {
    Fault::new(Reason::MalformedMessage, problem).into()
}

/// Decodes a message of a call, in place: a request is large, because a Write is.
pub(super) fn decode(message: Bytes, request: &mut impl prost::Message) -> Result<(), Status> {
    let problem = |error| malformed(&format!("the message makes no sense: {error}"));
    request.merge(message).map_err(problem)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt, stream};
    use http_body::Frame;
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
        let read = Messages::new(body, LIMIT).only().now_or_never().expect("nothing to wait for");
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
