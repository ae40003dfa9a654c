//! All sessions of a principal: list them, end them, and limit their number.
//!
//! Sessions are ended one by one, each only if it belongs to the principal at that moment.
//! A call finds every session that belongs to the principal from its start to its end. If a
//! parallel login gives a session to the principal, the call may or may not find it.

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{Mutex, MutexGuard};

use super::{
    credential::{Absence, Presented, Proven},
    error::{Error, Result},
    event::Cause,
    id::PublicId,
    policy::{Limit, OnLimit},
    record::{Claim, Principal},
    sessions::{Ended, Session, Sessions},
    store::Certainty,
    striped::Striped,
};

/// The records that one list of the store asks for.
const SLICE: usize = 100;
/// The sessions that one call ends at the same time, so that one flush serves many.
const ENDING_AT_ONCE: usize = 32;

/// Which sessions a Destroy ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The sessions of the credential.
    This,
    /// The other sessions of their principal. An anonymous session has no others.
    Others,
    /// All sessions of their principal. Of an anonymous session, only itself.
    All,
    /// These sessions of their principal. Of an anonymous session, only itself.
    Named(Vec<PublicId>),
}

/// Some sessions of a principal.
#[derive(Debug)]
pub struct Page {
    /// Without their data.
    pub sessions: Vec<Session>,
    /// The id to continue after; `None`: the list is complete.
    pub next: Option<PublicId>,
}

/// The sessions of a credential's own principal.
#[derive(Debug)]
pub enum OwnSessions {
    /// The credential is live.
    Live {
        /// The session of the credential, which may be on another page.
        current: PublicId,
        /// A page of the sessions of its principal. Of an anonymous session, itself alone.
        page: Page,
    },
    /// It is not.
    Absent(Absence),
}

/// The sessions that an operator ends.
#[derive(Debug, Clone)]
pub enum Target {
    /// These sessions, of any principal.
    Sessions(Vec<PublicId>),
    /// These sessions, if they belong to the principal.
    SessionsOf(Principal, Vec<PublicId>),
    /// All sessions of this principal.
    Principal(Principal),
    /// All sessions of the engine, anonymous ones included.
    All,
}

/// A live session of the credential, and its principal.
pub(super) struct Own {
    pub id: PublicId,
    pub principal: Principal,
}

/// Limits the sessions of each principal. Runs one login of a principal at a time.
pub(super) struct LoginLimit {
    limit: Limit,
    locks: Striped<Mutex<()>>,
}

/// The turn of a login. While it is held, no other login of the principal runs.
pub(super) struct Turn<'t> {
    principal: &'t Principal,
    limit: Limit,
    _lock: MutexGuard<'t, ()>,
}

impl LoginLimit {
    const LOCKS: usize = 1024;

    pub(super) fn new(limit: Limit) -> Self {
        Self { limit, locks: Striped::new(Self::LOCKS) }
    }

    /// Waits for the turn of a login. Every login of this principal waits for it.
    pub(super) async fn turn<'t>(&'t self, principal: &'t Principal) -> Turn<'t> {
        let lock = self.locks.of(principal).lock().await;
        Turn { principal, limit: self.limit, _lock: lock }
    }
}

impl Turn<'_> {
    /// Refuses a login that would exceed the limit, if the policy says so. A session that
    /// already belongs to the principal does not count again. A session that is not live is
    /// refused elsewhere.
    pub(super) async fn refuse_newest(
        &self,
        sessions: &Sessions,
        newest: Option<&Proven>,
    ) -> Result<()> {
        let Limit { sessions: max, on_limit: OnLimit::RefuseNewest } = self.limit else {
            return Ok(());
        };
        if let Some(proven) = newest {
            match sessions.live(proven).await {
                Ok(Some(record)) if record.principal != *self.principal => {}
                // The write itself refuses it.
                Err(error) if error.is_unreadable() => return Ok(()),
                live => return live.map(drop),
            }
        }
        if sessions.list(self.principal, None, max).await?.sessions.len() < max {
            return Ok(());
        }
        Err(Error::TooManySessions { max })
    }

    /// Ends sessions above the limit after a login, if the policy says so. The sessions that
    /// were idle for the longest time end, but never the newest one.
    pub(super) async fn end_idlest(&self, sessions: &Sessions, newest: PublicId) -> Result<()> {
        let Limit { sessions: max, on_limit: OnLimit::EndIdlest } = self.limit else {
            return Ok(());
        };
        let mut others = sessions.list(self.principal, None, usize::MAX).await?.sessions;
        others.retain(|session| session.id != newest);
        let excess = (others.len() + 1).saturating_sub(max);
        let lifetime = &sessions.policy.lifetime;
        others.sort_by_key(|session| {
            let record = &session.record;
            (lifetime.last_slide(record.times()), record.create_time, session.id)
        });
        let ids: Vec<_> = others[..excess].iter().map(|session| session.id).collect();
        let claim = Claim::Principal(self.principal.clone());
        sessions.end_each(&ids, &claim, Cause::Limit).await?;
        Ok(())
    }
}

/// The principals of these sessions, each once. Nobody is none.
fn principals(own: &[Own]) -> impl Iterator<Item = &Principal> {
    own.iter().enumerate().filter_map(|(at, Own { principal, .. })| {
        let is_new = own[..at].iter().all(|earlier| earlier.principal != *principal);
        (is_new && !principal.is_anonymous()).then_some(principal)
    })
}

impl Sessions {
    /// Lists up to `limit` live sessions of a principal, in the order of their ids.
    pub(super) async fn list(
        &self,
        principal: &Principal,
        mut after: Option<PublicId>,
        limit: usize,
    ) -> Result<Page> {
        let mut sessions = Vec::new();
        while sessions.len() < limit {
            let slice = SLICE.min(limit - sessions.len());
            let listed =
                self.store.list(principal.clone(), after, slice, Certainty::Current).await?;
            let now = self.clock.now();
            for (id, record) in listed.records {
                if !self.has_expired(&record, now) {
                    sessions.push(self.session(id, record).without_data());
                }
            }
            after = listed.next;
            if after.is_none() {
                break;
            }
        }
        Ok(Page { sessions, next: after })
    }

    /// Ends sessions on behalf of an operator. Returns how many were live. Ids without a
    /// session are skipped.
    pub(super) async fn revoke(&self, target: Target) -> Result<u32> {
        match target {
            Target::Sessions(ids) => self.end_each(&ids, &Claim::Operator, Cause::Revoked).await,
            Target::SessionsOf(principal, ids) => {
                self.end_each(&ids, &Claim::Principal(principal), Cause::Revoked).await
            }
            Target::Principal(principal) => {
                self.end_all(&principal, |_| true, Cause::Revoked).await
            }
            Target::All => self.end_everything(Cause::Revoked).await,
        }
    }

    /// The live sessions of a credential.
    pub(super) async fn own(&self, presented: &Presented) -> Result<Vec<Own>> {
        let mut own = Vec::new();
        for proven in presented.proven() {
            let live = match self.live(proven).await {
                // Of whom it is, nobody knows. Its own end needs no record.
                Err(error) if error.is_unreadable() => None,
                live => live?,
            };
            if let Some(record) = live {
                own.push(Own { id: proven.public(), principal: record.principal.clone() });
            }
        }
        Ok(own)
    }

    /// Ends those of the named sessions that belong to the principals of these sessions, and are
    /// none of these.
    pub(super) async fn end_named(&self, own: &[Own], named: &[PublicId]) -> Result<u32> {
        let others = named.iter().filter(|id| own.iter().all(|own| own.id != **id));
        let others: Vec<_> = others.copied().collect();
        let mut count = 0;
        for principal in principals(own) {
            let claim = Claim::Principal(principal.clone());
            count += self.end_each(&others, &claim, Cause::Scope).await?;
        }
        Ok(count)
    }

    /// Ends the other sessions of the principals of these sessions.
    pub(super) async fn end_others(&self, own: &[Own]) -> Result<u32> {
        let mut count = 0;
        for principal in principals(own) {
            let is_other = |id| own.iter().all(|own| own.id != id);
            count += self.end_all(principal, is_other, Cause::Scope).await?;
        }
        Ok(count)
    }

    /// Ends the sessions of a principal for which `meant` is true.
    ///
    /// Lists twice. The first list ends live sessions even while the store cannot give a
    /// durable answer. The second, durable list makes sure that a session that was not found
    /// cannot come back.
    async fn end_all(
        &self,
        principal: &Principal,
        meant: impl Fn(PublicId) -> bool,
        cause: Cause,
    ) -> Result<u32> {
        let live = self.end_listed(principal, &meant, cause, Certainty::Current).await?;
        Ok(live + self.end_listed(principal, &meant, cause, Certainty::Durable).await?)
    }

    /// Ends the sessions in one of the two lists. Continues after a failure to end one, and
    /// returns the first failure.
    async fn end_listed(
        &self,
        principal: &Principal,
        meant: &impl Fn(PublicId) -> bool,
        cause: Cause,
        certainty: Certainty,
    ) -> Result<u32> {
        let claim = Claim::Principal(principal.clone());
        let (mut count, mut after, mut outcome) = (0, None, Ok(()));
        loop {
            let listed = self.store.list(principal.clone(), after, SLICE, certainty).await?;
            let ids = listed.records.into_iter().map(|(id, _)| id).chain(listed.unreadable);
            let ids: Vec<_> = ids.filter(|id| meant(*id)).collect();
            match self.end_each(&ids, &claim, cause).await {
                Ok(ended) => count += ended,
                Err(error) => outcome = outcome.and(Err(error)),
            }
            after = listed.next;
            if after.is_none() {
                return outcome.map(|()| count);
            }
        }
    }

    /// Ends all sessions of the engine and returns how many were live. Continues after a failure
    /// to end one, and returns the first failure. A record that cannot be read is left: it lets
    /// nobody in.
    async fn end_everything(&self, cause: Cause) -> Result<u32> {
        let (mut count, mut from, mut outcome) = (0_u32, None, Ok(()));
        loop {
            let scanned = self.store.scan(from, SLICE).await?;
            let ids: Vec<_> = scanned.records.into_iter().map(|(id, _)| id).collect();
            match self.end_each(&ids, &Claim::Operator, cause).await {
                Ok(ended) => count = count.saturating_add(ended),
                Err(error) => outcome = outcome.and(Err(error)),
            }
            from = scanned.next;
            if from.is_none() {
                return outcome.map(|()| count);
            }
        }
    }

    /// Ends these sessions and returns how many were live. Tries all of them even if one
    /// fails, then returns the first failure.
    async fn end_each(&self, ids: &[PublicId], claim: &Claim, cause: Cause) -> Result<u32> {
        let (mut count, mut outcome) = (0, Ok(()));
        let mut ids = ids.iter();
        let mut ending = FuturesUnordered::new();
        loop {
            while ending.len() < ENDING_AT_ONCE
                && let Some(id) = ids.next()
            {
                ending.push(self.end(*id, claim.clone(), cause));
            }
            match ending.next().await {
                None => return outcome.map(|()| count),
                Some(Ok(ended)) => count += u32::from(ended == Some(Ended::Live)),
                Some(Err(error)) => outcome = outcome.and(Err(error)),
            }
        }
    }
}
