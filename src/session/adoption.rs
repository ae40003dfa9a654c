//! Adoption: takes over the sessions that an application kept in its own store.
//!
//! If a cookie is authentic but its id is unknown here, the id may be the application's.
//! The engine then reads the application's record and creates a session with a new id from
//! it. The browser gets a new cookie. The application's store is never changed.
//!
//! A [mark](Engine::adopt) maps the application's id to the adopted session. It is created
//! once, in a store of its own, and outlives the session. The old cookie always leads to
//! that session, and to no other after the session has ended. This gives two guarantees:
//!
//! - If two requests adopt in parallel, one creates the session and both get it.
//! - A session that was ended here is not adopted again.

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
    record::{Claim, Extension, Principal, Record},
    sessions::Sessions,
    store::{self, Certainty, Store, StoreError, StoreErrorKind},
};

/// What an engine needs to adopt sessions.
pub struct Adoption {
    /// The store of the marks. It is swept even after adoption was turned off.
    pub marks: Arc<dyn Store>,
    /// `None`: adoption is off.
    pub from: Option<Application>,
}

/// The application whose sessions are adopted.
pub struct Application {
    /// Where its records are. Is only read.
    pub source: Arc<dyn Source>,
    /// The minimum lifetime of a mark. A mark lives longer if the application's record had
    /// longer to live.
    pub remember: Duration,
}

const ADOPT: &str = "adopt a session of the application";

impl Adoption {
    /// Whether adoption is on. If it is off, only old marks are left.
    pub(super) fn is_on(&self) -> bool {
        self.from.is_some()
    }

    /// Adopts the sessions of the application's ids in a credential. Returns the ids that
    /// the credential then proves here, or `None` if there are none.
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
            // The application's ids can have the same form as ours. If the id has a record
            // here, live or not, it is ours.
            if let Some(own) = SessionId::from_text(foreign.expose().as_bytes())
                && has_record(sessions, own.public()).await?
            {
                continue;
            }
            let derived = foreign.derived();
            // Durable: if the mark were lost after its session ended or was rolled, the
            // application's record would be adopted a second time.
            let adopted = match marks.read(derived.public(), Certainty::Durable).await? {
                Some(mark) => Some(marked(&mark)?),
                None => self.take_over(sessions, foreign, from).await?,
            };
            proven.extend(adopted.map(|session| {
                let id = derived.with_public(session);
                // Outdated, so that the browser's cookie is replaced.
                Proven { verifier: id.verifier_hash(), id, outdated: true }
            }));
        }
        Ok((!proven.is_empty()).then_some(proven))
    }

    /// Creates a session from the application's record, then the mark that leads to it.
    ///
    /// The mark comes last, because a session without a mark cannot be reached. If several
    /// sessions are created at the same time, the one with the mark is kept.
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
            // A record without an end gets a mark without an end.
            deadline: now + life.map_or(Duration::MAX, |life| life.max(from.remember)),
            duration: None,
            principal: Principal::default(),
            data: mark_data(session),
            extension: Extension::default(),
        };
        if self.marks.create(derived.public(), mark).await?.is_some() {
            sessions.emit(session, &record.principal, now, EventKind::Created);
            return Ok(Some(session));
        }
        // Another request created the mark first. If this destroy fails, the session
        // cannot be reached and expires.
        let _ = sessions.store.destroy(session, Claim::valid_id(record.verifier)).await;
        let mark = self.marks.read(derived.public(), Certainty::Durable).await?;
        Ok(mark.map(|mark| marked(&mark)).transpose()?)
    }
}

/// Whether there is a record under the id, be it readable or not.
async fn has_record(sessions: &Sessions, id: PublicId) -> Result<bool> {
    match sessions.store.read(id, Certainty::Current).await {
        Err(error) if error.kind == StoreErrorKind::Unreadable => Ok(true),
        found => Ok(found?.is_some()),
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
        extension: Extension::default(),
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

/// The session that a mark leads to. Fails if the mark is malformed.
fn marked(mark: &Record) -> store::Result<PublicId> {
    let Marked { session } = serde_json::from_slice(mark.data.text())
        .map_err(|_| StoreError::unreadable(ADOPT, "its mark is malformed"))?;
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
            extension: Extension::default(),
        };
        assert_eq!(marked(&mark).expect("a mark"), session);
        mark.data = Data::EMPTY;
        marked(&mark).expect_err("no mark");
    }
}
