//! Watchers: what happens to sessions, to those who watch.
//!
//! Each watcher has a queue of its own. An event goes into the queues of those
//! whom it concerns, and nobody waits: a watcher whose queue is full is dropped
//! on the spot, finds what was queued and then a status that says so, and is to
//! watch and list anew. While nobody watches an event costs one look at a number.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::{
    convert,
    fault::{Fault, Reason},
    wire::{SessionEndCause, SessionEventKind, WatchSessionsResponse},
};
use crate::session::{
    event::{Cause, Event, EventKind, EventSink},
    record::Principal,
};

/// All who watch, over all engines of a daemon.
pub struct Watchers {
    /// How many there may be.
    most: usize,
    /// Events that one may be behind.
    queue: usize,
    count: AtomicUsize,
    dropped: AtomicU64,
    // Not an async lock, because nothing is awaited while it is held.
    present: Mutex<Present>,
}

#[derive(Default)]
struct Present {
    next_number: u64,
    watchers: Vec<Watcher>,
}

struct Watcher {
    number: u64,
    filter: Filter,
    queue: mpsc::Sender<WatchSessionsResponse>,
}

/// What a watcher wants to know of; `None`: of all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub engine: Option<String>,
    pub principal: Option<Principal>,
}

impl Filter {
    fn admits(&self, event: &Event<'_>) -> bool {
        let is_of = |principal: &Principal| {
            let former = match event.kind {
                EventKind::Rolled { former } => former,
                _ => event.principal,
            };
            principal == event.principal || principal == former
        };
        self.engine.as_deref().is_none_or(|engine| engine == event.engine)
            && self.principal.as_ref().is_none_or(is_of)
    }
}

impl Watchers {
    pub fn new(most: usize, queue: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            queue,
            count: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            present: Mutex::default(),
        })
    }

    /// How many watch.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// How many were dropped so far, because they were too slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// What happens from now on. When `stopping` is cancelled the stream ends.
    pub fn watch(
        self: &Arc<Self>,
        filter: Filter,
        stopping: CancellationToken,
    ) -> Result<Watch, Fault> {
        let mut present = self.present.lock();
        if present.watchers.len() >= self.most {
            let message = format!(
                "{} watch already, as many as limits.max_watchers allows; end one of them first",
                self.most
            );
            return Err(Fault::new(Reason::TooManyWatchers, message));
        }
        let (queue, events) = mpsc::channel(self.queue);
        let number = present.next_number;
        present.next_number += 1;
        present.watchers.push(Watcher { number, filter, queue });
        self.count.store(present.watchers.len(), Ordering::SeqCst);
        Ok(Watch {
            watchers: Arc::clone(self),
            number,
            events,
            stopping: Box::pin(stopping.cancelled_owned()),
            has_ended: false,
        })
    }

    fn leave(&self, number: u64) {
        let mut present = self.present.lock();
        present.watchers.retain(|watcher| watcher.number != number);
        self.count.store(present.watchers.len(), Ordering::SeqCst);
    }
}

impl EventSink for Watchers {
    fn is_listening(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    fn emit(&self, event: Event<'_>) {
        let mut message = None;
        let mut present = self.present.lock();
        present.watchers.retain(|Watcher { filter, queue, .. }| {
            if !filter.admits(&event) {
                return true;
            }
            let message = message.get_or_insert_with(|| response(&event));
            let told = queue.try_send(message.clone());
            if matches!(told, Err(mpsc::error::TrySendError::Full(_))) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("a watcher of sessions was dropped: it did not keep up");
                return false;
            }
            true
        });
        self.count.store(present.watchers.len(), Ordering::SeqCst);
    }
}

fn response(event: &Event<'_>) -> WatchSessionsResponse {
    let mut response = WatchSessionsResponse {
        engine: event.engine.to_owned(),
        session_id: event.session.to_string(),
        principal: event.principal.as_bytes().clone(),
        event_time: Some(convert::timestamp(event.time)),
        ..Default::default()
    };
    let kind = match event.kind {
        EventKind::Created => SessionEventKind::Created,
        EventKind::Rolled { former } => {
            response.former_principal = former.as_bytes().clone();
            SessionEventKind::Rolled
        }
        EventKind::Destroyed(cause) => {
            response.cause = end_cause(cause).into();
            SessionEventKind::Destroyed
        }
        EventKind::Expired => SessionEventKind::Expired,
    };
    response.kind = kind.into();
    response
}

fn end_cause(cause: Cause) -> SessionEndCause {
    match cause {
        Cause::Owner => SessionEndCause::Owner,
        Cause::Scope => SessionEndCause::Scope,
        Cause::Revoked => SessionEndCause::Revoked,
        Cause::Limit => SessionEndCause::Limit,
    }
}

/// The events of one watcher. It is none any more when this is dropped.
pub struct Watch {
    watchers: Arc<Watchers>,
    number: u64,
    events: mpsc::Receiver<WatchSessionsResponse>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    has_ended: bool,
}

impl Stream for Watch {
    type Item = Result<WatchSessionsResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.has_ended {
            return Poll::Ready(None);
        }
        let (reason, message) = match this.events.poll_recv(cx) {
            Poll::Ready(Some(event)) => return Poll::Ready(Some(Ok(event))),
            // Only who drops a watcher closes its queue.
            Poll::Ready(None) => {
                let message = "events were not read as fast as they came, and some are lost; watch \
                               anew, and then list what matters";
                (Reason::WatcherTooSlow, message)
            }
            Poll::Pending if this.stopping.as_mut().poll(cx).is_ready() => {
                let message = "the daemon is shutting down; watch the next one, and then list what \
                               matters";
                (Reason::ShuttingDown, message)
            }
            Poll::Pending => return Poll::Pending,
        };
        this.has_ended = true;
        Poll::Ready(Some(Err(Fault::new(reason, message).into_status())))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watchers.leave(self.number);
    }
}
