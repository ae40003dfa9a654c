//! Records: what a store keeps of a session, and what may change in one.
//!
//! The changes are values with an `apply`. A store calls it inside whatever
//! makes its change atomic, so that the rules stand here once, for all stores.

use std::time::Duration;

use bytes::Bytes;

use super::{
    clock::Moment,
    data::{Data, DataError},
    id::VerifierHash,
    lifetime::{Lifetime, Times},
};

/// What a store keeps of a session, under its public id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Recognises the one id that is valid now.
    pub verifier: VerifierHash,
    /// 1 at creation, one more with each update.
    pub version: u64,
    pub create_time: Moment,
    /// When the session is over, unless its absolute end comes first.
    pub deadline: Moment,
    /// The session's own idle lifetime; `None`: the engine's.
    pub duration: Option<Duration>,
    /// Whom it belongs to; empty: anonymous.
    pub principal: Principal,
    pub data: Data,
}

impl Record {
    pub fn times(&self) -> Times {
        let &Self { create_time, deadline, duration, .. } = self;
        Times { create_time, deadline, duration }
    }

    /// What a store can and should know of a record's size, in bytes.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.principal.as_bytes().len() + self.data.text().len()
    }

    /// Whether this is a later state of the session than `stored`: a Write makes a
    /// new version, a touch of the same one a later deadline.
    pub fn is_later_than(&self, stored: &Self) -> bool {
        (self.version, self.deadline) > (stored.version, stored.deadline)
    }
}

/// Whom a session belongs to: text, at most 256 bytes. Often an e-mail address:
/// prints its type only.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(Bytes);

impl Principal {
    pub const MAX_LEN: usize = 256;

    /// `None` when it is not UTF-8, or longer than [`MAX_LEN`](Self::MAX_LEN).
    pub fn new(principal: &[u8]) -> Option<Self> {
        let valid = principal.len() <= Self::MAX_LEN && std::str::from_utf8(principal).is_ok();
        // A copy: a slice would keep the whole message or record in memory.
        valid.then(|| Self(Bytes::copy_from_slice(principal)))
    }

    /// Valid UTF-8; empty: anonymous.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    pub fn is_anonymous(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Principal")
    }
}

/// By what right a session is ended, whatever its deadline says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Its id was presented, and is the one that is valid now.
    Verifier(VerifierHash),
    /// It belongs to this principal.
    Principal(Principal),
    /// An operator names it.
    Operator,
}

impl Claim {
    /// Whether `stored` is to be ended.
    pub fn holds(&self, stored: &Record) -> bool {
        match self {
            Self::Verifier(verifier) => stored.verifier == *verifier,
            Self::Principal(principal) => stored.principal == *principal,
            Self::Operator => true,
        }
    }
}

/// Moves the deadline of a live session, when that is due.
#[derive(Debug, Clone, Copy)]
pub struct Touch {
    /// Of the presented id: a rolled id keeps nothing alive.
    pub verifier: VerifierHash,
    pub lifetime: Lifetime,
    pub now: Moment,
}

impl Touch {
    /// The deadline to store; `None` when nothing is to be stored, because the
    /// stored one is good or because the session is not live.
    pub fn apply(&self, stored: &Record) -> Option<Moment> {
        let live = stored.verifier == self.verifier
            && !self.lifetime.has_expired(stored.times(), self.now);
        live.then(|| self.lifetime.slide(stored.times(), self.now)).flatten()
    }
}

/// Changes a live session.
#[derive(Debug, Clone)]
pub struct Update {
    /// Of the presented id.
    pub verifier: VerifierHash,
    pub lifetime: Lifetime,
    pub now: Moment,
    /// Apply at this version only.
    pub if_version: Option<u64>,
    pub edit: Edit,
    /// Of the id that replaces the presented one, should it be rolled.
    pub next_verifier: VerifierHash,
    /// Roll even if the principal stays the same.
    pub roll: bool,
    pub principal: Option<Principal>,
    pub duration: Option<Duration>,
}

/// What an [`Update`] or a creation does to the data. Prints no key and no value.
#[derive(Clone)]
pub struct Edit {
    /// Drop all data first.
    pub replace: bool,
    pub unset: Vec<String>,
    pub set: Data,
    /// The result may have so many bytes, or as many as there were before.
    pub limit_bytes: usize,
}

impl std::fmt::Debug for Edit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { replace, unset, set, limit_bytes } = self;
        write!(
            f,
            "Edit(replace {replace}, unset {}, set {set:?}, limit {limit_bytes})",
            unset.len()
        )
    }
}

impl Edit {
    /// The data after this edit.
    pub fn apply(&self, stored: &Data) -> Result<Data, Refusal> {
        let base = if self.replace { &Data::EMPTY } else { stored };
        let data = if self.unset.is_empty() && self.set == Data::EMPTY {
            base.clone()
        } else {
            base.merge(&self.unset, &self.set).map_err(Refusal::Data)?
        };
        let len_bytes = data.text().len();
        // What is too large since the limit was lowered may still shrink.
        if len_bytes > self.limit_bytes && len_bytes > stored.text().len() {
            return Err(Refusal::TooLarge { len_bytes, limit_bytes: self.limit_bytes });
        }
        Ok(data)
    }
}

/// Why an update was not applied. Nothing was stored.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The presented id was rolled since.
    Superseded,
    /// The session's time is over.
    Expired,
    /// The session is not at the version asked for.
    VersionMismatch { current: u64 },
    /// The data would be too large.
    TooLarge { len_bytes: usize, limit_bytes: usize },
    /// The stored data can not be merged with.
    Data(DataError),
}

impl Update {
    /// The record to store in place of `stored`.
    pub fn apply(&self, stored: &Record) -> Result<Record, Refusal> {
        if stored.verifier != self.verifier {
            return Err(Refusal::Superseded);
        }
        if self.lifetime.has_expired(stored.times(), self.now) {
            return Err(Refusal::Expired);
        }
        if self.if_version.is_some_and(|version| version != stored.version) {
            return Err(Refusal::VersionMismatch { current: stored.version });
        }
        let data = self.edit.apply(&stored.data)?;
        let new_principal = self.principal.as_ref().filter(|new| **new != stored.principal);
        let duration = self.duration.or(stored.duration);
        let mut record = Record {
            verifier: stored.verifier,
            version: stored.version + 1,
            create_time: stored.create_time,
            deadline: stored.deadline,
            duration,
            principal: new_principal.unwrap_or(&stored.principal).clone(),
            data,
        };
        if self.roll || new_principal.is_some() {
            record.verifier = self.next_verifier;
        }
        if duration != stored.duration {
            // The one change that may also bring the deadline nearer.
            record.deadline = self.lifetime.deadline(stored.create_time, duration, self.now);
        } else if let Some(deadline) = self.lifetime.slide(stored.times(), self.now) {
            record.deadline = deadline;
        }
        Ok(record)
    }
}
