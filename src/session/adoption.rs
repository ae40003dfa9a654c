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
    ///
    /// Fails if a record cannot be read, unless another one was adopted. With
    /// [`Purpose::End`] such a record is used up: it can be ended, and is never adopted.
    pub(super) async fn adopt(
        &self,
        sessions: &Sessions,
        foreign: &[ForeignId],
        purpose: Purpose,
    ) -> Result<Option<Vec<Proven>>> {
        let mut proven = Vec::new();
        let Some(from) = &self.from else {
            return Ok(None);
        };
        let mut unreadable = None;
        for foreign in foreign {
            match self.adopt_one(sessions, foreign, from).await {
                Ok(adopted) => proven.extend(adopted),
                Err(error) if !error.is_unreadable() => return Err(error),
                Err(_) if purpose == Purpose::End => self.use_up(sessions, foreign).await?,
                Err(error) => unreadable = unreadable.or(Some(error)),
            }
        }
        match unreadable {
            Some(error) if proven.is_empty() => Err(error),
            _ => Ok((!proven.is_empty()).then_some(proven)),
        }
    }

    async fn adopt_one(
        &self,
        sessions: &Sessions,
        foreign: &ForeignId,
        from: &Application,
    ) -> Result<Option<Proven>> {
        // The application's ids can have the same form as ours. If the id has a record
        // here, live or not, it is ours.
        if let Some(own) = SessionId::from_text(foreign.expose().as_bytes())
            && has_record(sessions, own.public()).await?
        {
            return Ok(None);
        }
        let derived = foreign.derived();
        // Durable: if the mark were lost after its session ended or was rolled, the
        // application's record would be adopted a second time.
        let adopted = match self.marks.read(derived.public(), Certainty::Durable).await? {
            Some(mark) => Some(marked(&mark)?),
            None => self.take_over(sessions, foreign, from).await?,
        };
        Ok(adopted.map(|session| {
            let id = derived.with_public(session);
            // Outdated, so that the browser's cookie is replaced.
            Proven { verifier: id.verifier_hash(), id, outdated: true }
        }))
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
        // A record without an end gets a mark without an end.
        let remember = life.map_or(Duration::MAX, |life| life.max(from.remember));
        let mark = mark(&derived, session, now, remember);
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

    /// Creates a mark that leads to no session. It has no end, because nobody knows when the
    /// application's record has one.
    async fn use_up(&self, sessions: &Sessions, foreign: &ForeignId) -> Result<()> {
        let derived = foreign.derived();
        let nowhere = SessionId::generate(sessions.entropy.as_ref()).public();
        let mark = mark(&derived, nowhere, sessions.clock.now(), Duration::MAX);
        self.marks.create(derived.public(), mark).await?;
        Ok(())
    }
}

/// What a session is adopted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be used.
    Use,
    /// To be ended at once, so what is in it does not matter.
    End,
}

fn mark(derived: &SessionId, session: PublicId, now: Moment, remember: Duration) -> Record {
    Record {
        verifier: derived.verifier_hash(),
        version: 1,
        create_time: now,
        deadline: now + remember,
        duration: None,
        principal: Principal::default(),
        data: mark_data(session),
        extension: Extension::default(),
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
        let now = Moment::from_unix_millis(0);
        let mut mark = mark(&SessionId::derived(b"x"), session, now, Duration::from_millis(1));
        assert_eq!(marked(&mark).expect("a mark"), session);
        mark.data = Data::EMPTY;
        marked(&mark).expect_err("no mark");
    }
}
