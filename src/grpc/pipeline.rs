//! Pipeline: many operations over one stream.
//!
//! The body of the answer drives everything: when it is polled, it runs what is in flight
//! and takes in new requests. It does so as long as fewer operations than the limit are in
//! flight or wait to be sent, and until a frame is full. So flow control holds back a
//! client that does not read its answers, and such a client costs no more than the limit.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    Stream,
    stream::{FusedStream, FuturesUnordered},
};
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::{
    answer,
    convert::{self, GrpcOperation},
    fields::{self, Excess},
    messages::{self, Messages},
    pb::{PipelineRequest, pipeline_request},
    peer::{Peer, RequestBody},
    spans::StreamTraces,
    timeouts::{InTime, Timeouts},
    trailers,
};
use crate::{
    service::{
        answer::Answer,
        engines::Engines,
        fault::{Applied, Fault, Reason},
        input,
        lanes::{Lanes, Ticket},
        observer::Observer,
        operation::{self, Destroy, Resolve, Touch, Write},
        peer_memory::Share,
    },
    timing::Stopwatch,
};

/// The sequence of an operation, and how it ended.
type Outcome = (u64, Result<Answer, Fault>);
type Answering = Pin<Box<dyn Future<Output = Outcome> + Send>>;
type Running = Pin<Box<dyn Future<Output = (Ticket, Outcome)> + Send>>;

/// What comes beside an operation.
struct Order {
    sequence: u64,
    timeout: Option<Duration>,
    /// Length of its message, in bytes.
    len: usize,
}

/// Answers are sent when there are this many octets of them. With the next answer they may
/// exceed a frame of HTTP/2, and the rest would cost another frame.
const ENOUGH_BYTES: usize = 15 << 10;

/// The answers to a stream of requests.
pub struct Pipeline<B> {
    engines: Engines,
    observer: Arc<dyn Observer>,
    traces: StreamTraces,
    limit: usize,
    /// `None` when no more requests will be taken.
    inbound: Option<Messages<B>>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    memory: Arc<Share>,
    /// The trailers, once they are known. They are sent when everything taken in is
    /// answered.
    ending: Option<HeaderMap>,
    lanes: Lanes,
    next_ticket: Ticket,
    running: FuturesUnordered<Running>,
    waiting: HashMap<Ticket, Answering>,
    timeouts: Timeouts,
    /// Times the operations of a turn one after the other. `None`: none has come in this turn.
    watch: Option<Stopwatch>,
    /// Answers that wait to be sent, as messages.
    answers: Vec<u8>,
    /// How many answers these are.
    unsent: usize,
    /// Octets of the frame that was sent last: the next one will be about as long.
    sent_bytes: usize,
}

impl<B: RequestBody> Pipeline<B> {
    /// Takes at most `limit` operations into flight. When the peer's connection is closing
    /// no more are taken; what is in flight is answered, and the stream ends with
    /// UNAVAILABLE.
    pub(super) fn new(
        engines: Engines,
        observer: Arc<dyn Observer>,
        limit: usize,
        inbound: Messages<B>,
        peer: &Peer,
        traces: StreamTraces,
    ) -> Self {
        Self {
            engines,
            observer,
            traces,
            limit,
            inbound: Some(inbound),
            closing: Box::pin(peer.closing.clone().cancelled_owned()),
            memory: Arc::clone(&peer.memory),
            ending: None,
            lanes: Lanes::default(),
            next_ticket: 0,
            running: FuturesUnordered::new(),
            waiting: HashMap::new(),
            timeouts: Timeouts::default(),
            watch: None,
            answers: Vec::new(),
            unsent: 0,
            sent_bytes: 0,
        }
    }

    fn in_flight(&self) -> usize {
        self.running.len() + self.waiting.len() + self.unsent
    }

    /// Takes no more requests. `ending` is sent when all operations are answered.
    fn close(&mut self, ending: Result<(), Status>) {
        self.inbound = None;
        self.ending = Some(ending.map_or_else(trailers::failed, |()| trailers::ok()));
    }

    /// Answers an operation that has finished, or takes in one request, if one has
    /// arrived and there is room. True if something has changed.
    fn step(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.running.is_terminated()
            && let Poll::Ready(Some((ticket, outcome))) = Pin::new(&mut self.running).poll_next(cx)
        {
            if self.timeouts.end(ticket) == InTime::Yes {
                self.answer(outcome);
            }
            for next in self.lanes.leave(ticket) {
                if let Some(answering) = self.waiting.remove(&next) {
                    self.run(next, answering);
                }
            }
            return true;
        }
        if let Poll::Ready((ticket, sequence)) = self.timeouts.poll_late(cx) {
            self.give_up(ticket, sequence);
            return true;
        }
        if self.in_flight() < self.limit {
            return self.take_in(cx);
        }
        self.absorb(cx);
        false
    }

    /// Answers an operation whose time is over. One that runs goes on, so that those behind it
    /// still come after it. One that has not begun never will.
    fn give_up(&mut self, ticket: Ticket, sequence: u64) {
        let mut fault = Fault::new(Reason::Timeout, "the timeout of the operation has passed");
        if let Some(answering) = self.waiting.get_mut(&ticket) {
            fault = fault.with_applied(Applied::No);
            // It keeps its place in the lanes; what it gives when its turn comes is not sent.
            *answering = Box::pin(ready((sequence, Err(Fault::new(Reason::Timeout, "")))));
        }
        self.answer((sequence, Err(fault)));
    }

    /// Takes in what has arrived, without starting anything. Call it while the pipeline is
    /// not polled.
    pub(super) fn absorb(&mut self, cx: &mut Context<'_>) {
        if let Some(inbound) = &mut self.inbound {
            inbound.absorb(cx);
        }
    }

    fn take_in(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(inbound) = &mut self.inbound else {
            return false;
        };
        match inbound.poll_next(cx) {
            Poll::Pending => return false,
            Poll::Ready(Some(Ok(message))) => self.start(message, cx),
            Poll::Ready(Some(Err(status))) => self.close(Err(status)),
            Poll::Ready(None) => self.close(Ok(())),
        }
        true
    }

    fn start(&mut self, message: Bytes, cx: &mut Context<'_>) {
        use pipeline_request::Operation as Of;
        self.watch.get_or_insert_with(Stopwatch::start);
        let len = message.len();
        match fields::check_pipelined(&message) {
            Ok(()) => {}
            Err(Excess::Repeated { sequence, fault }) => {
                return self.answer((sequence, Err(fault)));
            }
            Err(Excess::Fields(fault)) => return self.close(Err(fault.into())),
        }
        let mut request = PipelineRequest::default();
        if let Err(status) = messages::decode(message, &mut request) {
            return self.close(Err(status));
        }
        let sequence = request.sequence;
        let timeout = match request.timeout.map(convert::raw_duration).map(input::timeout) {
            None => None,
            Some(Ok(timeout)) => Some(timeout),
            Some(Err(fault)) => return self.answer((sequence, Err(fault))),
        };
        let order = Order { sequence, timeout, len };
        match request.operation {
            Some(Of::Resolve(request)) => self.start_as::<Resolve>(order, request, cx),
            Some(Of::Touch(request)) => self.start_as::<Touch>(order, request, cx),
            Some(Of::Write(request)) => self.start_as::<Write>(order, request, cx),
            Some(Of::Destroy(request)) => self.start_as::<Destroy>(order, request, cx),
            None => {
                let problem = "expected one of resolve, touch, write and destroy, found none";
                let fault = Fault::at(Reason::InvalidArgument, "operation", problem);
                self.answer((sequence, Err(fault)));
            }
        }
    }

    fn start_as<O: GrpcOperation>(
        &mut self,
        Order { sequence, timeout, len }: Order,
        mut message: O::Message,
        cx: &mut Context<'_>,
    ) {
        let mut span = self.traces.operation(O::KIND, timeout);
        let request = O::request(&mut message);
        let observer = self.observer.as_ref();
        let watch = self.watch.get_or_insert_with(Stopwatch::start);
        let prepared = operation::prepared::<O>(&self.engines, request, observer, watch);
        let operation = prepared.and_then(|operation| self.memory.admit().map(|()| operation));
        let operation = match operation {
            Ok(operation) => operation,
            Err(fault) => {
                span.end(Err(&fault));
                return self.answer((sequence, Err(fault)));
            }
        };
        // Most are answered from memory and need no place in the lanes.
        let free = self.lanes.are_free(operation.presented().reach());
        if free && let Some(answer) = operation::recalled(&operation, observer, watch) {
            span.end(Ok(&answer));
            return self.answer((sequence, Ok(answer)));
        }
        // It may wait for the store.
        let held = match self.memory.hold(len) {
            Ok(held) => held,
            Err(fault) => {
                span.end(Err(&fault));
                return self.answer((sequence, Err(fault)));
            }
        };
        let presented = operation.presented().clone();
        // Its own time goes on. That of the next one begins now.
        let since = *watch;
        watch.lap();
        let observer = Arc::clone(&self.observer);
        let mut answering: Answering = Box::pin(async move {
            let _held = held;
            let answer = if free {
                span.within(operation::observed(operation, observer.as_ref(), since)).await
            } else {
                // What it waits for may have brought the session into memory.
                span.within(operation::answered(operation, observer.as_ref(), since)).await
            };
            span.end(answer.as_ref());
            (sequence, answer)
        });
        if free && let Poll::Ready(outcome) = answering.as_mut().poll(cx) {
            return self.answer(outcome);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if let Some(timeout) = timeout {
            self.timeouts.start(ticket, sequence, timeout);
        }
        if self.lanes.enter(ticket, presented.reach()) {
            self.run(ticket, answering);
        } else {
            self.waiting.insert(ticket, answering);
        }
    }

    fn run(&mut self, ticket: Ticket, answering: Answering) {
        self.running.push(Box::pin(async move { (ticket, answering.await) }));
    }

    fn answer(&mut self, (sequence, outcome): Outcome) {
        if self.answers.is_empty() {
            self.answers.reserve(self.sent_bytes);
        }
        self.unsent += 1;
        match outcome {
            Ok(answer) => answer::put_in_pipeline(&answer, sequence, &mut self.answers),
            Err(fault) => answer::put_fault_in_pipeline(sequence, fault, &mut self.answers),
        }
    }
}

impl<B: RequestBody> Body for Pipeline<B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.inbound.is_some() && this.closing.as_mut().poll(cx).is_ready() {
            let message = "the connection is closing; operations that are not answered \
                           were not applied, send them over another one";
            this.close(Err(Fault::new(Reason::ShuttingDown, message).into()));
        }
        this.watch = None;
        while this.answers.len() < ENOUGH_BYTES && this.step(cx) {}
        if !this.answers.is_empty() {
            this.unsent = 0;
            let answers = std::mem::take(&mut this.answers);
            this.sent_bytes = answers.len();
            return Poll::Ready(Some(Ok(Frame::data(answers.into()))));
        }
        if this.inbound.is_some() || this.in_flight() > 0 {
            return Poll::Pending;
        }
        Poll::Ready(this.ending.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}
