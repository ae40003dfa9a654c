//! What an answer is made of, and when it ends early.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::{
    health::HealthWatch,
    peer::{Peer, RequestBody},
    pipeline::Pipeline,
    session_service::Unary,
    status, trailers,
};

/// The body of an answer to a request with a body of the type `B`.
pub struct AnswerBody<B> {
    source: Source<B>,
    /// When the call is late. Made only for streams.
    late: Option<Pin<Box<Sleep>>>,
}

enum Source<B> {
    Unary(Unary),
    Pipeline(Box<Pipeline<B>>),
    Health(Box<HealthWatch>),
    /// What tonic answers.
    Routed(Box<Routed>),
    /// The trailers were sent.
    Over,
}

struct Routed {
    body: tonic::body::Body,
    peer: Arc<Peer>,
    /// Made when there is something to wait for.
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl<B: RequestBody> AnswerBody<B> {
    pub(super) fn unary(body: Unary) -> Self {
        Self { source: Source::Unary(body), late: None }
    }

    pub(super) fn pipeline(body: Pipeline<B>, end: Option<Instant>) -> Self {
        Self { source: Source::Pipeline(Box::new(body)), late: late(end) }
    }

    pub(super) fn health(body: HealthWatch, end: Option<Instant>) -> Self {
        Self { source: Source::Health(Box::new(body)), late: late(end) }
    }

    pub(super) fn routed(body: tonic::body::Body, peer: Arc<Peer>, end: Option<Instant>) -> Self {
        // Nothing is left to wait for where the status is in the headers.
        let late = if body.is_end_stream() { None } else { late(end) };
        Self { source: Source::Routed(Box::new(Routed { body, peer, closing: None })), late }
    }

    /// Takes in what the peer has sent. Call it while the answer waits for the peer.
    pub fn absorb(&mut self, cx: &mut Context<'_>) {
        if let Source::Pipeline(pipeline) = &mut self.source {
            pipeline.absorb(cx);
        }
    }
}

/// A call with an `end` ends then at the latest.
fn late(end: Option<Instant>) -> Option<Pin<Box<Sleep>>> {
    end.map(|end| Box::pin(tokio::time::sleep_until(end)))
}

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

impl<B: RequestBody> Body for AnswerBody<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = &mut *self;
        // First: a stream that always has something to give ends all the same.
        if let Some(late) = &mut this.late
            && late.as_mut().poll(cx).is_ready()
        {
            return this.end(status::late());
        }
        match &mut this.source {
            Source::Unary(body) => infallible(Pin::new(body).poll_frame(cx)),
            Source::Pipeline(body) => infallible(Pin::new(&mut **body).poll_frame(cx)),
            Source::Health(body) => match body.poll_next(cx) {
                Poll::Ready(Some(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
                Poll::Ready(None) => this.end(status::closing()),
                Poll::Pending => Poll::Pending,
            },
            Source::Routed(routed) => match routed.poll_frame(cx) {
                Some(polled) => polled,
                None => this.end(status::closing()),
            },
            Source::Over => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Unary(body) => body.is_end_stream(),
            Source::Routed(routed) => routed.body.is_end_stream(),
            Source::Pipeline(_) | Source::Health(_) => false,
            Source::Over => true,
        }
    }
}

impl<B> AnswerBody<B> {
    /// Cuts the stream off. What was at work behind it is dropped.
    fn end(&mut self, status: Status) -> Polled {
        self.source = Source::Over;
        self.late = None;
        Poll::Ready(Some(Ok(Frame::trailers(trailers::failed(status)))))
    }
}

impl Routed {
    /// `None`: it waits for something, and the connection is closing. An answer that is on
    /// its way is sent.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Option<Polled> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Some(Poll::Ready(frame));
        }
        let made = || Box::pin(self.peer.closing.clone().cancelled_owned());
        let closing = self.closing.get_or_insert_with(made);
        closing.as_mut().poll(cx).is_pending().then_some(Poll::Pending)
    }
}

fn infallible(polled: Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>>) -> Polled {
    polled.map(|frame| frame.map(|Ok(frame)| Ok(frame)))
}
