//! Pipeline: many operations over one stream.
//!
//! The stream of answers drives everything: when it is polled, it runs what is
//! in flight and takes in new requests, as long as fewer than the limit are in
//! flight or wait to be sent. A client that does not read its answers is thus
//! held by flow control, and costs no more than the limit.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{
    Stream,
    stream::{FusedStream, FuturesUnordered},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::{
    engines::Engines,
    fault::{self, Fault, Reason},
    lanes::{Lanes, Ticket},
    observer::Observer,
    operation::{self, Operation},
    wire::{PipelineRequest, PipelineResponse, pipeline_request, pipeline_response},
};
use crate::session::store::Store;

type Answering = Pin<Box<dyn Future<Output = PipelineResponse> + Send>>;
type Running = Pin<Box<dyn Future<Output = (Ticket, PipelineResponse)> + Send>>;

/// The answers to a stream of requests.
pub struct Pipeline<S, I> {
    engines: Engines<S>,
    observer: Arc<dyn Observer>,
    limit: usize,
    /// `None` when no more requests will be taken.
    inbound: Option<I>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    /// How the stream ends once everything taken in is answered.
    ending: Option<Status>,
    lanes: Lanes,
    next_ticket: Ticket,
    running: FuturesUnordered<Running>,
    waiting: HashMap<Ticket, Answering>,
    answers: VecDeque<PipelineResponse>,
}

impl<S: Store, I> Pipeline<S, I>
where
    I: Stream<Item = Result<PipelineRequest, Status>> + Send + Unpin,
{
    /// Takes at most `limit` operations into flight. When `stopping` is
    /// cancelled no more are taken; what is in flight is answered, and the
    /// stream ends with UNAVAILABLE.
    pub fn new(
        engines: Engines<S>,
        observer: Arc<dyn Observer>,
        limit: usize,
        inbound: I,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            engines,
            observer,
            limit,
            inbound: Some(inbound),
            stopping: Box::pin(stopping.cancelled_owned()),
            ending: None,
            lanes: Lanes::default(),
            next_ticket: 0,
            running: FuturesUnordered::new(),
            waiting: HashMap::new(),
            answers: VecDeque::new(),
        }
    }

    fn in_flight(&self) -> usize {
        self.running.len() + self.waiting.len() + self.answers.len()
    }

    fn close(&mut self, ending: Option<Status>) {
        self.inbound = None;
        self.ending = ending;
    }

    /// Takes in one request, if one is there and there is room. True when
    /// something has changed.
    fn take_in(&mut self, cx: &mut Context<'_>) -> bool {
        if self.inbound.is_some() && self.stopping.as_mut().poll(cx).is_ready() {
            let message = "the daemon is shutting down; operations that are not answered \
                           were not applied, send them to the next one";
            self.close(Some(Fault::new(Reason::ShuttingDown, message).into_status()));
            return true;
        }
        if self.in_flight() >= self.limit {
            return false;
        }
        let Some(inbound) = &mut self.inbound else {
            return false;
        };
        match Pin::new(inbound).poll_next(cx) {
            Poll::Pending => return false,
            Poll::Ready(Some(Ok(request))) => self.start(request, cx),
            Poll::Ready(Some(Err(status))) => {
                let status = fault::of_transport(&status).map_or(status, Fault::into_status);
                self.close(Some(status));
            }
            Poll::Ready(None) => self.close(None),
        }
        true
    }

    fn start(&mut self, request: PipelineRequest, cx: &mut Context<'_>) {
        use pipeline_request::Operation as Of;
        use pipeline_response::Result as Answer;
        let sequence = request.sequence;
        match request.operation {
            Some(Of::Resolve(request)) => {
                self.start_as::<operation::Resolve<S>>(sequence, request, Answer::Resolve, cx);
            }
            Some(Of::Touch(request)) => {
                self.start_as::<operation::Touch<S>>(sequence, request, Answer::Touch, cx);
            }
            Some(Of::Write(request)) => {
                self.start_as::<operation::Write<S>>(sequence, request, Answer::Write, cx);
            }
            Some(Of::Destroy(request)) => {
                self.start_as::<operation::Destroy<S>>(sequence, request, Answer::Destroy, cx);
            }
            None => {
                let problem = "expected one of resolve, touch, write and destroy, found none";
                let fault = Fault::at(Reason::InvalidArgument, "operation", problem);
                self.answers.push_back(failed(sequence, fault));
            }
        }
    }

    fn start_as<O: Operation<S>>(
        &mut self,
        sequence: u64,
        request: O::Request,
        wrap: fn(O::Response) -> pipeline_response::Result,
        cx: &mut Context<'_>,
    ) {
        let operation =
            match operation::prepared::<S, O>(&self.engines, request, self.observer.as_ref()) {
                Ok(operation) => operation,
                Err(fault) => return self.answers.push_back(failed(sequence, fault)),
            };
        // Most are answered from memory and need no place in the lanes.
        let free = self.lanes.are_free(operation.presented().sessions());
        if free && let Some(response) = operation::recalled(&operation, self.observer.as_ref()) {
            let result = Some(wrap(response));
            return self.answers.push_back(PipelineResponse { sequence, result });
        }
        let presented = operation.presented().clone();
        let observer = Arc::clone(&self.observer);
        let mut answering: Answering = Box::pin(async move {
            match operation::observed(operation, observer.as_ref()).await {
                Ok(response) => PipelineResponse { sequence, result: Some(wrap(response)) },
                Err(fault) => failed(sequence, fault),
            }
        });
        if free && let Poll::Ready(answer) = answering.as_mut().poll(cx) {
            return self.answers.push_back(answer);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if self.lanes.enter(ticket, presented.sessions()) {
            self.run(ticket, answering);
        } else {
            self.waiting.insert(ticket, answering);
        }
    }

    fn run(&mut self, ticket: Ticket, answering: Answering) {
        self.running.push(Box::pin(async move { (ticket, answering.await) }));
    }
}

fn failed(sequence: u64, fault: Fault) -> PipelineResponse {
    let result = Some(pipeline_response::Result::Error(fault.into_message()));
    PipelineResponse { sequence, result }
}

impl<S: Store, I> Stream for Pipeline<S, I>
where
    I: Stream<Item = Result<PipelineRequest, Status>> + Send + Unpin,
{
    type Item = Result<PipelineResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(answer) = this.answers.pop_front() {
                return Poll::Ready(Some(Ok(answer)));
            }
            if !this.running.is_terminated()
                && let Poll::Ready(Some((ticket, answer))) =
                    Pin::new(&mut this.running).poll_next(cx)
            {
                this.answers.push_back(answer);
                for next in this.lanes.leave(ticket) {
                    if let Some(answering) = this.waiting.remove(&next) {
                        this.run(next, answering);
                    }
                }
                continue;
            }
            if this.take_in(cx) {
                continue;
            }
            if this.inbound.is_none() && this.in_flight() == 0 {
                return Poll::Ready(this.ending.take().map(Err));
            }
            return Poll::Pending;
        }
    }
}
