//! The list of one's own sessions: those of the principal whose session the credential proves.

use std::sync::Arc;

use super::{
    engines::Engines,
    fault::Fault,
    observer::{InFlight, Observer, OperationKind, Outcome, Subject},
    operation::run_detached,
    page::{self, Question},
};
use crate::{
    session::{
        Session,
        credential::{Absence, Credential},
        engine::Engine,
        id::PublicId,
        principals::OwnSessions,
    },
    timing::Stopwatch,
};

/// Asks for the live sessions of the credential's own principal.
pub struct ListOwnRequest<'r> {
    /// The engine's name; empty: [`DEFAULT`](super::engines::DEFAULT).
    pub engine: &'r [u8],
    /// What the request presents. [`Credential::Absent`] is answered as a state.
    pub credential: Credential<'r>,
    /// 0: 50. Above 1000: 1000.
    pub page_size: i32,
    /// Of the answer before; empty: the first page.
    pub page_token: &'r str,
}

/// A page of one's own sessions, or why there is none.
#[derive(Debug)]
pub enum OwnPage {
    /// The credential is live.
    Live {
        /// Its own session, which may be on another page.
        current: PublicId,
        /// Without their data.
        sessions: Vec<Session>,
        /// `None`: this is the last page.
        next_page_token: Option<String>,
    },
    /// It is not.
    Absent(Absence),
}

/// Lists one's own sessions, and tells the observer.
pub async fn list(
    engines: &Engines,
    request: ListOwnRequest<'_>,
    observer: &dyn Observer,
    watch: Stopwatch,
) -> Result<OwnPage, Fault> {
    let engine = engines.get(request.engine);
    let engine_of_it = engine.as_ref().ok().map(|engine| Arc::as_ref(engine));
    let subject = Subject { kind: OperationKind::ListSessions, engine: engine_of_it };
    let _in_flight = InFlight::begin(subject, observer);
    let listed = match engine {
        Ok(engine) => page_of(engine, request).await,
        Err(fault) => Err(fault),
    };
    let outcome = match &listed {
        Ok(OwnPage::Live { .. }) => Outcome::Active,
        Ok(OwnPage::Absent(absence)) => Outcome::Absent(*absence),
        Err(fault) => Outcome::Failed(fault.reason),
    };
    observer.finished(subject, outcome, watch.elapsed());
    listed
}

async fn page_of(engine: &Arc<Engine>, request: ListOwnRequest<'_>) -> Result<OwnPage, Fault> {
    let engine = Arc::clone(engine);
    let presented = engine.present(request.credential);
    let size = page::size(request.page_size, page::LIST_SIZE)?;
    let name = engine.name().to_owned();
    let question = Question::ListOwn { engine: &name };
    let after = page::after(request.page_token, question)?;
    let must_complete = presented.may_be_adopted() && engine.must_complete();
    let listing =
        run_detached(must_complete, async move { engine.list_own(&presented, after, size).await });
    Ok(match listing.await? {
        OwnSessions::Absent(absence) => OwnPage::Absent(absence),
        OwnSessions::Live { current, page } => OwnPage::Live {
            current,
            sessions: page.sessions,
            next_page_token: page.next.map(|after| page::next(after, question)),
        },
    })
}
