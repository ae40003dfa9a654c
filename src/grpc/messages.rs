//! Messages as gRPC over HTTP/2 frames them: a prefix of five octets, then the message. A
//! message may begin and end anywhere in the frames of HTTP/2.
//!
//! The peer may send more only as messages are used. So flow control bounds what has come and
//! was not used. The rest of a message must be able to come, so its octets are released as
//! they arrive; the message is counted as memory of the peer, and its rest must come in time.

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use tonic::Status;

use super::{
    patience::Patience,
    peer::{Peer, RequestBody},
    status,
};
use crate::service::{
    fault::{Fault, Reason},
    peer_memory::{Held, Share},
};

/// The compression flag, and the length of the message.
pub(super) const PREFIX_LEN: usize = 5;

/// Begins a message of `len` octets, and makes room for it.
pub(super) fn put_prefix(len: usize, out: &mut Vec<u8>) {
    out.reserve(PREFIX_LEN + len);
    out.push(0);
    // Data is bounded by max_data_bytes, far below 4 GiB.
    out.extend_from_slice(&(len as u32).to_be_bytes());
}

/// A message behind its prefix.
pub(super) fn encode(message: &impl prost::Message) -> Bytes {
    let mut out = Vec::new();
    put_prefix(message.encoded_len(), &mut out);
    message.encode_raw(&mut out);
    out.into()
}

/// The messages of a call.
pub(super) struct Messages<B> {
    body: B,
    limit: usize,
    memory: Arc<Share>,
    /// What has arrived and was not returned yet.
    here: Bytes,
    /// How many of these octets, the last ones, the peer may not send anew yet.
    unreleased: usize,
    /// Counts the message that waits for its rest.
    held: Option<Held>,
    patience: Patience,
    /// There is nothing more to come, or it cannot be read.
    over: Option<Result<(), Status>>,
}

impl<B: RequestBody> Messages<B> {
    /// The messages of `body`, each of at most `limit` octets.
    pub(super) fn new(body: B, limit: usize, peer: &Peer) -> Self {
        Self {
            body,
            limit,
            memory: Arc::clone(&peer.memory),
            here: Bytes::new(),
            unreleased: 0,
            held: None,
            patience: Patience::new(peer.stall_timeout),
            over: None,
        }
    }

    /// The next message; `None`: there are no more. After an error no message follows.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Status>>> {
        self.poll_message(cx, false)
    }

    /// As `poll_next`. If the peer `owes` a message, even its beginning must come in time.
    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        owes: bool,
    ) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            if let Some(message) = self.take() {
                return Poll::Ready(Some(message));
            }
            if let Some(ended) = &mut self.over {
                return Poll::Ready(match mem::replace(ended, Ok(())) {
                    Err(status) => Some(Err(status)),
                    Ok(()) if self.here.is_empty() => None,
                    Ok(()) => Some(Err(malformed("the call ends within a message"))),
                });
            }
            if self.poll_more(cx).is_pending() {
                return self.wait(cx, owes).map(|status| Some(Err(status)));
            }
        }
    }

    /// Takes in what has arrived, although no message is wanted now: frames that are not
    /// read cost much more than their octets. Flow control bounds how much that is.
    pub(super) fn absorb(&mut self, cx: &mut Context<'_>) {
        while self.over.is_none() && self.poll_more(cx).is_ready() {}
    }

    /// The one message of a call.
    pub(super) async fn only(mut self) -> Result<Bytes, Status> {
        let Some(message) = poll_fn(|cx| self.poll_message(cx, true)).await.transpose()? else {
            return Err(malformed("expected a message, found the end of the call"));
        };
        // Nearly always nothing more can come.
        let is_over = self.here.is_empty() && self.body.is_end_stream();
        if !is_over && poll_fn(|cx| self.poll_message(cx, true)).await.transpose()?.is_some() {
            return Err(malformed("expected one message, found more"));
        }
        Ok(message)
    }

    /// Pending: nothing more has arrived.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    self.put(data);
                }
            }
            Poll::Ready(Some(Err(error))) => {
                self.over = Some(Err(Status::from_error(error.into())));
            }
            Poll::Ready(None) => self.over = Some(Ok(())),
        }
        Poll::Ready(())
    }

    /// Waits for the rest of a message. Ready if it will not be waited for.
    fn wait(&mut self, cx: &mut Context<'_>, owes: bool) -> Poll<Status> {
        if self.here.is_empty() && !owes {
            return Poll::Pending;
        }
        self.body.release(mem::take(&mut self.unreleased));
        // How long it is may have become known only now.
        let begun = self.begun();
        if self.held.as_ref().is_none_or(|held| held.bytes() < begun) {
            self.held = None;
            match self.memory.hold(begun) {
                Ok(held) => self.held = Some(held),
                Err(fault) => return Poll::Ready(fault.into()),
            }
        }
        self.patience.poll_lost(cx).map(|()| status::stalled())
    }

    /// How long the first message here is, with its prefix, as far as that is known.
    fn begun(&self) -> usize {
        let prefix = self.here.first_chunk::<PREFIX_LEN>();
        PREFIX_LEN + prefix.map_or(0, |&[_, ref len @ ..]| u32::from_be_bytes(*len) as usize)
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
        let message = self.here.split_to(len);
        let used = self.unreleased.saturating_sub(self.here.len());
        if used > 0 {
            self.body.release(used);
            self.unreleased -= used;
        }
        self.held = None;
        self.patience.restore();
        Some(Ok(message))
    }

    fn put(&mut self, data: Bytes) {
        self.unreleased += data.len();
        if self.here.is_empty() {
            self.here = data;
            return;
        }
        // At once the room for the whole message, if there is one that waits for it.
        let room = self.begun().min(PREFIX_LEN + self.limit).saturating_sub(self.here.len());
        let begun = mem::take(&mut self.here);
        let mut joined = begun.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        joined.reserve(room.max(data.len()));
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
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use futures_util::{FutureExt, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;
    use tonic::Code;
    use tonic_types::StatusExt;

    use super::{super::peer::ReleasedWhenRead, *};
    use crate::service::peer_memory::{FREE_BYTES, PeerMemory};

    const LIMIT: usize = 10;

    /// What is read from a body of these frames.
    fn read(frames: &[&'static [u8]]) -> Result<Bytes, (Code, String)> {
        let frames: Vec<_> = frames
            .iter()
            .map(|frame| Ok::<_, Infallible>(Frame::data(Bytes::from_static(frame))))
            .collect();
        let body = ReleasedWhenRead(StreamBody::new(stream::iter(frames)));
        let messages = Messages::new(body, LIMIT, &Peer::unbounded());
        let read = messages.only().now_or_never().expect("nothing to wait for");
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

    /// A body that is given its frames by the test, and remembers what was released.
    struct Sent {
        frames: mpsc::UnboundedReceiver<&'static [u8]>,
        released: Arc<AtomicUsize>,
    }

    impl http_body::Body for Sent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let frame = self.frames.poll_recv(cx);
            frame.map(|frame| frame.map(|frame| Ok(Frame::data(Bytes::from_static(frame)))))
        }
    }

    impl RequestBody for Sent {
        fn release(&mut self, octets: usize) {
            self.released.fetch_add(octets, Ordering::Relaxed);
        }
    }

    fn sent(
        limit: usize,
        peer: &Peer,
    ) -> (mpsc::UnboundedSender<&'static [u8]>, Arc<AtomicUsize>, Messages<Sent>) {
        let (sender, frames) = mpsc::unbounded_channel();
        let released = Arc::<AtomicUsize>::default();
        let body = Sent { frames, released: Arc::clone(&released) };
        (sender, released, Messages::new(body, limit, peer))
    }

    #[tokio::test]
    async fn what_is_taken_in_and_not_used_is_not_released() {
        let (sender, released, mut messages) = sent(LIMIT, &Peer::unbounded());
        for frame in [b"\0\0\0\0\x01a", b"\0\0\0\0\x01b", b"\0\0\0\0\x01c"] {
            sender.send(frame).expect("the body is there");
        }
        poll_fn(|cx| {
            messages.absorb(cx);
            Poll::Ready(())
        })
        .await;
        assert_eq!(released.load(Ordering::Relaxed), 0);
        for (expected, used) in [("a", 6), ("b", 12), ("c", 18)] {
            let message = poll_fn(|cx| messages.poll_next(cx)).await.expect("one").expect("whole");
            assert_eq!(message, expected);
            assert_eq!(released.load(Ordering::Relaxed), used);
        }
    }

    #[tokio::test]
    async fn the_rest_of_a_message_can_come_and_is_counted() {
        let peer = Peer::unbounded();
        let (sender, released, mut messages) = sent(LIMIT, &peer);
        for part in [&b"\0\0"[..], b"\0\0\x05hel"] {
            sender.send(part).expect("the body is there");
            let next = poll_fn(|cx| messages.poll_next(cx)).now_or_never();
            assert!(next.is_none(), "it is not whole");
        }
        assert_eq!(released.load(Ordering::Relaxed), 8);
        assert_eq!(peer.memory.held(), PREFIX_LEN + 5);
        sender.send(b"lo").expect("the body is there");
        let message = poll_fn(|cx| messages.poll_next(cx)).await.expect("one").expect("whole");
        assert_eq!(message, "hello");
        assert_eq!((released.load(Ordering::Relaxed), peer.memory.held()), (10, 0));
    }

    #[tokio::test]
    async fn no_message_begins_where_the_memory_is_used_up() {
        let memory = PeerMemory::new(0);
        let peer = Peer::new(memory.share(), CancellationToken::new(), Duration::from_secs(20));
        let others = peer.memory.count(FREE_BYTES);
        let (sender, _, mut messages) = sent(LIMIT, &peer);
        sender.send(b"\0\0\0\0\x05hel").expect("the body is there");
        let refused =
            poll_fn(|cx| messages.poll_next(cx)).await.expect("an error").expect_err("full");
        assert_eq!(refused.get_details_error_info().expect("a reason").reason, "OVERLOADED");
        drop(others);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_message_must_come_in_time() {
        let memory = PeerMemory::new(usize::MAX);
        let limit = Duration::from_secs(20);
        let peer = Peer::new(memory.share(), CancellationToken::new(), limit);
        let started = tokio::time::Instant::now();

        let (sender, _, messages) = sent(LIMIT, &peer);
        let status = messages.only().await.expect_err("no message came");
        assert_eq!((status.code(), started.elapsed()), (Code::DeadlineExceeded, limit));
        drop(sender);

        let (sender, _, mut messages) = sent(LIMIT, &peer);
        let a_day = Duration::from_secs(24 * 60 * 60);
        let next = poll_fn(|cx| messages.poll_next(cx));
        assert!(tokio::time::timeout(a_day, next).await.is_err(), "a stream may be silent");
        sender.send(b"\0\0\0\0\x05hel").expect("the body is there");
        let status = poll_fn(|cx| messages.poll_next(cx)).await.expect("an error");
        assert_eq!(status.expect_err("its rest is missing").code(), Code::DeadlineExceeded);
        assert_eq!(started.elapsed(), limit + a_day + limit);
    }
}
