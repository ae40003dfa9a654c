//! `sessiond.v1.SessionAdminService`.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    convert,
    engines::Engines,
    fault::{Fault, Reason},
    operation::run_detached,
    page, transfer,
    watchers::{Filter, Watch, Watchers},
    wire::{
        CleanupRequest, CleanupResponse, ExportSessionsRequest, ExportSessionsResponse,
        ImportSessionsRequest, ImportSessionsResponse, ListSessionsRequest, ListSessionsResponse,
        RevokeSessionsRequest, RevokeSessionsResponse, WatchSessionsRequest,
        session_admin_service_server,
    },
};
use crate::session::{engine::Engine, id::PublicId, principals::Target, record::Principal};

/// Sessions on a page of a list, unless it is asked for another size.
const PAGE_SIZE: usize = 50;
/// Sessions that one RevokeSessions may name.
const MOST_IDS: usize = 1000;

/// The service, over the engines of a daemon.
pub struct SessionAdminService {
    pub engines: Engines,
    /// Entries that one slice of a sweep looks at.
    pub slice: usize,
    /// The audience of all the engines.
    pub watchers: Arc<Watchers>,
    /// Cancelled when the daemon stops: watching ends.
    pub stopping: CancellationToken,
}

impl SessionAdminService {
    async fn list(&self, request: ListSessionsRequest) -> Result<ListSessionsResponse, Fault> {
        let engine = self.engines.get(request.engine.as_bytes())?;
        let principal = principal(&request.principal)?;
        let size = page::size(request.page_size, PAGE_SIZE)?;
        let after = page::after(&request.page_token, engine.name(), &principal)?;
        let page = engine.list(&principal, after, size).await?;
        Ok(ListSessionsResponse {
            sessions: page.sessions.iter().map(convert::session_without_data).collect(),
            next_page_token: page
                .next
                .map(|after| page::token(engine.name(), &principal, after))
                .unwrap_or_default(),
        })
    }

    async fn revoke(
        &self,
        request: RevokeSessionsRequest,
    ) -> Result<RevokeSessionsResponse, Fault> {
        let engine = Arc::clone(self.engines.get(request.engine.as_bytes())?);
        let target = target(&request)?;
        let must_complete = engine.must_complete();
        let revoking = run_detached(must_complete, async move { engine.revoke(target).await });
        let revoked = revoking.await?;
        Ok(RevokeSessionsResponse { revoked })
    }

    fn watch(&self, request: WatchSessionsRequest) -> Result<Watch, Fault> {
        let named = (!request.engine.is_empty())
            .then(|| self.engines.get(request.engine.as_bytes()))
            .transpose()?;
        let engine = named.map(|engine: &Arc<Engine>| engine.name().to_owned());
        let principal =
            (!request.principal.is_empty()).then(|| principal(&request.principal)).transpose()?;
        self.watchers.watch(Filter { engine, principal }, self.stopping.clone())
    }
}

/// Whose sessions are meant; they belong to somebody.
fn principal(principal: &str) -> Result<Principal, Fault> {
    if principal.is_empty() {
        let problem = "expected whose sessions are meant; anonymous sessions are nobody's";
        return Err(Fault::at(Reason::InvalidArgument, "principal", problem));
    }
    convert::principal(principal.as_bytes())
}

fn target(request: &RevokeSessionsRequest) -> Result<Target, Fault> {
    let at = |problem: String| Fault::at(Reason::InvalidArgument, "session_ids", problem);
    let ids = &request.session_ids;
    if ids.len() > MOST_IDS {
        return Err(at(format!("expected at most {MOST_IDS} ids, found {}", ids.len())));
    }
    if ids.is_empty() && request.principal.is_empty() {
        return Err(at("expected the ids of sessions, or a principal".to_owned()));
    }
    // An id that names no session is none of the caller's mistakes, but a token
    // in its place is one: nothing would be revoked.
    let id = |id: &String| PublicId::from_text(id.as_bytes());
    let parsed = ids.iter().map(id).collect::<Option<Vec<_>>>().ok_or_else(|| {
        at(format!(
            "expected the public ids of sessions, {} characters of base64url each",
            PublicId::TEXT_LEN
        ))
    })?;
    if request.principal.is_empty() {
        return Ok(Target::Sessions(parsed));
    }
    let principal = principal(&request.principal)?;
    Ok(if parsed.is_empty() {
        Target::Principal(principal)
    } else {
        Target::SessionsOf(principal, parsed)
    })
}

#[tonic::async_trait]
impl session_admin_service_server::SessionAdminService for SessionAdminService {
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
            removed += swept.map_err(|error| Fault::from(error).into_status())?;
        }
        Ok(Response::new(CleanupResponse { removed }))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        self.list(request.into_inner()).await.map(Response::new).map_err(Fault::into_status)
    }

    async fn revoke_sessions(
        &self,
        request: Request<RevokeSessionsRequest>,
    ) -> Result<Response<RevokeSessionsResponse>, Status> {
        self.revoke(request.into_inner()).await.map(Response::new).map_err(Fault::into_status)
    }

    async fn export_sessions(
        &self,
        request: Request<ExportSessionsRequest>,
    ) -> Result<Response<ExportSessionsResponse>, Status> {
        let page = transfer::export(&self.engines, request.into_inner()).await;
        page.map(Response::new).map_err(Fault::into_status)
    }

    async fn import_sessions(
        &self,
        request: Request<ImportSessionsRequest>,
    ) -> Result<Response<ImportSessionsResponse>, Status> {
        let done = transfer::import(&self.engines, request.into_inner()).await;
        done.map(Response::new).map_err(Fault::into_status)
    }

    type WatchSessionsStream = Watch;

    async fn watch_sessions(
        &self,
        request: Request<WatchSessionsRequest>,
    ) -> Result<Response<Watch>, Status> {
        self.watch(request.into_inner()).map(Response::new).map_err(Fault::into_status)
    }
}
