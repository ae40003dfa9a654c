//! Records: what a store keeps of a session, and the changes to a record.
//!
//! A change is a value with an `apply` function. A store calls `apply` inside its own atomic
//! operation. So the rules are written here once, for all stores.

use std::time::Duration;

use bytes::Bytes;

use super::{
    clock::Moment,
    data::{Data, DataError},
    id::VerifierHash,
    lifetime::{Lifetime, Times},
};

/// What a store keeps of a session. The key is the public id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The hash of the verifier of the one valid id.
    pub verifier: VerifierHash,
    /// 1 at creation; each update adds 1.
    pub version: u64,
    /// The absolute timeout counts from here.
    pub create_time: Moment,
    /// When the session ends, unless its absolute timeout comes first.
    pub deadline: Moment,
    /// The session's own idle timeout; `None`: the engine's.
    pub duration: Option<Duration>,
    /// The owner of the session; empty: anonymous.
    pub principal: Principal,
    /// A JSON object with the bytes that were written.
    pub data: Data,
}

impl Record {
    /// What [`Lifetime`] needs to judge the record.
    pub fn times(&self) -> Times {
        let &Self { create_time, deadline, duration, .. } = self;
        Times { create_time, deadline, duration }
    }

    /// The size of the record in memory, in bytes, without the overhead of allocation.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.principal.as_bytes().len() + self.data.text().len()
    }

    /// Whether this is a later state of the session than `stored`. A Write makes a new
    /// version. A touch keeps the version and makes a later deadline.
    pub fn is_later_than(&self, stored: &Self) -> bool {
        (self.version, self.deadline) > (stored.version, stored.deadline)
    }
}

/// The owner of a session: a text of at most 256 bytes. It is often an e-mail address, so
/// Debug prints only the type.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(Bytes);

impl Principal {
    /// In bytes.
    pub const MAX_LEN: usize = 256;

    /// `None` if it is not UTF-8, or longer than [`MAX_LEN`](Self::MAX_LEN) bytes.
    pub fn new(principal: &[u8]) -> Option<Self> {
        let valid = principal.len() <= Self::MAX_LEN && std::str::from_utf8(principal).is_ok();
        // Copied, because a slice would keep the whole message or record in memory.
        valid.then(|| Self(Bytes::copy_from_slice(principal)))
    }

    /// Valid UTF-8; empty: anonymous.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Anonymous sessions are in no list and have no limit.
    pub fn is_anonymous(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Principal")
    }
}

/// The right by which a session is ended. It holds for expired sessions too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The caller presented the session's valid id.
    Verifier(VerifierHash),
    /// The session belongs to this principal.
    Principal(Principal),
    /// An operator named the session.
    Operator,
}

impl Claim {
    /// Whether this claim allows ending `stored`.
    pub fn holds(&self, stored: &Record) -> bool {
        match self {
            Self::Verifier(verifier) => stored.verifier == *verifier,
            Self::Principal(principal) => stored.principal == *principal,
            Self::Operator => true,
        }
    }
}

/// Moves the deadline of a live session, if that is due.
#[derive(Debug, Clone, Copy)]
pub struct Touch {
    /// The verifier hash of the presented id. A replaced id must not keep a session alive.
    pub verifier: VerifierHash,
    /// The engine's rules, which judge the deadline.
    pub lifetime: Lifetime,
    /// The engine's time, not the store's.
    pub now: Moment,
}

impl Touch {
    /// The deadline to store. `None` if the stored deadline is late enough, or if the session
    /// is not live.
    pub fn apply(&self, stored: &Record) -> Option<Moment> {
        let live = stored.verifier == self.verifier
            && !self.lifetime.has_expired(stored.times(), self.now);
        live.then(|| self.lifetime.slide(stored.times(), self.now)).flatten()
    }
}

/// Changes a live session.
#[derive(Debug, Clone)]
pub struct Update {
    /// The verifier hash of the presented id.
    pub verifier: VerifierHash,
    /// The engine's rules, which judge the deadline.
    pub lifetime: Lifetime,
    /// The engine's time, not the store's.
    pub now: Moment,
    /// Apply only if the record is at this version.
    pub if_version: Option<u64>,
    /// What happens to the data.
    pub edit: Edit,
    /// The verifier hash of the new id, used if the id is rolled.
    pub next_verifier: VerifierHash,
    /// Roll even if the principal stays the same.
    pub roll: bool,
    /// The new owner; another one than before always rolls. `None`: as it was.
    pub principal: Option<Principal>,
    /// The session's own idle timeout from now on. `None`: as it was.
    pub duration: Option<Duration>,
}

/// What an [`Update`] or a creation does to the data. Debug prints no key and no value.
#[derive(Clone)]
pub struct Edit {
    /// Remove all data first.
    pub replace: bool,
    /// Top-level keys to remove before `set` applies.
    pub unset: Vec<String>,
    /// Members to set.
    pub set: Data,
    /// The maximum size of the result in bytes. Data that was larger before may keep its size.
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
    /// The data after this edit. Fails if the result is too large, or if the data cannot be
    /// merged.
    pub fn apply(&self, stored: &Data) -> Result<Data, Refusal> {
        let base = if self.replace { &Data::EMPTY } else { stored };
        let data = if self.unset.is_empty() && self.set == Data::EMPTY {
            base.clone()
        } else {
            base.merge(&self.unset, &self.set).map_err(Refusal::Data)?
        };
        let len_bytes = data.text().len();
        // If the limit was lowered, data above it may still shrink.
        if len_bytes > self.limit_bytes && len_bytes > stored.text().len() {
            return Err(Refusal::TooLarge { len_bytes, limit_bytes: self.limit_bytes });
        }
        Ok(data)
    }
}

/// Why an update was not applied. Nothing was stored.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The presented id has been rolled since.
    Superseded,
    /// The session has expired.
    Expired,
    /// The session is not at the version of `if_version`.
    VersionMismatch {
        /// The version that is stored.
        current: u64,
    },
    /// The data would be too large.
    TooLarge {
        /// Of the JSON text after the change.
        len_bytes: usize,
        /// [`Edit::limit_bytes`].
        limit_bytes: usize,
    },
    /// The new data cannot be merged with the stored data.
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
            // Only this change may also make the deadline earlier.
            record.deadline = self.lifetime.deadline(stored.create_time, duration, self.now);
        } else if let Some(deadline) = self.lifetime.slide(stored.times(), self.now) {
            record.deadline = deadline;
        }
        Ok(record)
    }
}
