//! What a connection reads and writes, counted and bounded.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf},
    time::{Sleep, sleep},
};

use super::pace::{self, FrameHeads, Pace, TURN_COST, Toll};
use crate::grpc::patience::Patience;

/// What a client says first (RFC 9113, section 3.4).
const PREFACE_LEN: usize = 24;

/// What is read at a time where less than the reader's buffer may be read.
const LITTLE_BYTES: usize = 1 << 10;

/// What may be read while nothing can be written. A peer that sends and does not read would
/// otherwise make h2 queue an answer to each of its frames.
const UNANSWERED_COST: usize = 256 << 10;

/// The write buffer: two frames and some space. With room for only one frame, answers
/// to a burst of a pipeline's requests need one more system call.
const WRITE_BYTES: usize = 36 << 10;

/// A connection whose share of its thread is bounded, and whose peer must read.
pub(super) struct Metered<Io> {
    io: Io,
    pace: Arc<Pace>,
    inbound: FrameHeads,
    outbound: FrameHeads,
    toll: Toll,
    /// The turn in which was read last, and what is left of it.
    turn: usize,
    left: usize,
    pause: Option<Pin<Box<Sleep>>>,
    /// What was read since nothing can be written; `None`: it can.
    unanswered: Option<usize>,
    patience: Patience,
}

impl<Io> Metered<Io> {
    /// A peer that does not read for `stall_timeout` is disconnected.
    pub(super) fn new(io: Io, pace: Arc<Pace>, stall_timeout: Duration) -> Self {
        Self {
            io,
            pace,
            inbound: FrameHeads::after(PREFACE_LEN),
            outbound: FrameHeads::after(0),
            toll: Toll::new(),
            turn: 0,
            left: 0,
            pause: None,
            unanswered: None,
            patience: Patience::new(stall_timeout),
        }
    }

    /// How many octets may be read now; pending: none.
    fn poll_share(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if self.turn != self.pace.turn() {
            self.turn = self.pace.turn();
            self.left = TURN_COST;
        }
        if self.unanswered.is_some_and(|cost| cost > UNANSWERED_COST) {
            // The writer is woken when it can go on.
            return Poll::Pending;
        }
        if self.left == 0 {
            // The other connections go first.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match self.toll.pause() {
                Some(pause) => self.pause = Some(Box::pin(sleep(pause))),
                None => return Poll::Ready(self.left),
            }
        }
    }

    fn has_read(&mut self, octets: &[u8]) {
        if octets.is_empty() {
            return;
        }
        self.pace.hear();
        let streams = self.pace.streams();
        let mut cost = octets.len();
        let toll = &mut self.toll;
        self.inbound.in_next(octets, |head| {
            cost += pace::cost(head);
            toll.read(head, streams);
        });
        self.left = self.left.saturating_sub(cost);
        if let Some(unanswered) = &mut self.unanswered {
            *unanswered += cost;
        }
    }

    /// After an attempt to write.
    fn poll_written<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_pending() {
            self.unanswered.get_or_insert(0);
            return self.patience.poll_lost(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        self.unanswered = None;
        self.patience.restore();
        written
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Metered<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let share = ready!(this.poll_share(cx));
        let before = buf.filled().len();
        if share >= buf.remaining() {
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        } else {
            let mut little = [0; LITTLE_BYTES];
            let mut part = ReadBuf::new(&mut little[..share.min(LITTLE_BYTES)]);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut part))?;
            buf.put_slice(part.filled());
        }
        this.has_read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Metered<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        let len = ready!(this.poll_written(written, cx))?;
        let toll = &mut this.toll;
        this.outbound.in_next(&buf[..len], |head| toll.wrote(head));
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        this.poll_written(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let shut = Pin::new(&mut this.io).poll_shutdown(cx);
        this.poll_written(shut, cx)
    }
}

/// Coalesces small writes into one system call.
///
/// If the socket supports vectored writes, h2 writes each message of more than 256 bytes
/// by itself, without a copy. Then most answers cost one system call each. This writer
/// does not report vectored support. So h2 copies parts of up to 1 KiB and writes 16 KiB
/// at a time, and larger parts are joined with their frame header here.
pub(super) struct CoalescingWriter<Io>(BufWriter<Io>);

impl<Io: AsyncRead + AsyncWrite + Unpin> CoalescingWriter<Io> {
    pub(super) fn new(io: Io) -> Self {
        Self(BufWriter::with_capacity(WRITE_BYTES, io))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for CoalescingWriter<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for CoalescingWriter<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::task::{ArcWake, waker};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const STALL: Duration = Duration::from_secs(20);
    /// SETTINGS that change the windows of all streams.
    const FLIP: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\xff\xff";

    fn metered(buffer: usize) -> (Metered<DuplexStream>, Arc<Pace>, DuplexStream) {
        let (ours, theirs) = duplex(buffer);
        let pace = Arc::new(Pace::default());
        (Metered::new(ours, Arc::clone(&pace), STALL), pace, theirs)
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl ArcWake for Woken {
        fn wake_by_ref(woken: &Arc<Self>) {
            woken.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads all that can be read now.
    fn read_on(io: &mut Metered<DuplexStream>, woken: &Arc<Woken>) -> usize {
        let waker = waker(Arc::clone(woken));
        let mut buffer = vec![0; 16 << 10];
        let mut len = 0;
        loop {
            let mut buf = ReadBuf::new(&mut buffer);
            match Pin::new(&mut *io).poll_read(&mut Context::from_waker(&waker), &mut buf) {
                Poll::Ready(read) => {
                    read.expect("the stream is open");
                    len += buf.filled().len();
                }
                Poll::Pending => return len,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_bounded_and_another_one_follows_at_once() {
        let (mut io, pace, mut theirs) = metered(1 << 20);
        // The preface, and then one large frame after the other.
        let frame = [&b"\0\x40\0\0\0\0\0\0\x01"[..], &[0; 16 << 10]].concat();
        let sent = [vec![b'x'; PREFACE_LEN], frame.repeat(20)].concat();
        theirs.write_all(&sent).await.expect("there is room");
        let woken = Arc::new(Woken::default());
        let mut read = 0;
        while read < sent.len() {
            pace.begin_turn(0);
            let in_turn = read_on(&mut io, &woken);
            read += in_turn;
            assert!(in_turn > 0 && in_turn <= TURN_COST, "{in_turn} in a turn");
            let wakes = woken.0.swap(0, Ordering::Relaxed);
            assert!(wakes > 0 || read == sent.len(), "the rest is read soon");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_bring_nothing_are_read_slowly() {
        let (mut io, pace, mut theirs) = metered(1 << 20);
        let flips = 20_000;
        let sent = [vec![b'x'; PREFACE_LEN], FLIP.repeat(flips)].concat();
        theirs.write_all(&sent).await.expect("there is room");
        let started = tokio::time::Instant::now();
        let mut octets = vec![0; sent.len()];
        let reading = io.read_exact(&mut octets);
        let mut reading = std::pin::pin!(reading);
        std::future::poll_fn(|cx| {
            pace.begin_turn(256);
            reading.as_mut().poll(cx)
        })
        .await
        .expect("they are read in the end");
        assert_eq!(octets, sent);
        let took = started.elapsed();
        assert!(took > Duration::from_secs(10), "{flips} changes of 256 windows took {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_is_not_read_for_ever_and_then_cut_off() {
        let (mut io, pace, mut theirs) = metered(1 << 20);
        let full = vec![0; 1 << 20];
        io.write_all(&full).await.expect("there is room");
        let woken = Arc::new(Woken::default());
        let waker = waker(Arc::clone(&woken));
        let more = Pin::new(&mut io).poll_write(&mut Context::from_waker(&waker), b"more");
        assert!(more.is_pending(), "the peer does not read");
        let frame = [&b"\0\x40\0\0\0\0\0\0\x01"[..], &[0; 16 << 10]].concat();
        theirs.write_all(&frame.repeat(40)).await.expect("there is room");
        let mut read = 0;
        for _turn in 0..100 {
            pace.begin_turn(0);
            read += read_on(&mut io, &woken);
        }
        assert!(read < UNANSWERED_COST + TURN_COST, "{read} octets were read");
        let started = tokio::time::Instant::now();
        let error = io.write_all(b"more").await.expect_err("the peer does not read");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() <= STALL, "{:?}", started.elapsed());
    }
}
