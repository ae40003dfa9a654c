//! The engine: the meaning of Resolve, Touch, Write and Destroy.
//!
//! An operation has two steps. [`Engine::present`] turns the credential into the ids it
//! proves, without reading the store. The operation then looks these up in the store until
//! one is live. A pipeline orders operations between the two steps.
//!
//! [`sessions`](super::sessions) holds what the operations share.
//! [`principals`](super::principals) handles all sessions of a principal.
//! [`adoption`](super::adoption) takes over the sessions of an application.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use super::{
    adoption::{Adoption, Purpose},
    clock::{Clock, Moment, WallOffset},
    cookie::SetCookie,
    credential::{Absence, Credential, Presented, Proven},
    data::Data,
    error::{Error, Result},
    event::{Cause, EventKind, EventSink, NoopSink},
    id::{Entropy, PublicId, SessionId},
    policy::Policy,
    principals::{LoginLimit, OwnSessions, Page, Scope, Target, Turn},
    record::{Claim, Edit, Extension, Label, Principal, Record, Refusal, Update},
    sessions::{Ended, Live, Lookup, News, Session, Sessions, Use},
    store::{Certainty, Expired, Store, StoreErrorKind, Swept},
};

/// Sessions of one kind: a policy and a store. Each engine has a store of its own, so engines
/// never see each other's sessions.
pub struct Engine {
    pub(super) sessions: Sessions,
    login_limit: Option<LoginLimit>,
    pub(super) adoption: Option<Adoption>,
}

/// The options of a Resolve.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResolveOptions {
    /// Do not move the deadline.
    pub peek: bool,
    /// Create a session if the credential leads to no live one.
    pub create: bool,
}

/// What a Write changes.
#[derive(Clone)]
pub struct WriteOptions {
    /// Members to set, after `unset` has applied.
    pub set: Data,
    /// Top-level keys to remove. Unknown ones are ignored.
    pub unset: Vec<String>,
    /// Drop all data before `unset` and `set` apply.
    pub replace: bool,
    /// Write only if the session is at this version. Creating a session with it is an
    /// [`Error::InvalidArgument`].
    pub if_version: Option<NonZeroU64>,
    /// Give the session a new id even if its principal stays the same.
    pub roll: bool,
    /// The new owner; another one than before always rolls. `None`: as it was.
    pub principal: Option<Principal>,
    /// The session's own idle timeout.
    pub duration: Option<Duration>,
    /// Whether the cookie is persistent. `None`: as it was; of a new session, as the engine's
    /// configuration says.
    pub persistent: Option<bool>,
    /// A text for the user's list of devices. `None`: as it was.
    pub label: Option<Label>,
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
            persistent: None,
            label: None,
        }
    }
}

/// What a Destroy did.
#[derive(Debug)]
pub struct Destroyed {
    /// Why the credential led to no live session before this call. `None`: it led to one.
    pub absence: Option<Absence>,
    /// The number of live sessions that were ended.
    pub count: u32,
    /// The Set-Cookie value that deletes the cookie.
    pub set_cookie: Option<SetCookie>,
}

impl Engine {
    /// An engine without adoption, whose events go nowhere.
    pub fn new(
        name: &str,
        policy: Policy,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let login_limit = policy.limit.map(LoginLimit::new);
        let (engine, events) = (name.into(), Arc::new(NoopSink));
        let sessions = Sessions { engine, policy, store, clock, entropy, events };
        Self { sessions, login_limit, adoption: None }
    }

    /// The same engine, which adopts sessions of an application.
    pub fn adopting(self, adoption: Adoption) -> Self {
        Self { adoption: Some(adoption), ..self }
    }

    /// The same engine, which emits its events to `events`.
    pub fn with_events(self, events: Arc<dyn EventSink>) -> Self {
        Self { sessions: Sessions { events, ..self.sessions }, ..self }
    }

    /// The name in the configuration, by which requests choose the engine.
    pub fn name(&self) -> &str {
        &self.sessions.engine
    }

    /// The rules of its sessions.
    pub fn policy(&self) -> &Policy {
        &self.sessions.policy
    }

    /// The maximum size of a session's data, in bytes of JSON text.
    pub fn max_data_bytes(&self) -> usize {
        self.sessions.policy.max_data_bytes
    }

    /// How many sessions are stored; see [`Store::count`].
    pub fn count(&self) -> Option<u64> {
        self.sessions.store.count()
    }

    /// Whether the store can keep its promises; see [`Store::check`].
    pub fn check(&self) -> Result<()> {
        Ok(self.sessions.store.check()?)
    }

    /// Whether sessions can at least be read; see [`Store::check_reading`].
    pub fn check_reading(&self) -> Result<()> {
        Ok(self.sessions.store.check_reading()?)
    }

    /// The current time of the engine's clock, by which deadlines are judged.
    pub fn now(&self) -> Moment {
        self.sessions.clock.now()
    }

    /// How its moments are shown.
    pub fn wall_offset(&self) -> WallOffset {
        self.sessions.clock.wall_offset()
    }

    /// Whether a change must complete after its caller has gone. If it were cancelled:
    ///
    /// - watchers could miss the change,
    /// - a login whose turn has ended could still be running and exceed the limit,
    /// - a session could be adopted and left without its mark.
    pub fn must_complete(&self) -> bool {
        self.login_limit.is_some() || self.adopts() || self.sessions.events.is_listening()
    }

    /// Whether an id that is unknown here may belong to an application's session.
    fn adopts(&self) -> bool {
        self.adoption.as_ref().is_some_and(Adoption::is_on)
    }

    /// The ids that a credential proves. Does not read the store.
    pub fn present(&self, credential: Credential<'_>) -> Presented {
        let Policy { cookie, keyring, .. } = &self.sessions.policy;
        Presented::new(credential, cookie, keyring, self.adopts())
    }

    /// What [`resolve`](Self::resolve) would return. `None` if that needs more than the
    /// store has in memory.
    pub fn recall_resolve(&self, presented: &Presented, options: ResolveOptions) -> Option<Lookup> {
        let lookup = self.sessions.recall(presented, self.using(options))?;
        (!options.create || matches!(lookup, Lookup::Live(_))).then_some(lookup)
    }

    /// What [`touch`](Self::touch) would return. `None` if that needs more than the store
    /// has in memory.
    pub fn recall_touch(
        &self,
        presented: &Presented,
        duration: Option<Duration>,
    ) -> Option<Lookup> {
        self.sessions.recall(presented, Use::Touch(duration))
    }

    /// Finds the session of a request, or says why there is none.
    pub async fn resolve(&self, presented: &Presented, options: ResolveOptions) -> Result<Lookup> {
        match self.find_or_adopt(presented, self.using(options)).await? {
            // Whoever rolled the id sends the browser its new cookie. One of a new session
            // would overwrite that.
            Lookup::Absent(absence) if options.create && absence != Absence::JustSuperseded => {
                self.create(WriteOptions::default()).await.map(Lookup::Live)
            }
            lookup => Ok(lookup),
        }
    }

    /// Moves the deadline of the session, and sets its own idle timeout if there is one; or says
    /// why there is none.
    pub async fn touch(&self, presented: &Presented, duration: Option<Duration>) -> Result<Lookup> {
        self.find_or_adopt(presented, Use::Touch(duration)).await
    }

    /// Creates a session. Fails if the data is invalid or too large, or if the principal has
    /// reached its limit.
    pub async fn create(&self, options: WriteOptions) -> Result<Live> {
        if options.if_version.is_some() {
            return Err(Error::invalid(
                "if_version",
                "expected a credential beside it: a new session has no version yet",
            ));
        }
        let edit = self.edit(&options);
        let data = edit.apply(&Data::EMPTY, false).map_err(|refusal| refused(refusal, None))?;
        let turn = self.turn(options.principal.as_ref()).await;
        if let Some(turn) = &turn {
            turn.refuse_newest(&self.sessions, None).await?;
        }
        let now = self.sessions.clock.now();
        loop {
            let id = SessionId::generate(self.sessions.entropy.as_ref());
            let record = Record {
                verifier: id.verifier_hash(),
                version: 1,
                create_time: now,
                deadline: self.sessions.policy.lifetime.deadline(now, options.duration, now),
                duration: options.duration,
                principal: options.principal.clone().unwrap_or_default(),
                data: data.clone(),
                extension: Extension {
                    persistent: options.persistent,
                    label: options.label.clone().unwrap_or_default(),
                    ..Extension::default()
                },
            };
            // If the id is taken (a chance of one in 2^96 for each stored session), another
            // one is generated.
            if let Some(record) = self.sessions.store.create(id.public(), record).await? {
                self.sessions.emit(id.public(), &record.principal, now, EventKind::Created);
                if let Some(turn) = &turn {
                    turn.end_idlest(&self.sessions, id.public()).await?;
                }
                let session = self.sessions.session(id.public(), record);
                let cookie = self.sessions.cookie_update(
                    &session,
                    &id,
                    News { token: true, deadline: true, persistence: true },
                    now,
                );
                return Ok(Live { session, cookie, is_new: true });
            }
        }
    }

    /// Changes a live session. Never creates one, but may adopt one. Fails with
    /// [`Error::SessionGone`] if the credential leads to no live session.
    pub async fn write(&self, presented: &Presented, options: WriteOptions) -> Result<Live> {
        match self.write_known(presented, &options).await {
            Err(Error::SessionGone) => {}
            outcome => return outcome,
        }
        match self.adopt(presented, Purpose::Use).await? {
            None => Err(Error::SessionGone),
            Some(adopted) => self.write_known(&Presented::adopted(adopted), &options).await,
        }
    }

    async fn write_known(&self, presented: &Presented, options: &WriteOptions) -> Result<Live> {
        let turn = self.turn(options.principal.as_ref()).await;
        let mut readable = Ok(());
        for proven in presented.proven() {
            if let Some(turn) = &turn {
                turn.refuse_newest(&self.sessions, Some(proven)).await?;
            }
            let now = self.sessions.clock.now();
            // Random bytes cost a system call, and few writes can roll the id.
            let may_roll = options.roll || options.principal.is_some();
            let next = if may_roll {
                SessionId::rolled(proven.public(), self.sessions.entropy.as_ref())
            } else {
                proven.id.clone()
            };
            let update = Arc::new(Update {
                verifier: proven.verifier,
                lifetime: self.sessions.policy.lifetime,
                now,
                if_version: options.if_version.map(NonZeroU64::get),
                edit: self.edit(options),
                next_verifier: next.verifier_hash(),
                roll_grace: self.sessions.policy.roll_grace,
                roll: options.roll,
                principal: options.principal.clone(),
                duration: options.duration,
                persistent: options.persistent,
                label: options.label.clone(),
            });
            let written = match self.sessions.store.write(proven.public(), update).await {
                Err(error) if error.kind == StoreErrorKind::Unreadable => {
                    readable = Err(error);
                    continue;
                }
                written => written?,
            };
            match written {
                None | Some(Err(Refusal::Superseded | Refusal::Expired)) => {}
                Some(Err(refusal)) => return Err(refused(refusal, options.if_version)),
                Some(Ok(change)) => {
                    let rolled = change.after.verifier != proven.verifier;
                    if rolled {
                        let kind = EventKind::Rolled { former: &change.before.principal };
                        self.sessions.emit(proven.public(), &change.after.principal, now, kind);
                    }
                    if let Some(turn) = &turn
                        && change.before.principal != change.after.principal
                    {
                        turn.end_idlest(&self.sessions, proven.public()).await?;
                    }
                    let news = News {
                        token: rolled || proven.outdated,
                        deadline: change.after.deadline != change.before.deadline,
                        persistence: self.sessions.is_persistent(&change.after)
                            != self.sessions.is_persistent(&change.before),
                    };
                    let session = self.sessions.session(proven.public(), change.after);
                    let id = if rolled { &next } else { &proven.id };
                    let cookie = self.sessions.cookie_update(&session, id, news, now);
                    return Ok(Live { session, cookie, is_new: false });
                }
            }
        }
        readable?;
        Err(Error::SessionGone)
    }

    /// Ends the sessions that `scope` selects.
    ///
    /// The other sessions of the principal end first. If the call fails halfway, the
    /// credential is still valid and the caller can try again.
    pub async fn destroy(&self, presented: &Presented, scope: Scope) -> Result<Destroyed> {
        // A session that is not adopted yet is adopted first, so that it can be ended.
        match self.adopt(presented, Purpose::End).await {
            Ok(Some(adopted)) => self.destroy_known(&presented.and(adopted), &scope).await,
            Ok(None) => self.destroy_known(presented, &scope).await,
            // The mark that leads to the session cannot be read. The cookie is deleted all the
            // same, so that the browser is not locked out.
            Err(error) if error.is_unreadable() => self.destroy_known(presented, &scope).await,
            Err(error) => Err(error),
        }
    }

    async fn destroy_known(&self, presented: &Presented, scope: &Scope) -> Result<Destroyed> {
        let own = match scope {
            Scope::This => Vec::new(),
            Scope::Others | Scope::All | Scope::Named(_) => self.sessions.own(presented).await?,
        };
        let mut count = match scope {
            Scope::This => 0,
            Scope::Others | Scope::All => self.sessions.end_others(&own).await?,
            Scope::Named(ids) => self.sessions.end_named(&own, ids).await?,
        };
        let stays = |id: PublicId| match scope {
            Scope::This | Scope::All => false,
            Scope::Others => true,
            Scope::Named(ids) => !ids.contains(&id) || own.iter().all(|own| own.id != id),
        };
        let mut was_live = !own.is_empty();
        for proven in presented.proven() {
            let id = proven.public();
            if stays(id) {
                continue;
            }
            let mut ended = self.sessions.end_own(proven).await?;
            let own = own.iter().find(|own| own.id == id && !own.principal.is_anonymous());
            if let (None, Some(own)) = (ended, own) {
                // Its id was rolled in the meantime. It must end all the same.
                let claim = Claim::Principal(own.principal.clone());
                ended = self.sessions.end(id, claim, Cause::Scope).await?;
            }
            was_live |= ended == Some(Ended::Live);
            count += u32::from(ended == Some(Ended::Live));
        }
        let has_ended = match scope {
            Scope::This | Scope::All => true,
            Scope::Others => false,
            // Several cookies may prove several sessions.
            Scope::Named(_) => !own.is_empty() && !own.iter().any(|own| stays(own.id)),
        };
        let set_cookie = (has_ended && presented.absence() != Absence::None)
            .then(|| SetCookie::new(self.sessions.policy.cookie.delete()));
        let absence = (!was_live).then(|| presented.absence());
        Ok(Destroyed { absence, count, set_cookie })
    }

    /// Lists up to `limit` live sessions of a principal, in the order of their ids.
    pub async fn list(
        &self,
        principal: &Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> Result<Page> {
        self.sessions.list(principal, after, limit).await
    }

    /// Lists up to `limit` live sessions of the principal whose live session the credential
    /// proves, in the order of their ids. Moves no deadline. May adopt a session.
    pub async fn list_own(
        &self,
        presented: &Presented,
        after: Option<PublicId>,
        limit: usize,
    ) -> Result<OwnSessions> {
        let session = match self.find_or_adopt(presented, Use::Peek).await? {
            Lookup::Live(live) => live.session,
            Lookup::Absent(absence) => return Ok(OwnSessions::Absent(absence)),
        };
        let (current, principal) = (session.id, session.record.principal.clone());
        let page = if principal.is_anonymous() {
            let is_after = after.is_none_or(|after| current > after);
            let session = is_after.then(|| session.without_data());
            Page { sessions: session.into_iter().collect(), next: None }
        } else {
            self.sessions.list(&principal, after, limit).await?
        };
        Ok(OwnSessions::Live { current, page })
    }

    /// The live session with this id. Moves no deadline.
    pub async fn get(&self, id: PublicId) -> Result<Option<Session>> {
        let record = self.sessions.store.read(id, Certainty::Current).await?;
        let now = self.sessions.clock.now();
        let live = record.filter(|record| !self.sessions.has_expired(record, now));
        Ok(live.map(|record| self.sessions.session(id, record)))
    }

    /// Ends sessions on behalf of an operator. Returns how many were live. Ids without a
    /// session are skipped.
    pub async fn revoke(&self, target: Target) -> Result<u32> {
        self.sessions.revoke(target).await
    }

    /// Removes one slice of expired sessions; see [`Store::cleanup`].
    pub async fn cleanup(&self, limit: usize) -> Result<Swept> {
        let now = self.sessions.clock.now();
        let swept = self.sessions.store.cleanup(now, limit).await?;
        for Expired { id, principal } in &swept.removed {
            self.sessions.emit(*id, principal, now, EventKind::Expired);
        }
        Ok(swept)
    }

    /// Removes all expired sessions and marks, slice by slice. Returns how many sessions were
    /// removed. Yields between two slices, so that other tasks can run.
    pub async fn sweep(&self, slice: usize) -> Result<u64> {
        if let Some(Adoption { marks, .. }) = &self.adoption {
            while marks.cleanup(self.sessions.clock.now(), slice).await?.examined >= slice {
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

    fn using(&self, options: ResolveOptions) -> Use {
        let touches = self.sessions.policy.automatic_touch && !options.peek;
        if touches { Use::Touch(None) } else { Use::Peek }
    }

    /// Finds the first presented session that is live, and touches it if `using` says so. If
    /// none is live, tries to adopt one.
    async fn find_or_adopt(&self, presented: &Presented, using: Use) -> Result<Lookup> {
        let absence = match self.sessions.find(presented, using).await? {
            Lookup::Absent(absence) => absence,
            live => return Ok(live),
        };
        let Some(adopted) = self.adopt(presented, Purpose::Use).await? else {
            return Ok(Lookup::Absent(absence));
        };
        Ok(match self.sessions.find(&Presented::adopted(adopted), using).await? {
            Lookup::Absent(other) => Lookup::Absent(other.max(absence)),
            live => live,
        })
    }

    /// Adopts the sessions of the application's ids in a credential. Returns the ids that the
    /// credential then proves here, or `None` if there are none.
    async fn adopt(&self, presented: &Presented, purpose: Purpose) -> Result<Option<Vec<Proven>>> {
        match &self.adoption {
            Some(adoption) if presented.may_be_adopted() => {
                adoption.adopt(&self.sessions, presented.foreign(), purpose).await
            }
            _ => Ok(None),
        }
    }

    /// Waits for the turn of a login. `None` if there is no limit or no principal.
    async fn turn<'t>(&'t self, principal: Option<&'t Principal>) -> Option<Turn<'t>> {
        let login_limit = self.login_limit.as_ref()?;
        let principal = principal.filter(|principal| !principal.is_anonymous())?;
        Some(login_limit.turn(principal).await)
    }

    fn edit(&self, options: &WriteOptions) -> Edit {
        Edit {
            replace: options.replace,
            unset: options.unset.clone(),
            set: options.set.clone(),
            limit_bytes: self.max_data_bytes(),
        }
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
