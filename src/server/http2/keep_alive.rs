//! Pings, so that a connection whose peer is gone is noticed.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use super::pace::Pace;
use crate::server::listen::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};

/// Pings a peer that has been silent for [`KEEPALIVE_INTERVAL`].
pub(super) struct KeepAlive {
    pings: Option<PingPong>,
    timer: Pin<Box<Sleep>>,
    /// When a ping was sent that is not answered yet.
    pinged: Option<Instant>,
}

impl KeepAlive {
    pub(super) fn of<Io, B>(connection: &mut h2::server::Connection<Io, B>) -> Self
    where
        Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
        B: bytes::Buf,
    {
        let timer = Box::pin(sleep(KEEPALIVE_INTERVAL));
        Self { pings: connection.ping_pong(), timer, pinged: None }
    }

    /// Ready if the peer has not been heard for [`KEEPALIVE_TIMEOUT`] after a ping.
    pub(super) fn poll_dead(&mut self, cx: &mut Context<'_>, pace: &Pace) -> Poll<()> {
        let Some(pings) = &mut self.pings else {
            return Poll::Pending;
        };
        if self.pinged.is_some() && pings.poll_pong(cx).is_ready() {
            self.pinged = None;
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            // Any octet is a sign of life, and resetting the timer only when it fires is
            // cheaper than at every read.
            let silent_since = pace.heard();
            let due = silent_since + KEEPALIVE_INTERVAL;
            let now = Instant::now();
            if due > now {
                self.timer.as_mut().reset(due);
            } else if self.pinged.is_some_and(|pinged| pinged >= silent_since) {
                return Poll::Ready(());
            } else {
                // An error: the ping before was never answered, although something was heard.
                let _ = pings.send_ping(Ping::opaque());
                self.pinged = Some(now);
                self.timer.as_mut().reset(now + KEEPALIVE_TIMEOUT);
            }
        }
        Poll::Pending
    }
}
