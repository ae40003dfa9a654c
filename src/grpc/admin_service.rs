//! `sessiond.v1.SessionAdminService`.

use std::pin::Pin;

use futures_util::Stream;
use tonic::{Request, Response, Status};

use super::{
    engines::Engines,
    fault::{Fault, Reason, log_cause},
    wire::{
        CleanupRequest, CleanupResponse, ListSessionsRequest, ListSessionsResponse,
        RevokeSessionsRequest, RevokeSessionsResponse, WatchSessionsRequest, WatchSessionsResponse,
        session_admin_service_server,
    },
};
use crate::session::store::Store;

/// The service, over the engines of a daemon.
pub struct SessionAdminService<S> {
    pub engines: Engines<S>,
    /// Entries that one slice of a sweep looks at.
    pub slice: usize,
}

fn not_implemented<T>(rpc: &str) -> Result<T, Status> {
    let message = format!("{rpc} is not in this version");
    Err(Fault::new(Reason::NotImplemented, message).into_status())
}

#[tonic::async_trait]
impl<S: Store> session_admin_service_server::SessionAdminService for SessionAdminService<S> {
    async fn cleanup(
        &self,
        request: Request<CleanupRequest>,
    ) -> Result<Response<CleanupResponse>, Status> {
        let name = request.into_inner().engine;
        let engines: Vec<_> = if name.is_empty() {
            self.engines.iter().collect()
        } else {
            vec![self.engines.get(name.as_bytes()).map_err(Fault::into_status)?]
        };
        let mut removed = 0;
        for engine in engines {
            let swept = engine.sweep(self.slice).await;
            removed += swept.inspect_err(log_cause).map_err(|e| Fault::from(e).into_status())?;
        }
        Ok(Response::new(CleanupResponse { removed }))
    }

    async fn list_sessions(
        &self,
        _: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        not_implemented("ListSessions")
    }

    async fn revoke_sessions(
        &self,
        _: Request<RevokeSessionsRequest>,
    ) -> Result<Response<RevokeSessionsResponse>, Status> {
        not_implemented("RevokeSessions")
    }

    type WatchSessionsStream =
        Pin<Box<dyn Stream<Item = Result<WatchSessionsResponse, Status>> + Send>>;

    async fn watch_sessions(
        &self,
        _: Request<WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        not_implemented("WatchSessions")
    }
}
