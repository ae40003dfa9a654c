//! Serves gRPC on a listener, within the limits of the configuration.

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
    listen::{self, Accept, Connection, Handed, Listener, Prefaced},
    places::{OpenCall, PlaceHandle, Places},
    workers::{Balance, RuntimeExecutors},
};
use crate::{grpc::handler::Handler, session::id::Entropy};

/// hyper's own values. A peer that resets streams faster than they are served is
/// disconnected (CVE-2023-44487, CVE-2025-8671).
const MAX_PENDING_RESET_STREAMS: usize = 20;
const MAX_LOCAL_ERROR_RESET_STREAMS: usize = 1024;

/// How much a peer may send before it is read, per call and per connection. A larger
/// window would let a peer occupy that much more memory. A smaller one would slow a
/// pipeline on a network with a latency of some milliseconds.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;
/// How much of one call may wait to be sent.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// The write buffer: two frames and some space. With room for only one frame, answers
/// to a burst of a pipeline's requests need one more system call.
const WRITE_BYTES: usize = 36 << 10;
/// The smallest allowed size (RFC 9113, section 4.2). A larger frame would delay other
/// streams.
const FRAME_BYTES: u32 = 16 << 10;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The places of the listeners of one kind. Those of unix sockets are their own, so that what
/// is on this machine gets in whatever comes over the network.
pub(super) struct ListenerPlaces {
    pub tcp: Places,
    pub unix: Places,
}

impl ListenerPlaces {
    /// `most` connections to all TCP addresses together, and as many to all unix sockets.
    pub(super) fn new(listener: &'static str, most: usize) -> Self {
        Self { tcp: Places::new(listener, most), unix: Places::new(listener, most) }
    }

    /// The number of open connections.
    pub(super) fn open(&self) -> usize {
        self.tcp.open() + self.unix.open()
    }
}

/// The settings that all gRPC listeners share.
pub(super) struct Gate {
    pub limits: Limits,
    pub tls: Option<TlsAcceptor>,
    pub balance: Balance,
    /// Spreads the maximum ages of connections.
    pub entropy: Arc<dyn Entropy>,
    /// Cancelled when the daemon stops: the listeners close.
    pub stopping: CancellationToken,
}

impl Gate {
    /// Serves a listener. Connections are accepted on the current runtime and answered
    /// on the workers. All of this runs as tasks of `serving`.
    pub(super) fn serve(
        &self,
        listener: Listener,
        places: &ListenerPlaces,
        handler: &Arc<Handler>,
        workers: &RuntimeExecutors,
        serving: &mut JoinSet<()>,
    ) {
        match listener {
            Listener::Tcp(listener) => {
                let tls = self.tls.clone();
                self.open(listener, &places.tcp, tls, handler, workers, serving);
            }
            Listener::Unix(listener, file) => {
                self.open((listener, file), &places.unix, None, handler, workers, serving);
            }
        }
    }

    fn open<A: Accept>(
        &self,
        listener: A,
        places: &Places,
        tls: Option<TlsAcceptor>,
        handler: &Arc<Handler>,
        workers: &RuntimeExecutors,
        serving: &mut JoinSet<()>,
    ) {
        let mut queues = Vec::new();
        for runtime in workers.runtimes() {
            let (queue, arrivals) = mpsc::unbounded_channel();
            queues.push(queue);
            let server = ConnectionServer {
                limits: self.limits.clone(),
                entropy: Arc::clone(&self.entropy),
                tls: tls.clone(),
                handler: Arc::clone(handler),
                stopping: self.stopping.clone(),
            };
            serving.spawn_on(server.serve::<A>(arrivals), runtime);
        }
        let balance = self.balance.clone();
        let accept = listen::accept(listener, places.clone(), move |moving, place| {
            let (worker, placed) = balance.place();
            // If the worker has ended, the daemon is stopping.
            let _ = queues[worker].send(Handed::<A> { moving, place, placed });
        });
        let stop = self.stopping.clone().cancelled_owned();
        serving.spawn(async move {
            tokio::select! {
                () = accept => {}
                () = stop => {}
            }
        });
    }
}

fn http2(limits: &Limits, executor: ConnectionExecutor) -> http2::Builder<ConnectionExecutor> {
    let mut http = http2::Builder::new(executor);
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

/// Serves the connections of one listener on one worker.
#[derive(Clone)]
struct ConnectionServer {
    limits: Limits,
    entropy: Arc<dyn Entropy>,
    tls: Option<TlsAcceptor>,
    handler: Arc<Handler>,
    stopping: CancellationToken,
}

impl ConnectionServer {
    /// Runs until the listener and all its connections are closed.
    async fn serve<A: Accept>(self, mut arrivals: UnboundedReceiver<Handed<A>>) {
        let mut connections = JoinSet::new();
        while let Some(handed) = arrivals.recv().await {
            match handed.arrive() {
                Ok(connection) => {
                    let (server, place) = (self.clone(), connection.handle());
                    connections.spawn(async move {
                        place.until_displaced(server.serve_connection(connection, &place)).await;
                    });
                }
                Err(error) => tracing::warn!(%error, "cannot take over a connection"),
            }
            while connections.try_join_next().is_some() {}
        }
        while connections.join_next().await.is_some() {}
    }

    async fn serve_connection<Io>(self, connection: Connection<Io>, place: &PlaceHandle)
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(tls) = &self.tls else {
            return self.serve_http2(connection, place).await;
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(connection)).await {
            Ok(Ok(secured)) => self.serve_http2(secured, place).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    /// Completes when the connection should accept no more calls: the daemon stops, the
    /// connection has reached its maximum age, or it makes room for another one.
    async fn closing(&self, place: &PlaceHandle) {
        tokio::select! {
            () = place.displaced() => {}
            () = self.ending() => {}
        }
    }

    async fn ending(&self) {
        let age = self.limits.max_connection_age.0;
        let Some(age) = age.map(|age| jittered(age, self.entropy.as_ref())) else {
            return self.stopping.cancelled().await;
        };
        // A timeout and a stop have the same effect.
        let _ = tokio::time::timeout(age, self.stopping.cancelled()).await;
    }

    async fn serve_http2<Io>(&self, io: Io, place: &PlaceHandle)
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answer = service_fn(|request| self.handler.handle(request));
        let executor = ConnectionExecutor { calls: Arc::default(), place: place.clone() };
        let http = http2(&self.limits, executor.clone());
        let io = Prefaced::new(io);
        let writer = TokioIo::new(CoalescingWriter(BufWriter::with_capacity(WRITE_BYTES, io)));
        let mut connection = pin!(http.serve_connection(writer, answer));
        let mut closing = pin!(self.closing(place));
        let mut closed = false;
        let mut waiting = FuturesUnordered::new();
        let ended = poll_fn(|cx| {
            if !closed && closing.as_mut().poll(cx).is_ready() {
                closed = true;
                connection.as_mut().graceful_shutdown();
            }
            loop {
                let polled = connection.as_mut().poll(cx);
                let mut progress = executor.start_all(&mut waiting);
                while let Poll::Ready(Some(())) = waiting.poll_next_unpin(cx) {
                    progress = true;
                }
                if polled.is_ready() || !progress {
                    return polled;
                }
            }
        });
        if let Err(error) = ended.await {
            tracing::debug!(%error, "a connection failed");
        }
    }
}

/// Coalesces small writes into one system call.
///
/// If the socket supports vectored writes, h2 writes each message of more than 256 bytes
/// by itself, without a copy. Then most answers cost one system call each. This writer
/// does not report vectored support. So h2 copies parts of up to 1 KiB and writes 16 KiB
/// at a time, and larger parts are joined with their frame header here.
struct CoalescingWriter<Io>(BufWriter<Io>);

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

/// An executor that keeps the new calls of a connection until `start_all` polls them.
///
/// All calls of a connection run on the connection's own task. So requests that arrive
/// together are answered before anything is sent, and their answers leave together. And
/// if the disk completes many of them at once, the task is woken once.
#[derive(Clone)]
struct ConnectionExecutor {
    calls: Arc<Mutex<Vec<(Call, OpenCall)>>>,
    place: PlaceHandle,
}

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<F> Executor<F> for ConnectionExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        self.calls.lock().push((Box::pin(call), self.place.call_begins()));
    }
}

impl ConnectionExecutor {
    /// Polls each new call once, which completes most of them. The others are added to
    /// `waiting`. Returns false if there was no new call.
    fn start_all(&self, waiting: &mut FuturesUnordered<PendingCall>) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let calls = std::mem::take(&mut *self.calls.lock());
        let any = !calls.is_empty();
        for (mut call, open) in calls {
            // If a call panics, only that call ends, as if it ran on its own task.
            let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut context)));
            if polled.is_ok_and(|polled| polled.is_pending()) {
                // `waiting` polls it again and so registers a waker.
                waiting.push(PendingCall { call, _open: open });
            }
        }
        any
    }
}

/// A call that was polled and is not complete yet.
struct PendingCall {
    call: Call,
    _open: OpenCall,
}

impl Future for PendingCall {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.call.as_mut().poll(cx)));
        polled.unwrap_or(Poll::Ready(()))
    }
}
