//! What the calls of one connection share, and what the transport gives them.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio_util::sync::CancellationToken;

use crate::service::{
    access::Origin,
    fault::{Fault, Reason},
    peer_memory::{PeerMemory, Share},
};

/// Calls of the health service that may be unfinished at a time on one connection. It is
/// open to peers without a token, and no client needs more than a few.
const MAX_HEALTH_CALLS: usize = 8;

/// The other end of a connection, as its calls see it.
#[derive(Debug)]
pub struct Peer {
    /// What it makes the daemon hold.
    pub memory: Arc<Share>,
    /// Cancelled when its streams must end: the daemon stops, or the connection is too old.
    pub closing: CancellationToken,
    /// How long it may take for the rest of a message, or leave an answer unread.
    pub stall_timeout: Duration,
    /// Where it is, and what its certificate says.
    pub origin: Origin,
    health_calls: Arc<AtomicUsize>,
}

impl Peer {
    /// A peer of unknown origin that has no call yet.
    pub fn new(memory: Arc<Share>, closing: CancellationToken, stall_timeout: Duration) -> Self {
        let (origin, health_calls) = (Origin::default(), Arc::default());
        Self { memory, closing, stall_timeout, origin, health_calls }
    }

    /// The same peer, which is known to be there.
    pub fn at(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    /// A peer whose calls are not bounded, for use without the server.
    pub fn unbounded() -> Arc<Self> {
        let memory = PeerMemory::new(usize::MAX).share();
        let a_day = Duration::from_secs(24 * 60 * 60);
        Arc::new(Self::new(memory, CancellationToken::new(), a_day))
    }

    /// A place for a call of the health service.
    pub(super) fn health_call(&self) -> Result<HealthCall, Fault> {
        let place = HealthCall(Arc::clone(&self.health_calls));
        if place.0.fetch_add(1, Ordering::Relaxed) < MAX_HEALTH_CALLS {
            return Ok(place);
        }
        let problem = format!(
            "at most {MAX_HEALTH_CALLS} calls of the health service at a time on one connection"
        );
        Err(Fault::new(Reason::Overloaded, problem))
    }
}

/// Counts an unfinished call of the health service until dropped.
#[derive(Debug)]
pub(super) struct HealthCall(Arc<AtomicUsize>);

impl Drop for HealthCall {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a request, whose reader says when it needs the octets no more.
pub trait RequestBody: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static {
    /// Lets the peer send `octets` more. They were read before.
    fn release(&mut self, octets: usize);
}

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body without flow control of its own, or whose octets may be sent anew as soon as they
/// are read.
pub struct ReleasedWhenRead<B>(pub B);

impl<B> RequestBody for ReleasedWhenRead<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    fn release(&mut self, _: usize) {}
}

impl<B: Body<Data = Bytes> + Unpin> Body for ReleasedWhenRead<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// The reverse: a request body for readers that do not say what they need.
pub(super) struct ReadOnce<B>(pub(super) B);

impl<B: RequestBody> Body for ReadOnce<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.0).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.0.release(data.len());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}
