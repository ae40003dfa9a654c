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
    /// Empty for most records.
    pub extension: Extension,
}

/// Fields of a record that few records have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extension {
    /// The verifiers that were rolled most recently, the latest one last. At most
    /// [`MAX_FORMER`](Self::MAX_FORMER), and only those of rolls with a `roll_grace`.
    pub former: Vec<Former>,
    /// Whether the cookie is persistent; `None`: as the engine's configuration says.
    pub persistent: Option<bool>,
    /// Empty: none.
    pub label: Label,
    /// Fields that a later release has written, in the encoding of the store. Each change
    /// keeps them as they are.
    pub unknown: Bytes,
}

/// A verifier that was replaced by a roll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Former {
    /// Of the id that was valid until then.
    pub verifier: VerifierHash,
    /// When it was replaced.
    pub rolled: Moment,
}

impl Extension {
    /// The most former verifiers that a record keeps. A login rolls once; a second factor or
    /// a parallel request may roll once more.
    pub const MAX_FORMER: usize = 4;

    /// The size beyond that of the type itself, in bytes.
    fn heap_size(&self) -> usize {
        self.former.len() * size_of::<Former>() + self.label.0.len() + self.unknown.len()
    }

    /// The same after a roll at `now`. A verifier that was rolled before `rolled_after`
    /// proves nothing any more, so it is dropped.
    fn rolled(&self, verifier: VerifierHash, now: Moment, rolled_after: Moment) -> Self {
        let kept = self.former.iter().copied().filter(|former| former.rolled > rolled_after);
        let mut former: Vec<_> = kept.collect();
        if now > rolled_after {
            former.push(Former { verifier, rolled: now });
        }
        let excess = former.len().saturating_sub(Self::MAX_FORMER);
        former.drain(..excess);
        Self { former, ..self.clone() }
    }
}

impl Record {
    /// What [`Lifetime`] needs to judge the record.
    pub fn times(&self) -> Times {
        let &Self { create_time, deadline, duration, .. } = self;
        Times { create_time, deadline, duration }
    }

    /// The size of the record in memory, in bytes, without the overhead of allocation.
    pub fn size(&self) -> usize {
        size_of::<Self>()
            + self.principal.as_bytes().len()
            + self.data.text().len()
            + self.extension.heap_size()
    }

    /// Whether the id was rolled after this moment.
    pub fn was_rolled_after(&self, moment: Moment) -> bool {
        self.extension.former.last().is_some_and(|former| former.rolled > moment)
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

/// A text for the user's list of devices, such as "Firefox on Linux": at most 256 bytes. It may
/// say something about a person, so Debug prints only the type.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Label(Bytes);

impl Label {
    /// The most bytes of a label.
    pub const MAX_LEN: usize = 256;

    /// `None` if it is not UTF-8, or longer than [`MAX_LEN`](Self::MAX_LEN) bytes.
    pub fn new(label: &[u8]) -> Option<Self> {
        let valid = label.len() <= Self::MAX_LEN && std::str::from_utf8(label).is_ok();
        // Copied, because a slice would keep the whole message or record in memory.
        valid.then(|| Self(Bytes::copy_from_slice(label)))
    }

    /// Valid UTF-8; empty: there is none.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl std::fmt::Debug for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Label")
    }
}

impl std::fmt::Debug for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Principal")
    }
}

/// The right by which a session is ended. It holds for expired sessions too. Of a record that
/// cannot be read nothing can be compared, so there every claim holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The caller presented an id of the session: the valid one, or one that was rolled
    /// after a moment. A logout that was sent before a roll must not be lost.
    Presented {
        /// Of the presented id.
        verifier: VerifierHash,
        /// An id that was rolled at this moment or before proves nothing.
        rolled_after: Moment,
    },
    /// The session belongs to this principal.
    Principal(Principal),
    /// An operator named the session.
    Operator,
}

impl Claim {
    /// The claim of the valid id alone.
    pub const fn valid_id(verifier: VerifierHash) -> Self {
        Self::Presented { verifier, rolled_after: Moment::LAST }
    }

    /// Whether this claim allows ending `stored`.
    pub fn holds(&self, stored: &Record) -> bool {
        match self {
            Self::Presented { verifier, rolled_after } => {
                let was_valid =
                    |former: &Former| former.verifier == *verifier && former.rolled > *rolled_after;
                stored.verifier == *verifier || stored.extension.former.iter().any(was_valid)
            }
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
    /// The session's own idle timeout from now on. `None`: as it was.
    pub duration: Option<Duration>,
}

impl Touch {
    /// The times to store. `None` if there is nothing to change, or if the session is not
    /// live.
    pub fn apply(&self, stored: &Record) -> Option<Times> {
        let times = stored.times();
        if stored.verifier != self.verifier || self.lifetime.has_expired(times, self.now) {
            return None;
        }
        self.lifetime.touched(times, self.duration, self.now)
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
    /// How long the id from before a roll can still end the session.
    pub roll_grace: Duration,
    /// Roll even if the principal stays the same.
    pub roll: bool,
    /// The new owner; another one than before always rolls. `None`: as it was.
    pub principal: Option<Principal>,
    /// The session's own idle timeout from now on. `None`: as it was.
    pub duration: Option<Duration>,
    /// Whether the cookie is persistent from now on. `None`: as it was.
    pub persistent: Option<bool>,
    /// The text for the list of devices. `None`: as it was.
    pub label: Option<Label>,
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
    /// How many bytes are merged into the stored data. 0: nothing is merged.
    pub fn merged_bytes(&self) -> usize {
        match self.changes_nothing() {
            true => 0,
            false => self.set.text().len() + self.unset.iter().map(String::len).sum::<usize>(),
        }
    }

    fn changes_nothing(&self) -> bool {
        self.unset.is_empty() && self.set == Data::EMPTY
    }

    /// The data after this edit. `replace`: as if [`replace`](Self::replace) were set. Fails if
    /// the result is too large, or if the data cannot be merged.
    pub fn apply(&self, stored: &Data, replace: bool) -> Result<Data, Refusal> {
        let base = if self.replace || replace { &Data::EMPTY } else { stored };
        let data = if self.changes_nothing() {
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
        let new_principal = self.principal.as_ref().filter(|new| **new != stored.principal);
        // What one principal has stored must not be shown to another one.
        let replace = new_principal.is_some() && !stored.principal.is_anonymous();
        let data = self.edit.apply(&stored.data, replace)?;
        let times = stored.times();
        let touched = self.lifetime.touched(times, self.duration, self.now).unwrap_or(times);
        let mut extension = Extension {
            persistent: self.persistent.or(stored.extension.persistent),
            label: self.label.as_ref().unwrap_or(&stored.extension.label).clone(),
            ..stored.extension.clone()
        };
        let mut verifier = stored.verifier;
        if self.roll || new_principal.is_some() {
            verifier = self.next_verifier;
            let rolled_after = self.now.before(self.roll_grace);
            extension = extension.rolled(stored.verifier, self.now, rolled_after);
        }
        let record = Record {
            verifier,
            version: stored.version + 1,
            create_time: stored.create_time,
            deadline: touched.deadline,
            duration: touched.duration,
            principal: new_principal.unwrap_or(&stored.principal).clone(),
            data,
            extension,
        };
        Ok(record)
    }
}
