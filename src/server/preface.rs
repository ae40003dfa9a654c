//! The beginning of a connection: the preface of HTTP/2, or what came in its place.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::Sleep,
};

use super::listen::write_through;

/// A connection whose peer must send the whole preface of HTTP/2 in time: after TLS, where
/// there is TLS.
pub(super) struct Prefaced<Io> {
    io: Io,
    /// What was read of it to see what the client speaks.
    first: [u8; FIRST_LEN],
    /// How many octets of that are still to be passed on.
    unread: usize,
    /// Octets of the preface that have not come yet.
    missing: usize,
    /// `None`: all of it has come.
    late: Option<Pin<Box<Sleep>>>,
}

/// "PRI * HTTP/2.0…" and an empty SETTINGS frame (RFC 9113, section 3.4).
const PREFACE_LEN: usize = 24 + 9;
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// The first octets of a connection, which tell what the client speaks.
const FIRST_LEN: usize = 4;
/// How the methods of HTTP/1 begin that clients use. `PRI ` begins HTTP/2.
const HTTP1: [&[u8; FIRST_LEN]; 7] =
    [b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC"];
/// What a client of HTTP/1 is told.
const HTTP1_ANSWER: &str = "HTTP/1.1 505 HTTP Version Not Supported\r\n\
    content-type: text/plain; charset=utf-8\r\nconnection: close\r\n\r\n\
    This is a gRPC listener of sessiond. It speaks HTTP/2 with prior knowledge. Metrics and \
    health over HTTP/1 are on listen.metrics.\n";
/// How long such a client may take for the rest of its request, and how much it may send.
const HTTP1_TIMEOUT: Duration = Duration::from_secs(1);
const HTTP1_MAX_BYTES: u64 = 64 << 10;

impl<Io> Prefaced<Io> {
    pub(super) fn new(io: Io) -> Self {
        let late = Some(Box::pin(tokio::time::sleep(PREFACE_TIMEOUT)));
        Self { io, first: [0; FIRST_LEN], unread: 0, missing: PREFACE_LEN, late }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Prefaced<Io> {
    /// Waits for the first octets of a connection. A client of HTTP/1 is told what it has
    /// reached, and is an error.
    pub(super) async fn begin(io: Io) -> io::Result<Self> {
        let mut begun = Self::new(io);
        let mut first = [0; FIRST_LEN];
        begun.read_exact(&mut first).await?;
        if HTTP1.contains(&&first) {
            begun.io.write_all(HTTP1_ANSWER.as_bytes()).await?;
            begun.io.shutdown().await?;
            // If some of the request were unread when the connection is closed, the system would
            // take the answer back.
            let mut rest = (&mut begun.io).take(HTTP1_MAX_BYTES);
            let mut nowhere = tokio::io::sink();
            let reading = tokio::io::copy(&mut rest, &mut nowhere);
            let _ = tokio::time::timeout(HTTP1_TIMEOUT, reading).await;
            return Err(io::Error::other("the client speaks HTTP/1"));
        }
        (begun.first, begun.unread) = (first, FIRST_LEN);
        Ok(begun)
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Prefaced<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread > 0 {
            let count = self.unread.min(buf.remaining());
            let from = FIRST_LEN - self.unread;
            buf.put_slice(&self.first[from..from + count]);
            self.unread -= count;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let this = &mut *self;
        if let Some(late) = &mut this.late {
            this.missing = this.missing.saturating_sub(buf.filled().len() - before);
            if this.missing == 0 {
                this.late = None;
            } else if late.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

write_through!(Prefaced);

#[cfg(test)]
mod tests {
    use tokio::{io::duplex, time::Instant};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_whole_preface_must_come_in_time() {
        let (ours, mut theirs) = duplex(64);
        let mut connection = Prefaced::new(ours);
        let started = Instant::now();
        let sending = async {
            theirs.write_all(&[0; PREFACE_LEN / 2]).await.expect("sent");
            loop {
                tokio::time::sleep(PREFACE_TIMEOUT / 4).await;
                if theirs.write_u8(0).await.is_err() {
                    return;
                }
            }
        };
        let reading = async {
            let error = connection.read_exact(&mut [0; PREFACE_LEN]).await;
            drop(connection);
            error.expect_err("an octet now and then is not enough").kind()
        };
        let (error, ()) = tokio::join!(reading, sending);
        assert_eq!(error, io::ErrorKind::TimedOut);
        assert!(started.elapsed() < PREFACE_TIMEOUT * 2, "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn what_was_read_to_know_the_client_is_not_lost() {
        let (ours, mut theirs) = duplex(64);
        theirs.write_all(b"PRI * HTTP/2.0").await.expect("sent");
        let mut begun = Prefaced::begin(ours).await.expect("it is HTTP/2");
        let mut read = [0; 14];
        begun.read_exact(&mut read[..3]).await.expect("a part of it");
        begun.read_exact(&mut read[3..]).await.expect("the rest");
        assert_eq!(&read, b"PRI * HTTP/2.0");
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_preface_a_peer_may_pause() {
        let (ours, mut theirs) = duplex(64);
        let mut connection = Prefaced::new(ours);
        theirs.write_all(&[0; PREFACE_LEN]).await.expect("sent");
        connection.read_exact(&mut [0; PREFACE_LEN]).await.expect("all of it");
        let waited = tokio::time::timeout(PREFACE_TIMEOUT * 2, connection.read_u8()).await;
        assert!(waited.is_err(), "expected it to wait");
    }
}
