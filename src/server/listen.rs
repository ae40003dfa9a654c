//! Listeners: bind addresses and accept connections.

use std::{
    fs, io,
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use rustix::{
    fs::{Mode, fchmod},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::{Instant, MissedTickBehavior, Sleep},
};

use super::{
    config::{ListenAddr, is_localhost},
    places::{self, Admission, Peer, Place, PlaceHandle, Places},
    workers::Placed,
};
use crate::service::access::Remote;

/// The owner and the group of a unix socket may connect to it.
const SOCKET_MODE: u32 = 0o660;
/// As tokio's own listeners have: the system's `somaxconn` decides.
const LONGEST_BACKLOG: i32 = -1;

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
    /// The file is removed when the listener is dropped.
    Unix(UnixListener, SocketFile),
}

impl Listener {
    /// Removes the file of a unix socket that nobody listens on. Fails if the address is in use, or
    /// if the system refuses it.
    pub async fn bind(address: &ListenAddr) -> Result<Self, BindError> {
        let failed = |error: io::Error| {
            let problem = match error.kind() {
                io::ErrorKind::AddrInUse => "the address is in use by another process".to_owned(),
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
            ListenAddr::Unix(path) => bind_unix(path).await.map_err(failed),
        }
    }

    /// The address it listens on, with the port that the system has chosen for port 0.
    pub fn address(&self) -> ListenAddr {
        match self {
            Self::Tcp(listener) => {
                let address = listener.local_addr();
                ListenAddr::Tcp(address.expect("a bound socket has an address"))
            }
            Self::Unix(_, file) => ListenAddr::Unix(file.path.clone()),
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

async fn bind_unix(path: &Path) -> io::Result<Listener> {
    clear_stale_socket(path).await?;
    let socket = bind_closed(path)?;
    let file = SocketFile { path: path.to_owned(), inode: fs::symlink_metadata(path)?.ino() };
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    listen(&socket, LONGEST_BACKLOG)?;
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))?;
    Ok(Listener::Unix(listener, file))
}

/// Binds a socket that nobody can connect to before `listen`, when the mode of its file is
/// what it will be. Until then the mode is never wider, whatever the umask is. (The umask
/// itself is not changed, because it belongs to all threads of the process.)
fn bind_closed(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the file the mode of the socket, less the umask. If a system does not, the
    // socket is still closed.
    let _ = fchmod(&socket, Mode::from_raw_mode(SOCKET_MODE));
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Removes a socket that no process listens on. A killed daemon leaves one behind.
async fn clear_stale_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::other("a file that is not a socket exists there"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// The file of a unix socket; removed when dropped.
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // In the meantime another daemon may have created its own socket there.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
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

    #[tokio::test]
    async fn a_unix_socket_is_never_open_wider_than_it_will_be() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("socket");
        let mode = || fs::metadata(&path).expect("a socket").permissions().mode() & 0o777;
        let socket = bind_closed(&path).expect("it is bound");
        assert_eq!(mode() & !SOCKET_MODE, 0, "the mode is {:o}", mode());
        let refused = UnixStream::connect(&path).await.expect_err("nobody can connect yet");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        drop(socket);
        let _listener = bind_unix(&path).await.expect("a socket that nobody listens on is stale");
        assert_eq!(mode(), SOCKET_MODE);
        UnixStream::connect(&path).await.expect("it is open");
    }

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
