//! The engine: what Resolve, Touch, Write and Destroy mean.
//!
//! An operation comes in two steps. [`Engine::present`] turns the credential
//! into the ids it proves, without asking the store; the operation then tries
//! these against the store until one is live. A pipeline orders operations
//! between the two.
//!
//! What concerns all sessions of a principal is in [`principals`](super::principals).

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use super::{
    adoption::Adoption,
    clock::{Clock, Moment},
    cookie::{Cookie, SetCookie},
    credential::{Absence, Credential, Presented, Proven},
    data::Data,
    error::{Error, Result},
    event::{Cause, Event, EventKind, EventSink, NoopSink},
    id::{Entropy, PublicId, SessionId},
    lifetime::Lifetime,
    principals::{Limit, Scope, Turns},
    record::{Claim, Edit, Principal, Record, Refusal, Touch, Update},
    store::{Certainty, Expired, Store, Swept, Touched},
    token::{Keyring, Token},
};

/// The rules of one engine, checked.
#[derive(Debug)]
pub struct Policy {
    pub keyring: Keyring,
    pub cookie: Cookie,
    pub lifetime: Lifetime,
    /// Resolve moves the deadline.
    pub automatic_touch: bool,
    pub max_data_bytes: usize,
    /// How many sessions a principal may have; `None`: any number.
    pub limit: Option<Limit>,
}

/// Sessions of one kind: a policy over a store. Engines never see each other's
/// sessions, because each has a store of its own.
pub struct Engine {
    name: Box<str>,
    pub(super) policy: Policy,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    events: Arc<dyn EventSink>,
    pub(super) turns: Turns,
    pub(super) adoption: Option<Adoption>,
}

/// A session as callers see it.
#[derive(Debug, Clone)]
pub struct Session {
    pub id: PublicId,
    pub record: Arc<Record>,
    /// When it ends, unless it is touched before.
    pub expire_time: Moment,
    /// The idle lifetime in force.
    pub duration: Duration,
}

/// What the browser has to learn. Fields that are `None` say that there is nothing new.
#[derive(Debug, Default)]
pub struct CookieUpdate {
    pub set_cookie: Option<SetCookie>,
    /// When it is new to the caller.
    pub token: Option<Token>,
}

/// What a Resolve found.
#[derive(Debug)]
pub enum Resolution {
    Active(Session, CookieUpdate),
    Created(Session, CookieUpdate),
    Absent(Absence),
}

/// How to resolve.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResolveOptions {
    /// Do not move the deadline.
    pub peek: bool,
    /// Make a session when the credential is not live.
    pub create: bool,
}

/// What a Write changes.
#[derive(Clone)]
pub struct WriteOptions {
    pub set: Data,
    pub unset: Vec<String>,
    pub replace: bool,
    /// Only at this version; an argument error when creating.
    pub if_version: Option<NonZeroU64>,
    pub roll: bool,
    pub principal: Option<Principal>,
    /// The session's own idle lifetime.
    pub duration: Option<Duration>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            set: Data::EMPTY,
            unset: Vec::new(),
            replace: false,
            if_version: None,
            roll: false,
            principal: None,
            duration: None,
        }
    }
}

/// What a Destroy did.
#[derive(Debug)]
pub struct Destroyed {
    /// The credential opened a session until now.
    pub was_live: bool,
    /// Live sessions ended.
    pub count: u32,
    /// The deletion cookie.
    pub set_cookie: Option<SetCookie>,
}

/// What a session was when it was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Live,
    /// Its time was over already.
    Over,
}

/// Why the browser may have to learn something.
#[derive(Clone, Copy)]
struct News {
    /// The token differs from the one presented.
    token: bool,
    deadline: bool,
}

impl Engine {
    pub fn new(
        name: &str,
        policy: Policy,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let turns = Turns::new(policy.limit.is_some());
        let events = Arc::new(NoopSink);
        let name = name.into();
        Self { name, policy, store, clock, entropy, events, turns, adoption: None }
    }

    /// The same engine, adopting sessions of an application.
    pub fn adopting(self, adoption: Adoption) -> Self {
        Self { adoption: Some(adoption), ..self }
    }

    /// The same engine, which emits its events to `events`.
    pub fn with_events(self, events: Arc<dyn EventSink>) -> Self {
        Self { events, ..self }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The most data of a session, in bytes of JSON text.
    pub fn max_data_bytes(&self) -> usize {
        self.policy.max_data_bytes
    }

    /// How many sessions are stored; see [`Store::count`].
    pub fn count(&self) -> Option<u64> {
        self.store.count()
    }

    /// Whether the store can keep its promises; see [`Store::check`].
    pub fn check(&self) -> Result<()> {
        Ok(self.store.check()?)
    }

    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Whether a change must run to its end even if its caller no longer waits for it.
    /// Otherwise watchers would miss an event, a login whose turn is over could still be
    /// under way and exceed the limit, or an adopted session could be left without its
    /// mark.
    pub fn must_complete(&self) -> bool {
        self.policy.limit.is_some() || self.adopts() || self.events.is_listening()
    }

    /// The ids that a credential proves. Asks no store.
    pub fn present(&self, credential: Credential<'_>) -> Presented {
        Presented::new(credential, &self.policy.cookie, &self.policy.keyring, self.adopts())
    }

    /// What [`resolve`](Self::resolve) would give, if no store has to be waited for
    /// to know it.
    pub fn recall_resolve(
        &self,
        presented: &Presented,
        options: ResolveOptions,
    ) -> Option<Resolution> {
        match self.recall(presented, self.slides(options))? {
            Ok((session, cookie)) => Some(Resolution::Active(session, cookie)),
            Err(_) if options.create => None,
            Err(absence) => Some(Resolution::Absent(absence)),
        }
    }

    /// What [`touch`](Self::touch) would give, if no store has to be waited for to
    /// know it.
    pub fn recall_touch(
        &self,
        presented: &Presented,
    ) -> Option<std::result::Result<(Session, CookieUpdate), Absence>> {
        self.recall(presented, true)
    }

    /// The session of a request, or why there is none.
    pub async fn resolve(
        &self,
        presented: &Presented,
        options: ResolveOptions,
    ) -> Result<Resolution> {
        match self.find_or_adopt(presented, self.slides(options)).await? {
            Ok((session, cookie)) => Ok(Resolution::Active(session, cookie)),
            Err(_) if options.create => {
                let (session, cookie) = self.create(WriteOptions::default()).await?;
                Ok(Resolution::Created(session, cookie))
            }
            Err(absence) => Ok(Resolution::Absent(absence)),
        }
    }

    /// Moves the deadline of the session, or says why there is none.
    pub async fn touch(
        &self,
        presented: &Presented,
    ) -> Result<std::result::Result<(Session, CookieUpdate), Absence>> {
        self.find_or_adopt(presented, true).await
    }

    /// Creates a session.
    pub async fn create(&self, options: WriteOptions) -> Result<(Session, CookieUpdate)> {
        if options.if_version.is_some() {
            return Err(Error::invalid(
                "if_version",
                "expected a credential beside it: a session that is created has no version yet",
            ));
        }
        let edit = self.edit(&options);
        let data = edit.apply(&Data::EMPTY).map_err(|refusal| refused(refusal, None))?;
        let turn = self.turn(options.principal.as_ref()).await;
        if let Some(turn) = &turn {
            self.refuse_newest(turn, None).await?;
        }
        let now = self.clock.now();
        loop {
            let id = SessionId::generate(self.entropy.as_ref());
            let record = Record {
                verifier: id.verifier_hash(),
                version: 1,
                create_time: now,
                deadline: self.policy.lifetime.deadline(now, options.duration, now),
                duration: options.duration,
                principal: options.principal.clone().unwrap_or_default(),
                data: data.clone(),
            };
            // An id that is taken is one in 2^96, and never adopted.
            if let Some(record) = self.store.create(id.public(), record).await? {
                self.emit(id.public(), &record.principal, now, EventKind::Created);
                if let Some(turn) = &turn {
                    self.end_idlest(turn, id.public()).await?;
                }
                let session = self.session(id.public(), record);
                let cookie =
                    self.cookie_update(&session, &id, News { token: true, deadline: true }, now);
                return Ok((session, cookie));
            }
        }
    }

    /// Changes a live session; creates none, but that it may adopt one.
    pub async fn write(
        &self,
        presented: &Presented,
        options: WriteOptions,
    ) -> Result<(Session, CookieUpdate)> {
        match self.write_known(presented, &options).await {
            Err(Error::SessionGone) => {}
            outcome => return outcome,
        }
        match self.adopt(presented).await? {
            None => Err(Error::SessionGone),
            Some(adopted) => self.write_known(&Presented::adopted(adopted), &options).await,
        }
    }

    async fn write_known(
        &self,
        presented: &Presented,
        options: &WriteOptions,
    ) -> Result<(Session, CookieUpdate)> {
        let turn = self.turn(options.principal.as_ref()).await;
        for proven in presented.proven() {
            if let Some(turn) = &turn {
                self.refuse_newest(turn, Some(proven)).await?;
            }
            let now = self.clock.now();
            // Randomness is a call to the system, and few writes can roll.
            let may_roll = options.roll || options.principal.is_some();
            let next = if may_roll {
                SessionId::rolled(proven.public(), self.entropy.as_ref())
            } else {
                proven.id.clone()
            };
            let update = Arc::new(Update {
                verifier: proven.verifier,
                lifetime: self.policy.lifetime,
                now,
                if_version: options.if_version.map(NonZeroU64::get),
                edit: self.edit(options),
                next_verifier: next.verifier_hash(),
                roll: options.roll,
                principal: options.principal.clone(),
                duration: options.duration,
            });
            match self.store.write(proven.public(), update).await? {
                None | Some(Err(Refusal::Superseded | Refusal::Expired)) => {}
                Some(Err(refusal)) => return Err(refused(refusal, options.if_version)),
                Some(Ok(change)) => {
                    let rolled = change.after.verifier != proven.verifier;
                    if rolled {
                        let kind = EventKind::Rolled { former: &change.before.principal };
                        self.emit(proven.public(), &change.after.principal, now, kind);
                    }
                    if let Some(turn) = &turn
                        && change.before.principal != change.after.principal
                    {
                        self.end_idlest(turn, proven.public()).await?;
                    }
                    let news = News {
                        token: rolled || proven.outdated,
                        deadline: change.after.deadline != change.before.deadline,
                    };
                    let session = self.session(proven.public(), change.after);
                    let id = if rolled { &next } else { &proven.id };
                    let cookie = self.cookie_update(&session, id, news, now);
                    return Ok((session, cookie));
                }
            }
        }
        Err(Error::SessionGone)
    }

    /// Ends the sessions of the credential, and others as `scope` says.
    ///
    /// The others come first: should it fail halfway, the credential is still
    /// good for another try.
    pub async fn destroy(&self, presented: &Presented, scope: Scope) -> Result<Destroyed> {
        // What is not here yet has to be, so that it can end.
        match self.adopt(presented).await? {
            None => self.destroy_known(presented, scope).await,
            Some(adopted) => self.destroy_known(&presented.and(adopted), scope).await,
        }
    }

    async fn destroy_known(&self, presented: &Presented, scope: Scope) -> Result<Destroyed> {
        let own = match scope {
            Scope::This => Vec::new(),
            Scope::Others | Scope::All => self.own(presented).await?,
        };
        let mut count = self.end_others(&own).await?;
        if scope == Scope::Others {
            return Ok(Destroyed { was_live: !own.is_empty(), count, set_cookie: None });
        }
        let mut was_live = false;
        for proven in presented.proven() {
            let id = proven.public();
            let mut ended = self.end(id, Claim::Verifier(proven.verifier), Cause::Owner).await?;
            let own = own.iter().find(|own| own.id == id && !own.principal.is_anonymous());
            if let (None, Some(own)) = (ended, own) {
                // It was rolled meanwhile; it is to end all the same.
                let claim = Claim::Principal(own.principal.clone());
                ended = self.end(id, claim, Cause::Scope).await?;
            }
            was_live |= ended == Some(Ended::Live);
            count += u32::from(ended == Some(Ended::Live));
        }
        let set_cookie = (presented.absence() != Absence::None)
            .then(|| SetCookie::new(self.policy.cookie.delete()));
        Ok(Destroyed { was_live, count, set_cookie })
    }

    /// Ends one session, if the claim holds.
    pub(super) async fn end(
        &self,
        id: PublicId,
        claim: Claim,
        cause: Cause,
    ) -> Result<Option<Ended>> {
        let now = self.clock.now();
        let Some(record) = self.store.destroy(id, claim).await? else {
            return Ok(None);
        };
        let (ended, kind) = if self.policy.lifetime.is_over(&record, now) {
            (Ended::Over, EventKind::Expired)
        } else {
            (Ended::Live, EventKind::Destroyed(cause))
        };
        self.emit(id, &record.principal, now, kind);
        Ok(Some(ended))
    }

    pub(super) fn emit(
        &self,
        session: PublicId,
        principal: &Principal,
        time: Moment,
        kind: EventKind,
    ) {
        if self.events.is_listening() {
            let engine = &self.name;
            self.events.emit(Event { engine, session, principal, time, kind });
        }
    }

    /// One slice of the sweep; see [`Store::cleanup`].
    pub async fn cleanup(&self, limit: usize) -> Result<Swept> {
        let now = self.clock.now();
        let swept = self.store.cleanup(now, limit).await?;
        for Expired { id, principal } in &swept.removed {
            self.emit(*id, principal, now, EventKind::Expired);
        }
        Ok(swept)
    }

    /// Sweeps all that has expired, slice by slice, and says how many sessions
    /// were removed. Others get their turn between two slices.
    pub async fn sweep(&self, slice: usize) -> Result<u64> {
        if let Some(Adoption { marks, .. }) = &self.adoption {
            while marks.cleanup(self.clock.now(), slice).await?.examined >= slice {
                tokio::task::yield_now().await;
            }
        }
        let mut removed = 0;
        loop {
            let swept = self.cleanup(slice).await?;
            removed += swept.removed.len() as u64;
            if swept.examined < slice {
                return Ok(removed);
            }
            tokio::task::yield_now().await;
        }
    }

    fn slides(&self, options: ResolveOptions) -> bool {
        self.policy.automatic_touch && !options.peek
    }

    /// As [`find`](Self::find), from what the store has in memory. `None` when
    /// that is not enough.
    fn recall(
        &self,
        presented: &Presented,
        slide: bool,
    ) -> Option<std::result::Result<(Session, CookieUpdate), Absence>> {
        let mut absence = presented.absence();
        for proven in presented.proven() {
            let now = self.clock.now();
            let record = self.store.recall(proven.public())?;
            match self.judge(proven, Some(Touched { record, moved: false }), now) {
                Ok(live) => {
                    let is_due = slide && self.policy.lifetime.slide(&live.0.record, now).is_some();
                    return (!is_due).then_some(Ok(live));
                }
                Err(why) => absence = absence.max(why),
            }
        }
        // It may be a session of the application's.
        (!presented.may_be_adopted()).then_some(Err(absence))
    }

    /// The first of the presented sessions that is live, touched if `slide`.
    pub(super) async fn find(
        &self,
        presented: &Presented,
        slide: bool,
    ) -> Result<std::result::Result<(Session, CookieUpdate), Absence>> {
        let mut absence = presented.absence();
        for proven in presented.proven() {
            let now = self.clock.now();
            let found = self.look(proven, slide, now).await?;
            match self.judge(proven, found, now) {
                Ok(live) => return Ok(Ok(live)),
                Err(why) => absence = absence.max(why),
            }
        }
        Ok(Err(absence))
    }

    async fn look(&self, proven: &Proven, slide: bool, now: Moment) -> Result<Option<Touched>> {
        if slide {
            let touch = self.touch_of(proven, now);
            return Ok(self.store.touch(proven.public(), touch).await?);
        }
        let record = self.store.read(proven.public(), Certainty::Current).await?;
        Ok(record.map(|record| Touched { record, moved: false }))
    }

    fn touch_of(&self, proven: &Proven, now: Moment) -> Touch {
        Touch { verifier: proven.verifier, lifetime: self.policy.lifetime, now }
    }

    /// Whether what the store has found is the live session of the proven id.
    fn judge(
        &self,
        proven: &Proven,
        found: Option<Touched>,
        now: Moment,
    ) -> std::result::Result<(Session, CookieUpdate), Absence> {
        let Touched { record, moved } = found.ok_or(Absence::NotFound)?;
        if record.verifier != proven.verifier {
            return Err(Absence::Superseded);
        }
        if self.policy.lifetime.is_over(&record, now) {
            return Err(Absence::Expired);
        }
        let session = self.session(proven.public(), record);
        let news = News { token: proven.outdated, deadline: moved };
        let cookie = self.cookie_update(&session, &proven.id, news, now);
        Ok((session, cookie))
    }

    fn edit(&self, options: &WriteOptions) -> Edit {
        Edit {
            replace: options.replace,
            unset: options.unset.clone(),
            set: options.set.clone(),
            limit_bytes: self.policy.max_data_bytes,
        }
    }

    pub(super) fn session(&self, id: PublicId, record: Arc<Record>) -> Session {
        let lifetime = &self.policy.lifetime;
        Session {
            id,
            expire_time: lifetime.expire_time(&record),
            duration: lifetime.duration(record.duration),
            record,
        }
    }

    /// Set-Cookie is sent only when the browser must learn something.
    fn cookie_update(
        &self,
        session: &Session,
        id: &SessionId,
        news: News,
        now: Moment,
    ) -> CookieUpdate {
        let cookie = &self.policy.cookie;
        if !(news.token || news.deadline && cookie.is_persistent()) {
            return CookieUpdate::default();
        }
        let token = self.policy.keyring.sign(id);
        let set_cookie = SetCookie::new(cookie.set(&token, session.expire_time, now));
        CookieUpdate { set_cookie: Some(set_cookie), token: news.token.then_some(token) }
    }
}

fn refused(refusal: Refusal, if_version: Option<NonZeroU64>) -> Error {
    match refusal {
        Refusal::Superseded | Refusal::Expired => Error::SessionGone,
        Refusal::VersionMismatch { current } => {
            Error::VersionMismatch { asked: if_version.map_or(0, NonZeroU64::get), current }
        }
        Refusal::TooLarge { len_bytes, limit_bytes } => {
            Error::DataTooLarge { len_bytes, limit_bytes }
        }
        Refusal::Data(error) => Error::InvalidData(error),
    }
}
