//! When a connection takes no more calls, and when it ends.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How long a peer may go on opening calls after GOAWAY. A healthy one needs the time of a
/// round trip.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the streams of a connection that is too old go on after GOAWAY: time to open
/// another connection and to move there.
const STREAM_GRACE: Duration = Duration::from_secs(5);

/// A connection is told to go when the daemon stops, when it has reached its age, and when it is
/// displaced (`places` cuts it soon). Its
/// streams end then, at once if the daemon stops and otherwise after a grace, and a peer that
/// does not go by itself is cut off when its calls are answered.
pub(super) struct Closing {
    stopping: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    age: Option<Pin<Box<Sleep>>>,
    /// Ends the streams when cancelled. It is a child of the daemon's own token.
    streams: CancellationToken,
    /// The end of the grace for streams.
    grace: Option<Pin<Box<Sleep>>>,
    told: Told,
}

enum Told {
    Nothing,
    /// To go, until this timer fires.
    ToGo(Pin<Box<Sleep>>),
    /// New calls are refused.
    Refused,
}

impl Closing {
    pub(super) fn new(
        stopping: &CancellationToken,
        streams: CancellationToken,
        age: Option<Duration>,
    ) -> Self {
        Self {
            stopping: Some(Box::pin(stopping.clone().cancelled_owned())),
            age: age.map(|age| Box::pin(sleep(age))),
            streams,
            grace: None,
            told: Told::Nothing,
        }
    }

    /// Ready once: when the peer is to be told to go, be it because its place is needed.
    pub(super) fn poll_goaway(&mut self, cx: &mut Context<'_>, is_displaced: bool) -> Poll<()> {
        let stops = is_over(&mut self.stopping, cx);
        let is_old = is_over(&mut self.age, cx);
        if is_old {
            self.grace = Some(Box::pin(sleep(STREAM_GRACE)));
        }
        if is_over(&mut self.grace, cx) {
            self.streams.cancel();
        }
        let tells = (stops || is_old || is_displaced) && matches!(self.told, Told::Nothing);
        if tells {
            self.told = Told::ToGo(Box::pin(sleep(GOAWAY_TIMEOUT)));
        }
        if let Told::ToGo(timer) = &mut self.told
            && timer.as_mut().poll(cx).is_ready()
        {
            self.told = Told::Refused;
        }
        if tells { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The peer was told to go.
    pub(super) fn has_told(&self) -> bool {
        !matches!(self.told, Told::Nothing)
    }

    /// The peer was told to go some time ago: it may open no more calls.
    pub(super) fn is_refusing(&self) -> bool {
        matches!(self.told, Told::Refused)
    }
}

/// True once: when it completes.
fn is_over<F: Future>(waited_for: &mut Option<Pin<Box<F>>>, cx: &mut Context<'_>) -> bool {
    let over = waited_for.as_mut().is_some_and(|future| future.as_mut().poll(cx).is_ready());
    if over {
        *waited_for = None;
    }
    over
}
