//! The timeouts of a pipeline's operations.

use std::{
    collections::HashMap,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio_util::time::{DelayQueue, delay_queue::Key};

use crate::service::lanes::Ticket;

/// Whether an operation ended before its time was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InTime {
    Yes,
    No,
}

/// The operations that have a timeout and have not ended.
#[derive(Default)]
pub(super) struct Timeouts {
    queue: DelayQueue<Ticket>,
    going: HashMap<Ticket, Going>,
}

struct Going {
    sequence: u64,
    /// `None`: its time is over.
    key: Option<Key>,
}

impl Timeouts {
    /// The time of an operation begins.
    pub(super) fn start(&mut self, ticket: Ticket, sequence: u64, timeout: Duration) {
        let key = Some(self.queue.insert(ticket, timeout));
        self.going.insert(ticket, Going { sequence, key });
    }

    /// An operation has ended.
    pub(super) fn end(&mut self, ticket: Ticket) -> InTime {
        match self.going.remove(&ticket) {
            None => InTime::Yes,
            Some(Going { key: Some(key), .. }) => {
                self.queue.remove(&key);
                InTime::Yes
            }
            Some(Going { key: None, .. }) => InTime::No,
        }
    }

    /// The next operation whose time is over, and its sequence.
    pub(super) fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<(Ticket, u64)> {
        // Of most pipelines no operation has a timeout, and each step comes here.
        if self.going.is_empty() {
            return Poll::Pending;
        }
        // An empty queue keeps no waker, so it is not asked.
        while !self.queue.is_empty() {
            let Some(late) = ready!(self.queue.poll_expired(cx)) else { break };
            let ticket = late.into_inner();
            if let Some(going) = self.going.get_mut(&ticket) {
                going.key = None;
                return Poll::Ready((ticket, going.sequence));
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_that_do_not_end_are_late_in_the_order_of_their_times() {
        let started = Instant::now();
        let mut timeouts = Timeouts::default();
        for (ticket, seconds) in [(1, 30), (2, 10), (3, 20)] {
            timeouts.start(ticket, 100 + ticket, Duration::from_secs(seconds));
        }
        assert_eq!(timeouts.end(3), InTime::Yes);
        assert_eq!(timeouts.end(4), InTime::Yes, "one without a timeout is never late");
        for (expected, after) in [((2, 102), 10), ((1, 101), 30)] {
            assert_eq!(poll_fn(|cx| timeouts.poll_late(cx)).await, expected);
            assert_eq!(started.elapsed().as_secs(), after);
        }
        assert_eq!((timeouts.end(1), timeouts.end(1)), (InTime::No, InTime::Yes));
    }
}
