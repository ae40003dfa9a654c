//! HTTP/2: owns a connection from its preface to its end.
//!
//! hyper would serve it as well, but it hides settings of h2 and decides by itself when flow
//! control lets a peer go on. Here a request's octets are released as they are used
//! ([`call`]), and a connection has a bounded share of its thread ([`pace`], [`metered`]).
//!
//! | file | holds |
//! |---|---|
//! | this one | the settings, and the loop that serves a connection |
//! | [`call`] | one call: its request's body, its answer |
//! | [`closing`] | when a connection takes no more calls, and when it ends |
//! | [`keep_alive`] | pings |
//! | [`metered`] | what is read and written, counted and bounded |
//! | [`pace`] | how much a connection may cost |

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{Stream, stream::FuturesUnordered};
use h2::{Reason, RecvStream, server::SendResponse};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::{
    call::{Call, Chunk},
    closing::Closing,
    keep_alive::KeepAlive,
    metered::{CoalescingWriter, Metered},
    pace::Pace,
};
use super::{
    config::Limits,
    places::{OpenCall, PlaceHandle},
};
use crate::{
    grpc::{handler::Handler, peer::Peer},
    service::{
        access::Origin,
        peer_memory::{Held, PeerMemory},
    },
};

mod call;
mod closing;
mod keep_alive;
mod metered;
mod pace;

/// How much a peer may send before it is used, per call and per connection. A larger window
/// would let a peer occupy that much more memory. A smaller one would slow a pipeline on a
/// network with a latency of some milliseconds.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;
/// How much of one call may wait to be sent.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// The smallest allowed size (RFC 9113, section 4.2). A larger frame would delay other
/// streams.
const FRAME_BYTES: u32 = 16 << 10;

/// h2 charges each small DATA frame that is not read yet with 256 octets less its length, and
/// ends the connection when this is used up. A pipeline reads all frames of a turn in that
/// turn, and [`pace`] bounds how many these are. So only a call that nobody reads comes near.
const DATA_FRAME_BUDGET: usize = 1 << 20;

/// How long a connection that was told to go is read after its end.
const LINGER: Duration = Duration::from_millis(200);

/// For how many calls that arrive together a connection keeps room.
const KEPT_ARRIVALS: usize = 64;

/// What an open call costs while it waits, its place in h2 included.
const WAITING_CALL_BYTES: usize = 2 << 10;

/// What the connections of a listener are served with.
#[derive(Clone)]
pub(super) struct Http2 {
    pub limits: Limits,
    pub handler: Arc<Handler>,
    pub memory: Arc<PeerMemory>,
    /// Cancelled when the daemon stops.
    pub stopping: CancellationToken,
}

impl Http2 {
    /// Serves a connection until it ends. It is told to go at this `age`, and when its place
    /// is needed for another one.
    pub(super) async fn serve<Io>(
        &self,
        mut io: Io,
        origin: Origin,
        age: Option<Duration>,
        place: &PlaceHandle,
    ) -> Result<(), h2::Error>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let pace = Arc::new(Pace::default());
        let stall_timeout = self.limits.stall_timeout.0;
        let metered = Metered::new(&mut io, Arc::clone(&pace), stall_timeout);
        let handshake = self.settings().handshake::<_, Chunk>(CoalescingWriter::new(metered));
        let mut handshake = Box::pin(handshake);
        let mut stopping = std::pin::pin!(self.stopping.cancelled());
        let connection = poll_fn(|cx| {
            pace.begin_turn(0);
            match handshake.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                // Nothing was begun that could be finished.
                Poll::Pending => stopping.as_mut().poll(cx).map(|()| None),
            }
        });
        let Some(mut connection) = connection.await.transpose()? else {
            return Ok(());
        };
        drop(handshake);
        let keep_alive = KeepAlive::of(&mut connection);
        let token = self.stopping.child_token();
        let peer = Peer::new(self.memory.share(), token.clone(), stall_timeout).at(origin);
        let peer = Arc::new(peer);
        let mut serving = Serving {
            connection,
            keep_alive,
            closing: Closing::new(&self.stopping, token, age),
            pace,
            place,
            handler: &self.handler,
            peer,
            arrived: Vec::new(),
            waiting: FuturesUnordered::new(),
        };
        poll_fn(|cx| serving.poll(cx)).await?;
        let was_told_to_go = serving.closing.has_told();
        drop(serving);
        if was_told_to_go {
            linger(&mut io).await;
        }
        Ok(())
    }

    fn settings(&self) -> h2::server::Builder {
        let header_bytes = self.limits.max_header_bytes.0.try_into().unwrap_or(u32::MAX);
        let mut settings = h2::server::Builder::new();
        settings
            .max_concurrent_streams(self.limits.max_concurrent_streams)
            .max_header_list_size(header_bytes)
            .max_frame_size(FRAME_BYTES)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .data_frame_budget(DATA_FRAME_BUDGET)
            // Resets are bounded by their rate (`pace`). A sum over the life of a connection
            // ends honest ones whose calls were late or cancelled.
            .max_pending_accept_reset_streams(usize::MAX)
            .max_local_error_reset_streams(None);
        settings
    }
}

/// Reads what a peer has sent before it knew of the end, and throws it away. If that were left
/// unread, the system would reset the connection, and the peer could lose the last answers and
/// the reason why its streams have ended (RFC 9112, section 9.6, says this of HTTP/1.1).
async fn linger(io: &mut (impl AsyncRead + Unpin)) {
    let mut rest = [0; 1024];
    let read = async { while matches!(io.read(&mut rest).await, Ok(1..)) {} };
    // Over: the peer does not go, and has had the time to read.
    let _ = timeout(LINGER, read).await;
}

/// A connection that is served.
///
/// All its calls run on its own task. So requests that arrive together are answered before
/// anything is sent, and their answers leave together. And if the disk completes many of them
/// at once, the task is woken once.
struct Serving<'s, Io> {
    connection: h2::server::Connection<CoalescingWriter<Metered<Io>>, Chunk>,
    keep_alive: KeepAlive,
    closing: Closing,
    pace: Arc<Pace>,
    place: &'s PlaceHandle,
    handler: &'s Arc<Handler>,
    peer: Arc<Peer>,
    /// Calls that have arrived in this turn.
    arrived: Vec<(Request<RecvStream>, SendResponse<Chunk>, OpenCall)>,
    waiting: FuturesUnordered<WaitingCall>,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Serving<'_, Io> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        self.pace.begin_turn(self.waiting.len());
        if self.closing.poll_goaway(cx, self.place.is_leaving()).is_ready() {
            self.connection.graceful_shutdown();
        }
        if self.keep_alive.poll_dead(cx, &self.pace).is_ready() {
            tracing::debug!("a peer did not answer a ping");
            return Poll::Ready(Ok(()));
        }
        loop {
            let ended = self.take_in(cx);
            let mut progress = self.start_all();
            while let Poll::Ready(Some(())) = Pin::new(&mut self.waiting).poll_next(cx) {
                progress = true;
            }
            if ended.is_ready() {
                return ended;
            }
            if !progress {
                break;
            }
        }
        // A peer that does not go by itself is not waited for once it has its answers.
        if self.closing.is_refusing() && self.waiting.is_empty() && self.peer.memory.held() == 0 {
            self.connection.abrupt_shutdown(Reason::NO_ERROR);
            // Sends what the socket takes at once.
            let _ = self.connection.poll_closed(cx);
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    /// Reads and writes as much as can be, and takes in the calls that have arrived. Ready:
    /// the connection has ended.
    fn take_in(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, mut respond)))) => {
                    if self.closing.is_refusing() {
                        // The peer may repeat it elsewhere (RFC 9113, section 8.7).
                        respond.send_reset(Reason::REFUSED_STREAM);
                        continue;
                    }
                    // A call that is cancelled already costs no more work.
                    let mut context = Context::from_waker(Waker::noop());
                    if respond.poll_reset(&mut context).is_pending() {
                        self.arrived.push((request, respond, self.place.call_begins()));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Polls each new call once, which completes most of them. Returns false if there was
    /// no new call.
    fn start_all(&mut self) -> bool {
        let any = !self.arrived.is_empty();
        let mut context = Context::from_waker(Waker::noop());
        for (request, respond, open) in self.arrived.drain(..) {
            let mut call = Call::start(self.handler, request, respond, &self.peer);
            // If a call panics, only that call ends, as if it ran on its own task.
            let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut context)));
            if polled.is_ok_and(|polled| polled.is_pending()) {
                // `waiting` polls it again and so registers a waker.
                let held = self.peer.memory.count(WAITING_CALL_BYTES);
                self.waiting.push(WaitingCall { call, _held: held, _open: open });
            }
        }
        // After a burst.
        self.arrived.shrink_to(KEPT_ARRIVALS);
        any
    }
}

/// A call that was polled and is not complete yet.
struct WaitingCall {
    call: call::Running,
    _held: Held,
    _open: OpenCall,
}

impl Future for WaitingCall {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.call.as_mut().poll(cx)));
        polled.unwrap_or(Poll::Ready(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncWriteExt, duplex},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_after_the_end_is_read_until_the_peer_goes() {
        let (mut io, mut peer) = duplex(16);
        let sent = async {
            peer.write_all(&[7; 5000]).await.expect("it is read");
            drop(peer);
        };
        let begin = Instant::now();
        tokio::join!(linger(&mut io), sent);
        assert_eq!(begin.elapsed(), Duration::ZERO, "the peer went by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_go_is_not_waited_for() {
        let (mut io, mut peer) = duplex(16);
        peer.write_all(b"and more").await.expect("there is room");
        let begin = Instant::now();
        linger(&mut io).await;
        assert_eq!(begin.elapsed(), LINGER);
    }
}
