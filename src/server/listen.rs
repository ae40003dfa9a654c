//! Listeners: bind addresses and accept connections.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::{Instant, MissedTickBehavior, Sleep},
};

use super::{
    config::{ListenAddr, SocketAccess, is_localhost},
    places::{self, Admission, Peer, Place, PlaceHandle, Places},
    unix_socket::{self, SocketFile},
    workers::Placed,
};
use crate::service::access::Remote;

/// After how much silence a connection is pinged, and how long the answer may take.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
/// How long the answer to such a ping may take.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long to wait before accepting again if the system is out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// How often the log says so.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Listening on an address failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {problem}")]
pub struct BindError {
    /// As it is configured.
    pub address: String,
    /// What the operator can do, or the system's error.
    pub problem: String,
}

/// A bound socket with a known address.
pub enum Listener {
    /// `TCP_NODELAY` is set on what it accepts.
    Tcp(TcpListener),
    /// The file is removed when the listener is dropped, if the daemon has made it.
    Unix(UnixListener, SocketFile),
}

impl Listener {
    /// Removes the file of a unix socket that nobody listens on. Fails if the address is in use, or
    /// if the system refuses it.
    ///
    /// `access` is that of a unix socket. A TCP address is open to all.
    pub async fn bind(address: &ListenAddr, access: &SocketAccess) -> Result<Self, BindError> {
        let failed = |error: io::Error| {
            let problem = match error.kind() {
                io::ErrorKind::AddrInUse => "the address is in use by another process; if that is \
                                             a sessiond, it runs already: stop it, or give this \
                                             one another address"
                    .to_owned(),
                _ => error.to_string(),
            };
            BindError { address: address.to_string(), problem }
        };
        match address {
            ListenAddr::Tcp(tcp) => TcpListener::bind(tcp).await.map(Self::Tcp).map_err(failed),
            ListenAddr::Name { host, port } => {
                let resolved = resolve(host, *port).await.map_err(failed)?;
                TcpListener::bind(resolved).await.map(Self::Tcp).map_err(failed)
            }
            ListenAddr::Unix(path) => {
                let listening = unix_socket::listen_at(path, access).await;
                listening.map(|(listener, file)| Self::Unix(listener, file)).map_err(failed)
            }
        }
    }

    /// The address it listens on, with the port that the system has chosen for port 0.
    pub fn address(&self) -> ListenAddr {
        match self {
            Self::Tcp(listener) => {
                let address = listener.local_addr();
                ListenAddr::Tcp(address.expect("a bound socket has an address"))
            }
            Self::Unix(_, file) => ListenAddr::Unix(file.path().to_owned()),
        }
    }
}

/// The address to bind for a name: the first one of IPv4, or else the first one.
async fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    let unresolved = |why: String| io::Error::other(format!("the name cannot be resolved: {why}"));
    let found = tokio::net::lookup_host((host, port)).await;
    let found: Vec<_> = found.map_err(|error| unresolved(error.to_string()))?.collect();
    let v4 = found.iter().find(|address| address.is_ipv4());
    let resolved =
        v4.or(found.first()).ok_or_else(|| unresolved("it has no address".to_owned()))?;
    // The configuration was accepted without TLS and without a token because of this.
    if is_localhost(host) && !resolved.ip().is_loopback() {
        let problem = format!("the name leads to {}, which is not loopback", resolved.ip());
        return Err(io::Error::other(problem));
    }
    Ok(*resolved)
}

/// Accepts connections on one thread. Other threads serve them.
pub(super) trait Accept: Send + 'static {
    /// A connection on its way to the serving thread. It is not registered with a runtime.
    type Moving: Send + 'static;
    /// A connection on the serving thread.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for a connection. After an error the listener can be used again.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Moving, Peer)>> + Send;

    /// Registers the connection with the runtime of the current thread.
    fn arrive(moving: Self::Moving) -> io::Result<Self::Io>;

    /// The other end, as it is named to operators.
    fn remote(io: &Self::Io) -> Remote;
}

impl Accept for TcpListener {
    type Moving = std::net::TcpStream;
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<(std::net::TcpStream, Peer)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        // Answers are small, and a client waits for each of them.
        stream.set_nodelay(true)?;
        Ok((stream.into_std()?, peer.ip().into()))
    }

    fn arrive(moving: std::net::TcpStream) -> io::Result<TcpStream> {
        TcpStream::from_std(moving)
    }

    fn remote(io: &TcpStream) -> Remote {
        io.peer_addr().map_or(Remote::Unknown, Remote::Tcp)
    }
}

impl Accept for (UnixListener, SocketFile) {
    type Moving = std::os::unix::net::UnixStream;
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<(std::os::unix::net::UnixStream, Peer)> {
        let (stream, _) = self.0.accept().await?;
        let process = stream.peer_cred().ok().and_then(|peer| peer.pid());
        Ok((stream.into_std()?, Peer::Process(process)))
    }

    fn arrive(moving: std::os::unix::net::UnixStream) -> io::Result<UnixStream> {
        UnixStream::from_std(moving)
    }

    /// Of a unix socket, even if the system does not say who is there.
    fn remote(io: &UnixStream) -> Remote {
        let peer = io.peer_cred();
        peer.map_or(Remote::Unix { uid: u32::MAX, pid: None }, |peer| Remote::Unix {
            uid: peer.uid(),
            pid: peer.pid(),
        })
    }
}

/// An accepted connection on its way to the worker that serves it.
pub(super) struct Handed<A: Accept> {
    pub moving: A::Moving,
    pub place: Place,
    pub placed: Placed,
}

/// Accepts connections. Each one is handed over when it has its place.
pub(super) async fn accept<A: Accept>(
    listener: A,
    places: Places,
    mut hand_over: impl FnMut(A::Moving, Place),
) {
    let mut waiting = FuturesUnordered::new();
    let mut rounds = tokio::time::interval(places::ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: Option<Instant> = None;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                // A place is taken only after accepting, so an idle listener occupies none.
                Ok((moving, peer)) => match places.admit(peer) {
                    Admission::Now(place) => hand_over(moving, place),
                    Admission::Later(place) => {
                        waiting.push(async move { (moving, place.await) });
                    }
                },
                Err(error) if is_caused_by_peer(&error) => {
                    tracing::debug!(%error, "a connection was gone before it was accepted");
                }
                Err(error) => {
                    if told.is_none_or(|told| told.elapsed() >= LOG_INTERVAL) {
                        told = Some(Instant::now());
                        tracing::warn!(%error, "cannot accept connections; trying again");
                    }
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            },
            Some((moving, place)) = waiting.next(), if !waiting.is_empty() => {
                // An error: others have fewer connections than its peer. It is closed.
                if let Ok(place) = place {
                    hand_over(moving, place);
                }
            }
            _ = rounds.tick(), if !waiting.is_empty() => places.make_room(),
        }
    }
}

impl<A: Accept> Handed<A> {
    /// Registers the connection. Call it on the worker's runtime.
    pub(super) fn arrive(self) -> io::Result<Connection<A::Io>> {
        let io = A::arrive(self.moving)?;
        let remote = A::remote(&io);
        Ok(Connection::new(io, remote, (self.place, self.placed)))
    }
}

fn is_caused_by_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, InvalidInput};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | InvalidInput)
}

/// A connection and its place.
///
/// A silent peer is disconnected and frees the place. The first bytes must come soon,
/// because a client starts to send immediately. Later the connection may be silent for a
/// little longer than a ping and its timeout take.
pub(super) struct Connection<Io> {
    io: Io,
    remote: Remote,
    heard: Option<Instant>,
    silence: Pin<Box<Sleep>>,
    place: (Place, Placed),
}

/// How long a peer may take to send its first bytes.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may then be silent. A healthy one answers pings.
const SILENCE_TIMEOUT: Duration =
    KEEPALIVE_INTERVAL.saturating_add(KEEPALIVE_TIMEOUT).saturating_add(Duration::from_secs(10));

impl<Io> Connection<Io> {
    fn new(io: Io, remote: Remote, place: (Place, Placed)) -> Self {
        let silence = Box::pin(tokio::time::sleep(FIRST_BYTES_TIMEOUT));
        Self { io, remote, heard: None, silence, place }
    }

    /// The other end.
    pub(super) fn remote(&self) -> Remote {
        self.remote
    }

    pub(super) fn handle(&self) -> PlaceHandle {
        self.place.0.handle()
    }

    /// Ready if the peer has been silent for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.silence.as_mut().poll(cx).is_ready() {
            // Resetting the timer only when it fires is cheaper than at every read.
            match self.heard.map(|heard| heard + SILENCE_TIMEOUT) {
                Some(until) if until > Instant::now() => self.silence.as_mut().reset(until),
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Connection<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_pending() {
            return self.poll_silence(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        if buf.filled().len() > before {
            self.heard = Some(Instant::now());
        }
        read
    }
}

/// Passes writes to the field `io`.
macro_rules! write_through {
    ($type:ident) => {
        impl<Io: AsyncWrite + Unpin> AsyncWrite for $type<Io> {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.io).poll_write(cx, buf)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.io.is_write_vectored()
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.io).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.io).poll_shutdown(cx)
            }
        }
    };
}

pub(super) use write_through;

write_through!(Connection);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::server::workers::Balance;

    async fn connection() -> (Connection<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (ours, theirs) = duplex(64);
        let Admission::Now(place) = Places::new("grpc", 1).admit(Peer::Process(None)) else {
            panic!("expected a free place");
        };
        let placed = Balance::between(1).place().1;
        (Connection::new(ours, Remote::Unknown, (place, placed)), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_nothing_is_disconnected_soon() {
        let (mut connection, _theirs) = connection().await;
        let started = Instant::now();
        let error = connection.read_u8().await.expect_err("the peer sent nothing");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), FIRST_BYTES_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn an_active_peer_may_pause_as_long_as_a_ping_takes() {
        let (mut connection, mut theirs) = connection().await;
        for _ in 0..3 {
            theirs.write_u8(1).await.expect("sent");
            connection.read_u8().await.expect("heard");
            let pause = KEEPALIVE_INTERVAL + KEEPALIVE_TIMEOUT;
            let waited = tokio::time::timeout(pause, connection.read_u8()).await;
            assert!(waited.is_err(), "the answer to a ping is still awaited");
        }
        let error = connection.read_u8().await.expect_err("the peer was silent for too long");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn an_idle_listener_takes_no_place() {
        let places = Places::new("grpc", 1);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let accepting = accept(listener, places.clone(), |_, _| panic!("no client has connected"));
        use futures_util::FutureExt;
        assert!(accepting.now_or_never().is_none(), "no client has connected");
        assert_eq!(places.open(), 0);
    }
}
