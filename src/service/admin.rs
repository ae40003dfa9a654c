//! What operators call: cleanup, list, get, revoke, watch and status. Export and import are in
//! [`transfer`](super::transfer).

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    engines::Engines,
    fault::{Fault, Reason},
    input::{self, invalid},
    operation::run_detached,
    page::{self, Question},
    reload::{Refused, Reload, Reloaded, Trigger},
    status::{Status, StatusSource},
    watchers::{Filter, Watch, Watchers},
};
use crate::session::{Session, id::PublicId, principals::Target};

/// The calls of operators, over the engines of a daemon.
pub struct AdminService {
    /// The engines that calls may name. With an empty name, some calls mean all of them.
    pub engines: Engines,
    /// Entries that one slice of a cleanup looks at.
    pub slice: usize,
    /// The event sink of all the engines.
    pub watchers: Arc<Watchers>,
    /// Cancelled when the daemon stops: watching ends.
    pub stopping: CancellationToken,
    /// Tells how the daemon is.
    pub status: Arc<dyn StatusSource>,
    /// Reloads the daemon.
    pub reloads: Arc<dyn Reload>,
}

/// Asks for the live sessions of a principal.
pub struct ListRequest<'r> {
    /// The engine's name; empty: [`DEFAULT`](super::engines::DEFAULT).
    pub engine: &'r str,
    /// Not empty: anonymous sessions cannot be listed.
    pub principal: &'r str,
    /// 0: 50. Above 1000: 1000.
    pub page_size: i32,
    /// Of the answer before; empty: the first page.
    pub page_token: &'r str,
}

/// A page of a list.
#[derive(Debug)]
pub struct ListPage {
    /// Without their data.
    pub sessions: Vec<Session>,
    /// `None`: this is the last page.
    pub next_page_token: Option<String>,
}

/// Asks for one session.
pub struct GetRequest<'r> {
    /// The engine's name; empty: [`DEFAULT`](super::engines::DEFAULT).
    pub engine: &'r str,
    /// A public id.
    pub session_id: &'r str,
}

/// Asks to end sessions: by id, by principal, or, if both are given, those of the ids
/// that belong to the principal; or all of an engine.
pub struct RevokeRequest<'r> {
    /// The engine's name; empty: [`DEFAULT`](super::engines::DEFAULT).
    pub engine: &'r str,
    /// Public ids, at most 1000.
    pub session_ids: &'r [String],
    /// Empty: no principal is meant.
    pub principal: &'r str,
    /// All sessions of the engine. Not together with ids or a principal.
    pub all: bool,
}

/// Asks for events from now on.
pub struct WatchRequest<'r> {
    /// The engine's name; empty: all engines.
    pub engine: &'r str,
    /// Empty: the sessions of all principals, and anonymous ones.
    pub principal: &'r str,
}

impl AdminService {
    /// Removes expired sessions of the named engine, or of all engines if the name is
    /// empty. Returns how many.
    pub async fn cleanup(&self, engine: &str) -> Result<u64, Fault> {
        let engines: Vec<_> = if engine.is_empty() {
            self.engines.iter().collect()
        } else {
            vec![self.engines.get(engine.as_bytes())?]
        };
        let mut removed = 0;
        for engine in engines {
            removed += engine.sweep(self.slice).await?;
        }
        Ok(removed)
    }

    /// A page of the live sessions of a principal.
    pub async fn list(&self, request: ListRequest<'_>) -> Result<ListPage, Fault> {
        let engine = self.engines.get(request.engine.as_bytes())?;
        let principal = input::owner(request.principal.as_bytes())?;
        let size = page::size(request.page_size, page::LIST_SIZE)?;
        let question = Question::List { engine: engine.name(), principal: &principal };
        let after = page::after(request.page_token, question)?;
        let page = engine.list(&principal, after, size).await?;
        Ok(ListPage {
            sessions: page.sessions,
            next_page_token: page.next.map(|after| page::next(after, question)),
        })
    }

    /// The live session with this id, with its data.
    pub async fn get(&self, request: GetRequest<'_>) -> Result<Option<Session>, Fault> {
        let engine = self.engines.get(request.engine.as_bytes())?;
        let id = PublicId::from_text(request.session_id.as_bytes()).ok_or_else(|| {
            let len = PublicId::TEXT_LEN;
            let problem =
                format!("expected the public id of a session, {len} characters of base64url");
            invalid("session_id", problem)
        })?;
        Ok(engine.get(id).await?)
    }

    /// How the daemon is.
    pub fn status(&self) -> Status {
        self.status.status()
    }

    /// Ends sessions. Returns how many were live.
    pub async fn revoke(&self, request: RevokeRequest<'_>) -> Result<u32, Fault> {
        let engine = Arc::clone(self.engines.get(request.engine.as_bytes())?);
        let target = target(&request)?;
        let must_complete = engine.must_complete();
        Ok(run_detached(must_complete, async move { engine.revoke(target).await }).await?)
    }

    /// The events of sessions from now on.
    pub fn watch(&self, request: WatchRequest<'_>) -> Result<Watch, Fault> {
        let engine = match request.engine {
            "" => None,
            name => Some(self.engines.get(name.as_bytes())?.name().to_owned()),
        };
        let principal = match request.principal {
            "" => None,
            name => Some(input::principal(name.as_bytes())?),
        };
        self.watchers.watch(Filter { engine, principal }, self.stopping.clone())
    }

    /// Reads the configuration and its files again, and takes over what has changed.
    pub async fn reload(&self) -> Result<Reloaded, Fault> {
        let reloaded = self.reloads.reload(Trigger::Call).await;
        reloaded.map_err(|refused: Refused| Fault::new(Reason::ReloadRefused, refused.to_string()))
    }
}

fn target(request: &RevokeRequest<'_>) -> Result<Target, Fault> {
    let ids = request.session_ids;
    let is_chosen = !ids.is_empty() || !request.principal.is_empty();
    if request.all {
        let problem = "expected no session_ids and no principal beside it";
        return if is_chosen { Err(invalid("all", problem.to_owned())) } else { Ok(Target::All) };
    }
    if !is_chosen {
        let problem = "expected the ids of sessions, or a principal, or all";
        return Err(invalid("session_ids", problem.to_owned()));
    }
    let parsed = input::session_ids(ids.iter().map(String::as_bytes))?;
    if request.principal.is_empty() {
        return Ok(Target::Sessions(parsed));
    }
    let principal = input::principal(request.principal.as_bytes())?;
    Ok(if parsed.is_empty() {
        Target::Principal(principal)
    } else {
        Target::SessionsOf(principal, parsed)
    })
}
