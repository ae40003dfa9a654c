//! The gate: how gRPC is spoken on a listener, and within which limits.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, ServerTlsConfig, server::Connected},
};
use tower::util::MapResponseLayer;

use super::{
    config::Limits,
    listen::{self, Accept, ConnectionLimit, Listener},
};
use crate::grpc::fault;

/// A peer that resets streams faster than they are served is cut off
/// (CVE-2023-44487, CVE-2025-8671). hyper's own figures, which tonic unsets.
const MAX_PENDING_RESET_STREAMS: usize = 20;
const MAX_LOCAL_ERROR_RESET_STREAMS: usize = 1024;

/// What all gRPC listeners have in common.
pub struct Gate {
    pub limits: Limits,
    pub tls: Option<ServerTlsConfig>,
    pub connections: ConnectionLimit,
    /// Cancelled when the daemon stops: the listeners close.
    pub stopping: CancellationToken,
}

impl Gate {
    /// Serves `routes` on a listener, as a task of `serving`.
    pub fn serve(&self, listener: Listener, routes: Routes, serving: &mut JoinSet<()>) {
        match listener {
            Listener::Tcp(listener) => self.spawn(listener, self.tls.clone(), routes, serving),
            Listener::Unix(listener, file) => self.spawn((listener, file), None, routes, serving),
        }
    }

    fn spawn<A: Accept>(
        &self,
        listener: A,
        tls: Option<ServerTlsConfig>,
        routes: Routes,
        serving: &mut JoinSet<()>,
    ) where
        <A::Io as Connected>::ConnectInfo: Clone + Send + Sync + 'static,
    {
        let limits = &self.limits;
        let mut server = Server::builder()
            .layer(MapResponseLayer::new(fault::name_transport_faults))
            .max_concurrent_streams(limits.max_concurrent_streams)
            .http2_max_header_list_size(limits.max_header_bytes.0.try_into().unwrap_or(u32::MAX))
            .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESET_STREAMS))
            .http2_max_local_error_reset_streams(Some(MAX_LOCAL_ERROR_RESET_STREAMS))
            .http2_keepalive_interval(Some(listen::KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(listen::KEEPALIVE_TIMEOUT));
        if let Some(tls) = tls {
            server = server.tls_config(tls).expect("the TLS files were checked at start");
        }
        let connections = listen::connections(listener, self.connections.clone());
        let stop = self.stopping.clone().cancelled_owned();
        let serve = server.add_routes(routes).serve_with_incoming_shutdown(connections, stop);
        serving.spawn(async move {
            if let Err(error) = serve.await {
                tracing::error!(%error, "a listener has failed");
            }
        });
    }
}
