//! Serves gRPC on a listener, within the limits of the configuration.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc::{self, UnboundedReceiver},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::sync::CancellationToken;

use super::{
    config::Limits,
    http2::Http2,
    jitter::jittered,
    listen::{self, Accept, Connection, Handed, Listener},
    places::{PlaceHandle, Places},
    preface::Prefaced,
    tls,
    workers::{Balance, RuntimeExecutors},
};
use crate::{
    grpc::handler::Handler,
    service::{access::Origin, peer_memory::PeerMemory},
    session::id::Entropy,
};

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
    /// It may be replaced at any time, and counts for the connections that come then.
    pub tls: Option<Arc<ArcSwap<ServerConfig>>>,
    pub balance: Balance,
    /// What all peers together may make the daemon hold.
    pub memory: Arc<PeerMemory>,
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
        tls: Option<Arc<ArcSwap<ServerConfig>>>,
        handler: &Arc<Handler>,
        workers: &RuntimeExecutors,
        serving: &mut JoinSet<()>,
    ) {
        let mut queues = Vec::new();
        for runtime in workers.runtimes() {
            let (queue, arrivals) = mpsc::unbounded_channel();
            queues.push(queue);
            let server = ConnectionServer {
                http2: Http2 {
                    limits: self.limits.clone(),
                    handler: Arc::clone(handler),
                    memory: Arc::clone(&self.memory),
                    stopping: self.stopping.clone(),
                },
                entropy: Arc::clone(&self.entropy),
                tls: tls.clone(),
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

/// Serves the connections of one listener on one worker.
#[derive(Clone)]
struct ConnectionServer {
    http2: Http2,
    entropy: Arc<dyn Entropy>,
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
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
        let remote = connection.remote();
        let Some(tls) = &self.tls else {
            let origin = Origin { remote, ..Origin::default() };
            return self.serve_http2(connection, origin, place).await;
        };
        let tls = TlsAcceptor::from(tls.load_full());
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(connection)).await {
            Ok(Ok(secured)) => {
                let names = tls::names_of_peer(secured.get_ref().1);
                self.serve_http2(secured, Origin { remote, names }, place).await;
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                if let Some(auth) = &self.http2.handler.auth
                    && let Some(reason) = tls::refusal(&error)
                {
                    auth.refusals.refused(reason, remote);
                }
            }
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn serve_http2<Io>(&self, io: Io, origin: Origin, place: &PlaceHandle)
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let age = self.http2.limits.max_connection_age.0;
        let age = age.map(|age| jittered(age, self.entropy.as_ref()));
        let begun = tokio::select! {
            begun = Prefaced::begin(io) => begun,
            // It has asked for nothing yet.
            () = self.http2.stopping.cancelled() => return,
        };
        let served = match begun {
            Ok(io) => {
                self.http2.serve(io, origin, age, place).await.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = served {
            tracing::debug!(error, "a connection failed");
        }
    }
}
