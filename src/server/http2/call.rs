//! One call: the body of its request, and its answer.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{Request, Response};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;

use crate::{
    grpc::{
        body::AnswerBody,
        handler::Handler,
        patience::Patience,
        peer::{Peer, RequestBody},
    },
    service::peer_memory::Held,
};

/// A call under way. Completes when its answer was handed to h2, or nobody wants it.
pub(super) type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

pin_project! {
    /// A call.
    pub(super) struct Call<F> {
        respond: SendResponse<Chunk>,
        peer: Arc<Peer>,
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Working { #[pin] work: F },
        Answering { answer: Answering },
    }
}

impl Call<()> {
    /// Starts the call of a request.
    pub(super) fn start(
        handler: &Arc<Handler>,
        request: Request<RecvStream>,
        respond: SendResponse<Chunk>,
        peer: &Arc<Peer>,
    ) -> Running {
        let work = handler.handle(request.map(Inbound::new), peer);
        Box::pin(Call { respond, peer: Arc::clone(peer), state: State::Working { work } })
    }
}

impl<F> Future for Call<F>
where
    F: Future<Output = Response<AnswerBody<Inbound>>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Working { work } => {
                    let Poll::Ready(answer) = work.poll(cx) else {
                        // The peer, or h2 for it, has cancelled the call.
                        return this.respond.poll_reset(cx).map(|_| ());
                    };
                    let (head, body) = answer.into_parts();
                    let end = body.is_end_stream();
                    let begun = this.respond.send_response(Response::from_parts(head, ()), end);
                    // An error: the stream was reset.
                    let (Ok(stream), false) = (begun, end) else {
                        return Poll::Ready(());
                    };
                    let answer = Answering::new(body, stream, Arc::clone(this.peer));
                    this.state.set(State::Answering { answer });
                }
                StateProjection::Answering { answer } => return answer.poll(cx),
            }
        }
    }
}

/// An answer whose head was sent.
struct Answering {
    body: AnswerBody<Inbound>,
    stream: SendStream<Chunk>,
    peer: Arc<Peer>,
    /// What waits for the peer's window.
    unsent: Chunk,
    patience: Patience,
}

impl Answering {
    fn new(body: AnswerBody<Inbound>, stream: SendStream<Chunk>, peer: Arc<Peer>) -> Self {
        let patience = Patience::new(peer.stall_timeout);
        Self { body, stream, peer, unsent: Chunk::default(), patience }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.send(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(Cancelled)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {}
            }
            // An error of the stream: it was reset.
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return self.stream.poll_reset(cx).map(|_| ()),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        let held = Some(self.peer.memory.count(data.len()));
                        self.unsent = Chunk { data, held };
                        continue;
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            let _ = self.stream.send_trailers(trailers);
                        }
                    }
                },
                Poll::Ready(Some(Err(_))) => self.stream.send_reset(Reason::INTERNAL_ERROR),
                Poll::Ready(None) => {
                    let _ = self.stream.send_data(Chunk::default(), true);
                }
            }
            return Poll::Ready(());
        }
    }

    /// Hands to h2 what the peer's window takes. Ready: nothing is left.
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cancelled>> {
        while self.unsent.has_remaining() {
            let len = self.unsent.remaining();
            self.stream.reserve_capacity(len);
            let mut room = self.stream.capacity();
            if room == 0 {
                room = match self.stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(room))) => room,
                    Poll::Ready(_) => return Poll::Ready(Err(Cancelled)),
                    Poll::Pending => return self.wait(cx).map(Err),
                };
            }
            let part = self.unsent.split_to(room.min(len));
            if self.stream.send_data(part, false).is_err() {
                return Poll::Ready(Err(Cancelled));
            }
            self.patience.restore();
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for a peer that does not read.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Cancelled> {
        self.body.absorb(cx);
        if self.stream.poll_reset(cx).is_ready() {
            return Poll::Ready(Cancelled);
        }
        self.patience.poll_lost(cx).map(|()| {
            tracing::debug!("an answer was not read within limits.stall_timeout");
            self.stream.send_reset(Reason::CANCEL);
            Cancelled
        })
    }
}

/// The call was cancelled.
struct Cancelled;

/// Octets of an answer. They are counted until they are written.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    data: Bytes,
    held: Option<Held>,
}

impl Chunk {
    fn split_to(&mut self, len: usize) -> Self {
        if len == self.data.len() {
            return mem::take(self);
        }
        let held = self.held.as_mut().map(|held| held.split(len));
        Self { data: self.data.split_to(len), held }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.data.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.data
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }
}

/// The body of a request.
pub(super) struct Inbound {
    stream: RecvStream,
    /// Octets that the peer may send anew, and was not told of yet.
    owed: usize,
    /// Nothing more was here when it was last asked.
    is_waiting: bool,
}

/// From this on the peer is told without waiting for the end of what is here.
const WORTH_TELLING_BYTES: usize = 16 << 10;

impl Inbound {
    fn new(stream: RecvStream) -> Self {
        Self { stream, owed: 0, is_waiting: false }
    }

    fn tell(&mut self) {
        if self.owed > 0 {
            // It cannot fail: these octets were received and not released yet.
            let _ = self.stream.flow_control().release_capacity(mem::take(&mut self.owed));
        }
    }
}

impl RequestBody for Inbound {
    fn release(&mut self, octets: usize) {
        self.owed += octets;
        if self.is_waiting || self.owed >= WORTH_TELLING_BYTES {
            self.tell();
        }
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let polled = self.stream.poll_data(cx);
        self.is_waiting = polled.is_pending();
        if self.is_waiting {
            self.tell();
        }
        polled.map(|data| match data {
            Some(Ok(data)) => Some(Ok(Frame::data(data))),
            // With these reasons a peer says that it sends no more (RFC 9113, section 8.1).
            Some(Err(error)) => match error.reason() {
                Some(Reason::NO_ERROR | Reason::CANCEL) => None,
                _ => Some(Err(error)),
            },
            // A request has no trailers that mean anything.
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        // Its call may wait for long, and other calls need the window of the connection.
        self.tell();
    }
}
