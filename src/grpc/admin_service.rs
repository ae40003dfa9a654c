//! `sessiond.v1.SessionAdminService`: its messages, to and from `service::admin`. tonic
//! serves it, and its trait has a method for every RPC.

use futures_util::{StreamExt, stream};
use tonic::{Request, Response, Status};

use super::{
    convert,
    pb::{
        CleanupRequest, CleanupResponse, ExportSessionsRequest, ExportSessionsResponse,
        GetSessionRequest, GetSessionResponse, GetStatusRequest, GetStatusResponse,
        ImportSessionsRequest, ImportSessionsResponse, ListSessionsRequest, ListSessionsResponse,
        RevokeSessionsRequest, RevokeSessionsResponse, WatchSessionsRequest, WatchSessionsResponse,
        session_admin_service_server,
    },
};
use crate::service::{
    admin::{AdminService, GetRequest, ListRequest, RevokeRequest, WatchRequest},
    transfer::ExportRequest,
    watchers::Watch,
};

/// [`AdminService`] over gRPC.
pub struct SessionAdminService(pub AdminService);

type Watched = Result<WatchSessionsResponse, Status>;

#[tonic::async_trait]
impl session_admin_service_server::SessionAdminService for SessionAdminService {
    async fn cleanup(
        &self,
        request: Request<CleanupRequest>,
    ) -> Result<Response<CleanupResponse>, Status> {
        let removed = self.0.cleanup(&request.get_ref().engine).await?;
        Ok(Response::new(CleanupResponse { removed }))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let ListSessionsRequest { engine, principal, page_size, page_token } = request.get_ref();
        let request = ListRequest { engine, principal, page_size: *page_size, page_token };
        let page = self.0.list(request).await?;
        Ok(Response::new(ListSessionsResponse {
            sessions: page.sessions.iter().map(convert::session_without_data).collect(),
            next_page_token: page.next_page_token.unwrap_or_default(),
        }))
    }

    async fn get_session(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Result<Response<GetSessionResponse>, Status> {
        let GetSessionRequest { engine, session_id, with_data } = request.get_ref();
        let session = self.0.get(GetRequest { engine, session_id }).await?;
        Ok(Response::new(convert::found(session.as_ref(), *with_data)))
    }

    async fn revoke_sessions(
        &self,
        request: Request<RevokeSessionsRequest>,
    ) -> Result<Response<RevokeSessionsResponse>, Status> {
        let RevokeSessionsRequest { engine, session_ids, principal, all } = request.get_ref();
        let request = RevokeRequest { engine, session_ids, principal, all: *all };
        let revoked = self.0.revoke(request).await?;
        Ok(Response::new(RevokeSessionsResponse { revoked }))
    }

    type WatchSessionsStream = stream::Map<Watch, fn(<Watch as stream::Stream>::Item) -> Watched>;

    async fn watch_sessions(
        &self,
        request: Request<WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        let WatchSessionsRequest { engine, principal } = request.get_ref();
        let watch = self.0.watch(WatchRequest { engine, principal })?;
        Ok(Response::new(watch.map(|event| Ok(convert::event(&event?)))))
    }

    async fn export_sessions(
        &self,
        request: Request<ExportSessionsRequest>,
    ) -> Result<Response<ExportSessionsResponse>, Status> {
        let ExportSessionsRequest { engine, page_size, page_token } = request.get_ref();
        let request = ExportRequest { engine, page_size: *page_size, page_token };
        let page = self.0.export(request).await?;
        let record = |entry| convert::exported(&page.engine, entry, page.offset);
        Ok(Response::new(ExportSessionsResponse {
            records: page.entries.iter().map(record).collect(),
            next_page_token: page.next_page_token.unwrap_or_default(),
            stored_count: page.stored_count,
            unreadable_count: page.unreadable_count,
            page_time: Some(convert::timestamp(page.time)),
            engine: page.engine,
        }))
    }

    async fn import_sessions(
        &self,
        request: Request<ImportSessionsRequest>,
    ) -> Result<Response<ImportSessionsResponse>, Status> {
        let records = request.into_inner().records.into_iter().map(convert::imported);
        let counts = self.0.import(records).await?;
        Ok(Response::new(ImportSessionsResponse {
            created_count: counts.created,
            replaced_count: counts.replaced,
            kept_count: counts.kept,
            dropped_count: counts.dropped,
        }))
    }

    async fn get_status(
        &self,
        _request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(convert::status(self.0.status())))
    }
}
