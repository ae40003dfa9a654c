//! The gate: how gRPC is spoken on a listener, and within which limits.

use http::Response;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    service::Routes,
    transport::{Server, ServerTlsConfig, server::Connected},
};
use tower::{
    layer::util::{Identity, Stack},
    util::MapResponseLayer,
};

use super::{
    config::Limits,
    listen::{self, Accept, ConnectionLimit, Listener},
    workers::{Balance, Workers},
};
use crate::grpc::fault;

/// A peer that resets streams faster than they are served is cut off
/// (CVE-2023-44487, CVE-2025-8671). hyper's own figures, which tonic unsets.
const MAX_PENDING_RESET_STREAMS: usize = 20;
const MAX_LOCAL_ERROR_RESET_STREAMS: usize = 1024;

type NameFaults = MapResponseLayer<fn(Response<Body>) -> Response<Body>>;

/// What all gRPC listeners have in common.
pub struct Gate {
    pub limits: Limits,
    pub tls: Option<ServerTlsConfig>,
    pub connections: ConnectionLimit,
    pub balance: Balance,
    /// Cancelled when the daemon stops: the listeners close.
    pub stopping: CancellationToken,
}

impl Gate {
    /// Serves `routes` on a listener: accepts here, and serves on the workers,
    /// all as tasks of `serving`.
    pub fn serve(
        &self,
        listener: Listener,
        routes: Routes,
        workers: &Workers,
        serving: &mut JoinSet<()>,
    ) {
        match listener {
            Listener::Tcp(listener) => self.open(listener, true, routes, workers, serving),
            Listener::Unix(listener, file) => {
                self.open((listener, file), false, routes, workers, serving);
            }
        }
    }

    fn open<A: Accept>(
        &self,
        listener: A,
        secured: bool,
        routes: Routes,
        workers: &Workers,
        serving: &mut JoinSet<()>,
    ) where
        <A::Io as Connected>::ConnectInfo: Clone + Send + Sync + 'static,
    {
        let mut doors = Vec::new();
        for runtime in workers.runtimes() {
            let (door, arrivals) = mpsc::unbounded_channel();
            doors.push(door);
            let arrivals = listen::arrivals::<A>(arrivals);
            let stop = self.stopping.clone().cancelled_owned();
            let server = self.server(secured).add_routes(routes.clone());
            let serve = server.serve_with_incoming_shutdown(arrivals, stop);
            let serve = async move {
                if let Err(error) = serve.await {
                    tracing::error!(%error, "a listener has failed");
                }
            };
            serving.spawn_on(serve, runtime);
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

    fn server(&self, secured: bool) -> Server<Stack<NameFaults, Identity>> {
        let limits = &self.limits;
        let server = Server::builder()
            .layer(MapResponseLayer::new(fault::name_transport_faults as _))
            .max_concurrent_streams(limits.max_concurrent_streams)
            .http2_max_header_list_size(limits.max_header_bytes.0.try_into().unwrap_or(u32::MAX))
            .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESET_STREAMS))
            .http2_max_local_error_reset_streams(Some(MAX_LOCAL_ERROR_RESET_STREAMS))
            .http2_keepalive_interval(Some(listen::KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(listen::KEEPALIVE_TIMEOUT));
        match &self.tls {
            Some(tls) if secured => {
                server.tls_config(tls.clone()).expect("the TLS files were checked at start")
            }
            _ => server,
        }
    }
}
