//! The gate: how gRPC is spoken on a listener, and within which limits.

use std::{
    future::{Future, poll_fn},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hyper::{rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf},
    sync::mpsc::{self, UnboundedReceiver},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    config::Limits,
    jitter::jittered,
    listen::{self, Accept, Connection, ConnectionLimit, Handed, Listener},
    workers::{Balance, Workers},
};
use crate::{grpc::handler::Handler, session::id::Entropy};

/// A peer that resets streams faster than they are served is cut off
/// (CVE-2023-44487, CVE-2025-8671). hyper's own figures.
const MAX_PENDING_RESET_STREAMS: usize = 20;
const MAX_LOCAL_ERROR_RESET_STREAMS: usize = 1024;

/// What a peer may send before it is read: of one call, and of a connection.
/// More would let it keep so much memory; less would slow a pipeline on a
/// network of some milliseconds.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;
/// What of one call may wait to be sent.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// What is gathered before it is written: two frames and a bit. With room for one,
/// the answers to what a pipeline's peer sent at once cost a call to the system more.
const WRITE_BYTES: usize = 36 << 10;
/// RFC 9113, section 4.2: the least; a larger frame would hold up others.
const FRAME_BYTES: u32 = 16 << 10;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What all gRPC listeners have in common.
pub struct Gate {
    pub limits: Limits,
    pub tls: Option<TlsAcceptor>,
    pub connections: ConnectionLimit,
    pub balance: Balance,
    /// Spreads the ages of connections.
    pub entropy: Arc<dyn Entropy>,
    /// Cancelled when the daemon stops: the listeners close.
    pub stopping: CancellationToken,
}

impl Gate {
    /// Serves a listener: accepts here, and answers on the workers, all as tasks
    /// of `serving`.
    pub fn serve(
        &self,
        listener: Listener,
        handler: &Arc<Handler>,
        workers: &Workers,
        serving: &mut JoinSet<()>,
    ) {
        match listener {
            Listener::Tcp(listener) => {
                self.open(listener, self.tls.clone(), handler, workers, serving);
            }
            Listener::Unix(listener, file) => {
                self.open((listener, file), None, handler, workers, serving);
            }
        }
    }

    fn open<A: Accept>(
        &self,
        listener: A,
        tls: Option<TlsAcceptor>,
        handler: &Arc<Handler>,
        workers: &Workers,
        serving: &mut JoinSet<()>,
    ) {
        let mut doors = Vec::new();
        for runtime in workers.runtimes() {
            let (door, arrivals) = mpsc::unbounded_channel();
            doors.push(door);
            let speaker = Speaker {
                limits: self.limits.clone(),
                entropy: Arc::clone(&self.entropy),
                tls: tls.clone(),
                handler: Arc::clone(handler),
                stopping: self.stopping.clone(),
            };
            serving.spawn_on(speaker.serve::<A>(arrivals), runtime);
        }
        let accept =
            listen::accept(listener, self.connections.clone(), self.balance.clone(), doors);
        let stop = self.stopping.clone().cancelled_owned();
        serving.spawn(async move {
            tokio::select! {
                () = accept => {}
                () = stop => {}
            }
        });
    }
}

fn http2(limits: &Limits, arrived: Arrived) -> http2::Builder<Arrived> {
    let mut http = http2::Builder::new(arrived);
    http.timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(limits.max_header_bytes.0.try_into().unwrap_or(u32::MAX))
        .max_frame_size(FRAME_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_pending_accept_reset_streams(MAX_PENDING_RESET_STREAMS)
        .max_local_error_reset_streams(MAX_LOCAL_ERROR_RESET_STREAMS)
        .keep_alive_interval(listen::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(listen::KEEPALIVE_TIMEOUT);
    http
}

/// Speaks gRPC with the connections of one listener, on one worker.
#[derive(Clone)]
struct Speaker {
    limits: Limits,
    entropy: Arc<dyn Entropy>,
    tls: Option<TlsAcceptor>,
    handler: Arc<Handler>,
    stopping: CancellationToken,
}

impl Speaker {
    /// Until the listener is closed and all its connections are.
    async fn serve<A: Accept>(self, mut arrivals: UnboundedReceiver<Handed<A>>) {
        let mut connections = JoinSet::new();
        while let Some(handed) = arrivals.recv().await {
            match handed.arrive() {
                Ok(connection) => drop(connections.spawn(self.clone().converse(connection))),
                Err(error) => tracing::warn!(%error, "a connection could not be taken over"),
            }
            while connections.try_join_next().is_some() {}
        }
        while connections.join_next().await.is_some() {}
    }

    async fn converse<Io>(self, connection: Connection<Io>)
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(tls) = &self.tls else {
            return self.speak(connection).await;
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(connection)).await {
            Ok(Ok(secured)) => self.speak(secured).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake has failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    /// Done when a connection is to take no more calls: the daemon stops, or the
    /// connection is old enough.
    async fn closing(&self) {
        let age = self.limits.max_connection_age.0;
        let Some(age) = age.map(|age| jittered(age, self.entropy.as_ref())) else {
            return self.stopping.cancelled().await;
        };
        // The outcome is the same.
        let _ = tokio::time::timeout(age, self.stopping.cancelled()).await;
    }

    async fn speak<Io>(&self, io: Io)
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answer = service_fn(|request| self.handler.handle(request));
        let arrived = Arrived::default();
        let http = http2(&self.limits, arrived.clone());
        let gathered = TokioIo::new(Gathered(BufWriter::with_capacity(WRITE_BYTES, io)));
        let mut connection = pin!(http.serve_connection(gathered, answer));
        let mut closing = pin!(self.closing());
        let mut closed = false;
        let mut waiting = FuturesUnordered::new();
        let ended = poll_fn(|cx| {
            if !closed && closing.as_mut().poll(cx).is_ready() {
                closed = true;
                connection.as_mut().graceful_shutdown();
            }
            loop {
                let polled = connection.as_mut().poll(cx);
                let mut progress = arrived.begin(&mut waiting);
                while let Poll::Ready(Some(())) = waiting.poll_next_unpin(cx) {
                    progress = true;
                }
                if polled.is_ready() || !progress {
                    return polled;
                }
            }
        });
        if let Err(error) = ended.await {
            tracing::debug!(%error, "a connection broke off");
        }
    }
}

/// Writes of several parts gathered into one.
///
/// h2 writes each message of more than 256 octets by itself where it can write
/// without a copy (vectored), and then most answers cost a call to the system each.
/// To one who says that he can not, it copies up to 1 KiB and writes 16 KiB
/// at a time; and what is larger is put together with its frame's head here.
struct Gathered<Io>(BufWriter<Io>);

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Gathered<Io> {
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

/// The calls that have arrived on a connection, and that nobody has begun.
///
/// All calls of a connection run on its own task. So what came in together is
/// answered before anything is sent, and the answers leave together; and when
/// the disk has done many of them at once, the task is woken once.
#[derive(Clone, Default)]
struct Arrived(Arc<Mutex<Vec<Call>>>);

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<F> Executor<F> for Arrived
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        self.0.lock().push(Box::pin(call));
    }
}

impl Arrived {
    /// Runs each as far as it gets at once, which for most is to the end; the
    /// others join those that wait. False when there are none.
    fn begin(&self, waiting: &mut FuturesUnordered<Waiting>) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let calls = std::mem::take(&mut *self.0.lock());
        let any = !calls.is_empty();
        for mut call in calls {
            // One that panics ends alone, as it would on a task of its own.
            let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut context)));
            if polled.is_ok_and(|polled| polled.is_pending()) {
                // Polled there anew, it leaves its waker.
                waiting.push(Waiting(call));
            }
        }
        any
    }
}

/// A call that waits for something.
struct Waiting(Call);

impl Future for Waiting {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx)));
        polled.unwrap_or(Poll::Ready(()))
    }
}
