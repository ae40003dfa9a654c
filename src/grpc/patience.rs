//! How long a call waits for its peer.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// A bound on one wait for a peer: for the rest of a message, or until an answer is read.
///
/// A wait that is short costs a look at the clock: the timer is made at the first wait, kept
/// for the next ones, and set again only when it fires.
#[derive(Debug)]
pub struct Patience {
    limit: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Waits for `limit` at most.
    pub fn new(limit: Duration) -> Self {
        Self { limit, since: None, timer: None }
    }

    /// Call it while the call waits. Ready if it has waited for too long.
    pub fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The first poll of a call wakes nobody: most calls need no second one.
        if cx.waker().will_wake(Waker::noop()) {
            return Poll::Pending;
        }
        let until = *self.since.get_or_insert_with(Instant::now) + self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        while timer.as_mut().poll(cx).is_ready() {
            if until <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
        Poll::Pending
    }

    /// What was waited for has come.
    pub fn restore(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_lost_after_one_long_wait_and_not_after_many_short_ones() {
        let limit = Duration::from_secs(20);
        let mut patience = Patience::new(limit);
        for _ in 0..5 {
            let short = Duration::from_secs(15);
            let lost = tokio::time::timeout(short, poll_fn(|cx| patience.poll_lost(cx))).await;
            assert!(lost.is_err(), "each wait is shorter than the limit");
            patience.restore();
        }
        let started = Instant::now();
        poll_fn(|cx| patience.poll_lost(cx)).await;
        assert_eq!(started.elapsed().as_secs(), limit.as_secs());
    }
}
