//! Watchers: the events of sessions, delivered to watchers.
//!
//! Each watcher has a bounded queue of its own. An event goes into the queues of the
//! watchers whose filter admits it, and nothing waits: a watcher whose queue is full is
//! dropped on the spot. It still reads what was queued, and then a fault that tells it to
//! watch again and to list. While nobody watches, an event costs one look at a number.

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

use super::fault::{Fault, Reason};
use crate::session::{
    clock::WallTime,
    event::{Cause, Event, EventKind, EventSink},
    id::PublicId,
    record::Principal,
};

/// All watchers of a daemon, over all of its engines.
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
    // Watchers share the events: a queue holds only pointers of its own.
    queue: mpsc::Sender<Arc<WatchedEvent>>,
}

/// An [`Event`] that waits in a queue.
#[derive(Debug, Clone)]
pub struct WatchedEvent {
    /// The engine's name.
    pub engine: String,
    /// Its public id, which is no credential.
    pub session: PublicId,
    /// The principal after the event; of a session that has ended, its last one.
    pub principal: Principal,
    /// When it happened, by the wall clock.
    pub time: WallTime,
    /// What happened.
    pub kind: WatchedKind,
}

/// An [`EventKind`] that waits in a queue.
#[derive(Debug, Clone)]
pub enum WatchedKind {
    /// By a Write, by a Resolve with `create`, or by an adoption.
    Created,
    /// `former` is the principal before that.
    Rolled {
        /// Empty: it was anonymous.
        former: Principal,
    },
    /// It was live until then.
    Destroyed(Cause),
    /// A cleanup removed it. The deadline may have passed some time before.
    Expired,
}

impl From<&Event<'_>> for WatchedEvent {
    fn from(event: &Event<'_>) -> Self {
        Self {
            engine: event.engine.to_owned(),
            session: event.session,
            principal: event.principal.clone(),
            time: event.time,
            kind: match event.kind {
                EventKind::Created => WatchedKind::Created,
                EventKind::Rolled { former } => WatchedKind::Rolled { former: former.clone() },
                EventKind::Destroyed(cause) => WatchedKind::Destroyed(cause),
                EventKind::Expired => WatchedKind::Expired,
            },
        }
    }
}

/// Which events a watcher gets. A field that is `None` admits every event.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// The engine's name.
    pub engine: Option<String>,
    /// The principal before or after the event.
    pub principal: Option<Principal>,
}

impl Filter {
    fn admits(&self, event: &Event<'_>) -> bool {
        let is_of = |principal: &Principal| {
            let former = match event.kind {
                EventKind::Rolled { former } => former,
                EventKind::Created | EventKind::Destroyed(_) | EventKind::Expired => {
                    event.principal
                }
            };
            principal == event.principal || principal == former
        };
        self.engine.as_deref().is_none_or(|engine| engine == event.engine)
            && self.principal.as_ref().is_none_or(is_of)
    }
}

impl Watchers {
    /// At most `most` watchers, each at most `queue` events behind.
    pub fn new(most: usize, queue: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            queue,
            count: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            present: Mutex::default(),
        })
    }

    /// How many watchers there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// How many were dropped so far because they were too slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// What happens from now on. The stream ends when `stopping` is cancelled.
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
        let mut owned = None;
        let mut present = self.present.lock();
        present.watchers.retain(|Watcher { filter, queue, .. }| {
            if !filter.admits(&event) {
                return true;
            }
            let owned = owned.get_or_insert_with(|| Arc::new(WatchedEvent::from(&event)));
            let sent = queue.try_send(Arc::clone(owned));
            if matches!(sent, Err(mpsc::error::TrySendError::Full(_))) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("a watcher of sessions was dropped: it did not keep up");
                return false;
            }
            true
        });
        self.count.store(present.watchers.len(), Ordering::SeqCst);
    }
}

/// The events of one watcher. Dropping it ends the watching.
pub struct Watch {
    watchers: Arc<Watchers>,
    number: u64,
    events: mpsc::Receiver<Arc<WatchedEvent>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    has_ended: bool,
}

impl Stream for Watch {
    type Item = Result<Arc<WatchedEvent>, Fault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.has_ended {
            return Poll::Ready(None);
        }
        let (reason, message) = match this.events.poll_recv(cx) {
            Poll::Ready(Some(event)) => return Poll::Ready(Some(Ok(event))),
            // The queue closes only when the watcher is dropped.
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
        Poll::Ready(Some(Err(Fault::new(reason, message))))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watchers.leave(self.number);
    }
}
