//! What this room tells whoever keeps the metrics.

use std::{
    future::poll_fn,
    pin::pin,
    time::{Duration, Instant},
};

use super::fault::Reason;
use crate::session::credential::Absence;

/// The operations, as they are counted. One within a pipeline counts as its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rpc {
    Resolve,
    Touch,
    Write,
    Destroy,
}

impl Rpc {
    pub const ALL: [Rpc; 4] = [Self::Resolve, Self::Touch, Self::Write, Self::Destroy];
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The session is live; of a Destroy: was until now.
    Active,
    Created,
    Absent(Absence),
    Failed(Reason),
}

/// Is told of every operation that has ended.
pub trait Observer: Send + Sync + 'static {
    fn finished(&self, rpc: Rpc, outcome: Outcome, elapsed: Duration);
}

/// Runs `work` and says how long it took. What is done at once took no time: the
/// clock is read only for what has to wait, because reading it costs a tenth of
/// what an answer from memory does.
pub async fn timed<F: Future>(work: F) -> (F::Output, Duration) {
    let mut work = pin!(work);
    let mut waiting_since = None;
    let done = poll_fn(|cx| {
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            waiting_since.get_or_insert_with(Instant::now);
        }
        polled
    });
    let done = done.await;
    (done, waiting_since.map_or(Duration::ZERO, |since| since.elapsed()))
}
