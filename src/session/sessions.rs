//! The sessions of one engine: a policy and a store.
//!
//! Holds what the operations of an [`engine`](super::engine) share: finding the session of a
//! credential, ending sessions, and emitting events.

use std::{sync::Arc, time::Duration};

use super::{
    clock::{Clock, Moment, WallOffset, WallTime},
    cookie::SetCookie,
    credential::{Absence, Presented, Proven},
    data::Data,
    error::Result,
    event::{Cause, Event, EventKind, EventSink},
    id::{Entropy, PublicId, SessionId},
    policy::Policy,
    record::{Claim, Principal, Record, Touch},
    store::{self, Certainty, Removed, Store, StoreErrorKind, Touched},
    token::Token,
};

/// A session as callers see it.
#[derive(Debug, Clone)]
pub struct Session {
    /// Public: not a credential.
    pub id: PublicId,
    /// Shared with the store, so it is not copied.
    pub record: Arc<Record>,
    /// When it ends, unless it is touched before.
    pub expire_time: Moment,
    /// The idle timeout: the session's own, or the engine's.
    pub duration: Duration,
    /// When it was last used, exact to the granularity.
    pub last_use_time: Moment,
    /// How its moments are shown.
    pub offset: WallOffset,
}

impl Session {
    /// The same session with empty data.
    pub(super) fn without_data(self) -> Self {
        let record = Record { data: Data::EMPTY, ..Record::clone(&self.record) };
        Self { record: Arc::new(record), ..self }
    }

    /// Of the wall clock.
    pub fn create_time(&self) -> WallTime {
        self.offset.wall(self.record.create_time)
    }

    /// Of the wall clock.
    pub fn expire_time(&self) -> WallTime {
        self.offset.wall(self.expire_time)
    }

    /// Of the wall clock, exact to the granularity.
    pub fn last_use_time(&self) -> WallTime {
        self.offset.wall(self.last_use_time)
    }
}

/// What the browser must be sent. If both fields are empty, nothing.
#[derive(Debug, Default)]
pub struct CookieUpdate {
    /// The value of one Set-Cookie line.
    pub set_cookie: Option<SetCookie>,
    /// The new token, if it differs from the one presented.
    pub token: Option<Token>,
}

/// A live session, and what its browser must be sent.
#[derive(Debug)]
pub struct Live {
    /// The session after the operation.
    pub session: Session,
    /// Empty unless the browser must learn something.
    pub cookie: CookieUpdate,
    /// Whether this operation created the session.
    pub is_new: bool,
}

/// The live session of a credential, or why there is none.
#[derive(Debug)]
pub enum Lookup {
    /// The first presented session that is live.
    Live(Live),
    /// Why there is none. The most specific reason if there are several ids.
    Absent(Absence),
}

/// The state of a session at the moment it was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Live,
    /// It had expired already.
    Expired,
}

/// What a lookup does to the session that it finds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Use {
    /// Nothing.
    Peek,
    /// It moves the deadline, and may set the session's own idle timeout.
    Touch(Option<Duration>),
}

/// What changed that the browser may have to be sent.
#[derive(Clone, Copy)]
pub(super) struct News {
    /// The token differs from the one presented.
    pub token: bool,
    /// The deadline was moved.
    pub deadline: bool,
    /// The cookie became persistent, or is no longer.
    pub persistence: bool,
}

/// The sessions of one engine.
pub(super) struct Sessions {
    pub engine: Box<str>,
    pub policy: Policy,
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub events: Arc<dyn EventSink>,
}

impl Sessions {
    /// What [`find`](Self::find) would return. Uses only what the store has in memory, and
    /// returns `None` if that is not enough.
    pub(super) fn recall(&self, presented: &Presented, using: Use) -> Option<Lookup> {
        let mut absence = presented.absence();
        for proven in presented.proven() {
            let now = self.clock.now();
            let record = self.store.recall(proven.public())?;
            match self.judge(proven, Some(Touched { record, moved: false }), now) {
                Lookup::Live(live) => {
                    let times = live.session.record.times();
                    let is_due = match using {
                        Use::Peek => false,
                        Use::Touch(own) => self.policy.lifetime.touched(times, own, now).is_some(),
                    };
                    return (!is_due).then_some(Lookup::Live(live));
                }
                Lookup::Absent(why) => absence = absence.max(why),
            }
        }
        // If the id may be the application's, memory alone cannot tell.
        (!presented.may_be_adopted()).then_some(Lookup::Absent(absence))
    }

    /// Finds the first presented session that is live, and touches it if `using` says so.
    /// Goes past a record that cannot be read, which is the outcome only if no session is live.
    pub(super) async fn find(&self, presented: &Presented, using: Use) -> Result<Lookup> {
        let mut absence = presented.absence();
        let mut readable = Ok(());
        for proven in presented.proven() {
            let now = self.clock.now();
            let found = match self.look_up(proven, using, now).await {
                Err(error) if error.kind == StoreErrorKind::Unreadable => {
                    readable = Err(error);
                    continue;
                }
                found => found?,
            };
            match self.judge(proven, found, now) {
                Lookup::Absent(why) => absence = absence.max(why),
                live => return Ok(live),
            }
        }
        readable?;
        Ok(Lookup::Absent(absence))
    }

    async fn look_up(
        &self,
        proven: &Proven,
        using: Use,
        now: Moment,
    ) -> store::Result<Option<Touched>> {
        let id = proven.public();
        if let Use::Touch(duration) = using {
            let (verifier, lifetime) = (proven.verifier, self.policy.lifetime);
            return self.store.touch(id, Touch { verifier, lifetime, now, duration }).await;
        }
        let record = self.store.read(id, Certainty::Current).await?;
        Ok(record.map(|record| Touched { record, moved: false }))
    }

    /// Decides whether the record that was found is the live session of the proven id.
    fn judge(&self, proven: &Proven, found: Option<Touched>, now: Moment) -> Lookup {
        let Some(Touched { record, moved }) = found else {
            return Lookup::Absent(Absence::NotFound);
        };
        let has_expired = self.has_expired(&record, now);
        if record.verifier != proven.verifier {
            let just = !has_expired && record.was_rolled_after(self.rolled_after(now));
            let absence = if just { Absence::JustSuperseded } else { Absence::Superseded };
            return Lookup::Absent(absence);
        }
        if has_expired {
            return Lookup::Absent(Absence::Expired);
        }
        let session = self.session(proven.public(), record);
        let news = News { token: proven.outdated, deadline: moved, persistence: false };
        let cookie = self.cookie_update(&session, &proven.id, news, now);
        Lookup::Live(Live { session, cookie, is_new: false })
    }

    /// An id that was rolled after this moment can still end its session.
    pub(super) fn rolled_after(&self, now: Moment) -> Moment {
        now.before(self.policy.roll_grace)
    }

    /// Reads the live record of a proven id. `None` if the id was rolled, or if the session is
    /// gone or has expired.
    pub(super) async fn live(&self, proven: &Proven) -> Result<Option<Arc<Record>>> {
        let now = self.clock.now();
        let id = proven.public();
        let record = match self.store.recall(id) {
            None => self.store.read(id, Certainty::Current).await?,
            recalled => recalled,
        };
        Ok(record
            .filter(|record| record.verifier == proven.verifier && !self.has_expired(record, now)))
    }

    /// Ends the session of a proven id, which may have been rolled a moment before.
    pub(super) async fn end_own(&self, proven: &Proven) -> Result<Option<Ended>> {
        let rolled_after = self.rolled_after(self.clock.now());
        let claim = Claim::Presented { verifier: proven.verifier, rolled_after };
        self.end(proven.public(), claim, Cause::Owner).await
    }

    /// Ends one session, if the claim holds, and emits the event. `None` if nothing was ended.
    /// A record that cannot be read counts as live.
    pub(super) async fn end(
        &self,
        id: PublicId,
        claim: Claim,
        cause: Cause,
    ) -> Result<Option<Ended>> {
        let now = self.clock.now();
        let anonymous = Principal::default();
        let removed = self.store.destroy(id, claim).await?;
        let (ended, kind, principal) = match &removed {
            None => return Ok(None),
            Some(Removed::Record(record)) if self.has_expired(record, now) => {
                (Ended::Expired, EventKind::Expired, &record.principal)
            }
            Some(Removed::Record(record)) => {
                (Ended::Live, EventKind::Destroyed(cause), &record.principal)
            }
            Some(Removed::Unreadable) => (Ended::Live, EventKind::Destroyed(cause), &anonymous),
        };
        self.emit(id, principal, now, kind);
        Ok(Some(ended))
    }

    pub(super) fn emit(
        &self,
        session: PublicId,
        principal: &Principal,
        time: Moment,
        kind: EventKind<'_>,
    ) {
        if self.events.is_listening() {
            let engine = &self.engine;
            let time = self.clock.wall_offset().wall(time);
            self.events.emit(Event { engine, session, principal, time, kind });
        }
    }

    pub(super) fn has_expired(&self, record: &Record, now: Moment) -> bool {
        self.policy.lifetime.has_expired(record.times(), now)
    }

    pub(super) fn session(&self, id: PublicId, record: Arc<Record>) -> Session {
        let lifetime = &self.policy.lifetime;
        Session {
            id,
            expire_time: lifetime.expire_time(record.times()),
            duration: lifetime.duration(record.duration),
            last_use_time: lifetime.last_use_time(record.times()),
            offset: self.clock.wall_offset(),
            record,
        }
    }

    /// Whether the session's cookie is persistent.
    pub(super) fn is_persistent(&self, record: &Record) -> bool {
        record.extension.persistent.unwrap_or(self.policy.cookie.is_persistent())
    }

    /// Makes a Set-Cookie only if the token or the persistence changed, or if the deadline moved
    /// and the cookie is persistent.
    pub(super) fn cookie_update(
        &self,
        session: &Session,
        id: &SessionId,
        news: News,
        now: Moment,
    ) -> CookieUpdate {
        let cookie = &self.policy.cookie;
        let persistent = self.is_persistent(&session.record);
        if !(news.token || news.persistence || news.deadline && persistent) {
            return CookieUpdate::default();
        }
        let token = self.policy.keyring.sign(id);
        let set_cookie = cookie.set(&token, persistent, session.expire_time, now, session.offset);
        let set_cookie = SetCookie::new(set_cookie);
        CookieUpdate { set_cookie: Some(set_cookie), token: news.token.then_some(token) }
    }
}
