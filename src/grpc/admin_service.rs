//! `sessiond.v1.SessionAdminService`: its messages, to and from `service::admin`. tonic
//! serves it, and its trait has a method for every RPC. Each call leaves a line in the audit log.

use futures_util::{StreamExt, stream};
use tonic::{Request, Response, Status};

use super::{
    convert,
    pb::{
        CleanupRequest, CleanupResponse, ExportSessionsRequest, ExportSessionsResponse,
        GetSessionRequest, GetSessionResponse, GetStatusRequest, GetStatusResponse,
        ImportSessionsRequest, ImportSessionsResponse, ListSessionsRequest, ListSessionsResponse,
        ReloadRequest, ReloadResponse, RevokeSessionsRequest, RevokeSessionsResponse,
        WatchSessionsRequest, WatchSessionsResponse, session_admin_service_server,
    },
};
use crate::service::{
    access::{Caller, Identity, Remote},
    admin::{AdminService, GetRequest, ListRequest, RevokeRequest, WatchRequest},
    audit::{self, Audit, Call},
    transfer::ExportRequest,
    watchers::Watch,
};

/// [`AdminService`] over gRPC.
pub struct SessionAdminService(pub AdminService);

type Watched = Result<WatchSessionsResponse, Status>;

/// Begins the audit of a call. The handler has said who calls.
fn begin<T>(request: &Request<T>, rpc: &'static str, engine: String, what: &'static str) -> Audit {
    let who = request.extensions().get::<Identity>().cloned();
    let unknown = Identity { caller: Caller::Anybody, remote: Remote::Unknown };
    Audit::begin(who.unwrap_or(unknown), Call { rpc, engine, what })
}

#[tonic::async_trait]
impl session_admin_service_server::SessionAdminService for SessionAdminService {
    async fn cleanup(
        &self,
        request: Request<CleanupRequest>,
    ) -> Result<Response<CleanupResponse>, Status> {
        let engine = &request.get_ref().engine;
        let named = audit::any(&self.0.engines, engine);
        let audit = begin(&request, "Cleanup", named, "expired sessions removed");
        let removed = audit.end(self.0.cleanup(engine).await, |removed| *removed)?;
        Ok(Response::new(CleanupResponse { removed }))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let ListSessionsRequest { engine, principal, page_size, page_token } = request.get_ref();
        let named = audit::one(&self.0.engines, engine);
        let audit = begin(&request, "ListSessions", named, "sessions of a principal listed");
        let asked = ListRequest { engine, principal, page_size: *page_size, page_token };
        let page = self.0.list(asked).await;
        let page = audit.end(page, |page| page.sessions.len() as u64)?;
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
        let what = if *with_data { "session shown with its data" } else { "session shown" };
        let audit = begin(&request, "GetSession", audit::one(&self.0.engines, engine), what);
        let session = self.0.get(GetRequest { engine, session_id }).await;
        let session = audit.end(session, |session| session.is_some().into())?;
        Ok(Response::new(convert::found(session.as_ref(), *with_data)))
    }

    async fn revoke_sessions(
        &self,
        request: Request<RevokeSessionsRequest>,
    ) -> Result<Response<RevokeSessionsResponse>, Status> {
        let RevokeSessionsRequest { engine, session_ids, principal, all } = request.get_ref();
        let what = match (session_ids.is_empty(), principal.is_empty()) {
            _ if *all => "all sessions of the engine ended",
            (true, _) => "sessions of a principal ended",
            (false, true) => "sessions ended by id",
            (false, false) => "sessions of a principal ended by id",
        };
        let audit = begin(&request, "RevokeSessions", audit::one(&self.0.engines, engine), what);
        let asked = RevokeRequest { engine, session_ids, principal, all: *all };
        let revoked = self.0.revoke(asked).await;
        let revoked = audit.end(revoked, |revoked| (*revoked).into())?;
        Ok(Response::new(RevokeSessionsResponse { revoked }))
    }

    type WatchSessionsStream = stream::Map<Watch, fn(<Watch as stream::Stream>::Item) -> Watched>;

    async fn watch_sessions(
        &self,
        request: Request<WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        let WatchSessionsRequest { engine, principal } = request.get_ref();
        let what = match principal.is_empty() {
            true => "watch of all sessions begun",
            false => "watch of the sessions of a principal begun",
        };
        // At its beginning: it may go on for as long as the daemon does.
        let audit = begin(&request, "WatchSessions", audit::any(&self.0.engines, engine), what);
        let watch = audit.end(self.0.watch(WatchRequest { engine, principal }), |_| 1)?;
        Ok(Response::new(watch.map(|event| Ok(convert::event(&event?)))))
    }

    async fn export_sessions(
        &self,
        request: Request<ExportSessionsRequest>,
    ) -> Result<Response<ExportSessionsResponse>, Status> {
        let ExportSessionsRequest { engine, page_size, page_token } = request.get_ref();
        let named = audit::any(&self.0.engines, engine);
        let audit = begin(&request, "ExportSessions", named, "sessions exported");
        let asked = ExportRequest { engine, page_size: *page_size, page_token };
        let page = self.0.export(asked).await;
        let page = audit.end(page, |page| page.entries.len() as u64)?;
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
        let engine = match &request.get_ref().records[..] {
            [] => String::new(),
            [first, rest @ ..] => {
                let is_same = rest.iter().all(|record| record.engine == first.engine);
                if is_same { audit::one(&self.0.engines, &first.engine) } else { "several".into() }
            }
        };
        let audit = begin(&request, "ImportSessions", engine, "sessions imported");
        let records = request.into_inner().records.into_iter().map(convert::imported);
        let counts = audit.end(self.0.import(records).await, |counts| {
            u64::from(counts.created) + u64::from(counts.replaced)
        })?;
        Ok(Response::new(ImportSessionsResponse {
            created_count: counts.created,
            replaced_count: counts.replaced,
            kept_count: counts.kept,
            dropped_count: counts.dropped,
        }))
    }

    // No line: it tells nothing of any session, and `sessiond top` calls it every second.
    async fn get_status(
        &self,
        _request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(convert::status(self.0.status())))
    }

    async fn reload(
        &self,
        request: Request<ReloadRequest>,
    ) -> Result<Response<ReloadResponse>, Status> {
        let audit = begin(&request, "Reload", String::new(), "changes taken over");
        let reloaded = audit.end(self.0.reload().await, |done| done.changed.len() as u64)?;
        let (changed, restart_keys) = (reloaded.changed, reloaded.restart_keys);
        Ok(Response::new(ReloadResponse { changed, restart_keys }))
    }
}
