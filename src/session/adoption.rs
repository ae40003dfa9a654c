//! Adoption: the sessions of an application that kept its own before.
//!
//! An authentic cookie whose id is unknown here may be one of that application's.
//! Its record is read there and becomes a session of ours, with an id of ours; the
//! browser gets a new cookie. What is there is never changed.
//!
//! A [mark](Engine::adopt) under the application's id says which session that is.
//! It is made once, in a store of its own, and outlives the session: whoever comes
//! with the old cookie again is led to that session, and to no other when it has
//! ended. So of two requests in parallel one makes the session and both get it, and
//! nothing that was ended here is adopted again.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    clock::Moment,
    credential::Proven,
    data::Data,
    error::Result,
    event::EventKind,
    foreign::{Foreign, ForeignId, Source},
    id::{PublicId, SessionId},
    lifetime::MAX_DURATION,
    record::{Claim, Principal, Record},
    sessions::Sessions,
    store::{self, Certainty, Store, StoreError},
};

/// What an engine has for adopting.
pub struct Adoption {
    /// The marks. Swept also when nothing is adopted any more.
    pub marks: Arc<dyn Store>,
    /// `None`: nothing is adopted.
    pub from: Option<Application>,
}

/// Whose sessions are adopted.
pub struct Application {
    pub source: Arc<dyn Source>,
    /// How long a mark stays, at least: it stays as long as the application's record
    /// had to live.
    pub remember: Duration,
}

const ADOPT: &str = "adopt a session of the application";

impl Adoption {
    /// Whether sessions are adopted now; if not, only old marks are left.
    pub(super) fn is_on(&self) -> bool {
        self.from.is_some()
    }

    /// What the application's ids in a credential prove here, once their sessions
    /// are adopted. `None`: nothing.
    pub(super) async fn adopt(
        &self,
        sessions: &Sessions,
        foreign: &[ForeignId],
    ) -> Result<Option<Vec<Proven>>> {
        let mut proven = Vec::new();
        let Self { marks, from: Some(from) } = self else {
            return Ok(None);
        };
        for foreign in foreign {
            // Theirs look like ours: one that is known here, alive or not, is ours.
            if let Some(own) = SessionId::from_text(foreign.expose().as_bytes())
                && sessions.store.read(own.public(), Certainty::Current).await?.is_some()
            {
                continue;
            }
            let derived = foreign.derived();
            // For good: were it lost after the session has ended, or was rolled, the
            // application's record would be adopted once more.
            let adopted = match marks.read(derived.public(), Certainty::Durable).await? {
                Some(mark) => Some(marked(&mark)?),
                None => self.take_over(sessions, foreign, from).await?,
            };
            proven.extend(adopted.map(|session| {
                let id = derived.with_public(session);
                // What the browser has is to be replaced.
                Proven { verifier: id.verifier_hash(), id, outdated: true }
            }));
        }
        Ok((!proven.is_empty()).then_some(proven))
    }

    /// Makes a session of the application's, and the mark that leads to it. The
    /// mark comes last: nobody gets at a session that has none, and of several
    /// that are made at the same time the one that is marked stays.
    async fn take_over(
        &self,
        sessions: &Sessions,
        foreign: &ForeignId,
        from: &Application,
    ) -> Result<Option<PublicId>> {
        let Some(found) = from.source.fetch(foreign).await? else {
            return Ok(None);
        };
        let now = sessions.clock.now();
        let (derived, life) = (foreign.derived(), found.life);
        let (session, record) = create_adopted(sessions, &derived, found, now).await?;
        let mark = Record {
            verifier: derived.verifier_hash(),
            version: 1,
            create_time: now,
            // What is there for ever is remembered for ever.
            deadline: now + life.map_or(Duration::MAX, |life| life.max(from.remember)),
            duration: None,
            principal: Principal::default(),
            data: mark_data(session),
        };
        if self.marks.create(derived.public(), mark).await?.is_some() {
            sessions.emit(session, &record.principal, now, EventKind::Created);
            return Ok(Some(session));
        }
        // Another request was quicker. If this fails, what nobody can get at ends
        // by itself.
        let _ = sessions.store.destroy(session, Claim::Verifier(record.verifier)).await;
        let mark = self.marks.read(derived.public(), Certainty::Durable).await?;
        Ok(mark.map(|mark| marked(&mark)).transpose()?)
    }
}

async fn create_adopted(
    sessions: &Sessions,
    derived: &SessionId,
    found: Foreign,
    now: Moment,
) -> Result<(PublicId, Arc<Record>)> {
    let lifetime = &sessions.policy.lifetime;
    let own = found.duration.map(|own| own.min(MAX_DURATION));
    let duration = own.filter(|own| *own != lifetime.duration);
    let deadline = lifetime.deadline(now, duration, now);
    let record = Record {
        verifier: derived.verifier_hash(),
        version: 1,
        create_time: now,
        deadline: found.life.map_or(deadline, |life| deadline.min(now + life)),
        duration,
        principal: found.principal,
        data: found.data,
    };
    loop {
        let id = SessionId::generate(sessions.entropy.as_ref()).public();
        if let Some(record) = sessions.store.create(id, record.clone()).await? {
            return Ok((id, record));
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Marked {
    session: String,
}

fn mark_data(session: PublicId) -> Data {
    let text = serde_json::to_string(&Marked { session: session.to_string() });
    Data::parse(text.expect("a text is JSON").into()).expect("an object")
}

/// The session that a mark leads to.
fn marked(mark: &Record) -> store::Result<PublicId> {
    let Marked { session } = serde_json::from_slice(mark.data.text())
        .map_err(|_| StoreError::unreadable(ADOPT, "its mark is none"))?;
    PublicId::from_text(session.as_bytes())
        .ok_or_else(|| StoreError::unreadable(ADOPT, "its mark names no session"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_leads_to_its_session() {
        let session = PublicId::from_bytes([7; 12]);
        let mut mark = Record {
            verifier: SessionId::derived(b"x").verifier_hash(),
            version: 1,
            create_time: Moment::from_unix_millis(0),
            deadline: Moment::from_unix_millis(1),
            duration: None,
            principal: Principal::default(),
            data: mark_data(session),
        };
        assert_eq!(marked(&mark).expect("a mark"), session);
        mark.data = Data::EMPTY;
        marked(&mark).expect_err("no mark");
    }
}
