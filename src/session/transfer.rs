//! Transfer: all sessions of an engine, on their way to another store.
//!
//! What is exported are records as they are kept. They hold the hash of each
//! session's verifier and so no usable id; and a session that was imported is
//! opened by the cookie that the browser has. A later state of a session takes the
//! place of an earlier one, and never the other way round, so whatever is imported
//! twice, or in another order, ends the same. A session that was ended here in
//! between is not known to have been, and comes back.
//!
//! The marks of [`adoption`](super::adoption) come along: without them an
//! application's session that was ended here would be adopted once more there.

use std::sync::Arc;

use super::{
    clock::Moment,
    engine::Engine,
    error::Result,
    event::EventKind,
    id::PublicId,
    record::Record,
    store::{Change, Cursor, Restored, Store},
};

/// Records that are asked for at a time.
const SLICE: usize = 100;

/// What a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Session,
    /// Leads from an application's id to the session that was made of it.
    Mark,
}

/// A record under its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub id: PublicId,
    pub record: Arc<Record>,
}

/// How far an export has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub kind: Kind,
    /// `None`: at the beginning.
    pub cursor: Option<Cursor>,
}

impl Position {
    pub const START: Self = Self { kind: Kind::Session, cursor: None };
}

/// Some of all that is kept.
#[derive(Debug, Default)]
pub struct Exported {
    /// What is not over yet. An entry may come more than once.
    pub entries: Vec<Entry>,
    /// Records that make no sense, and are left out; the log names them.
    pub unreadable: usize,
    /// Go on from here; `None`: that was all.
    pub next: Option<Position>,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    Created,
    /// It was a later state of what is there.
    Replaced,
    /// What is there is as late.
    Kept,
    /// Its time is over, or it is a mark and this engine has none.
    Dropped,
}

impl Engine {
    /// One slice of all that is kept, from `position` on.
    ///
    /// What is there from the first slice to the last is exported at least once. A
    /// session that changes meanwhile is exported as it was or as it is.
    pub async fn export(&self, Position { kind, cursor }: Position) -> Result<Exported> {
        let Some(store) = self.store_of(kind) else { return Ok(Exported::default()) };
        let scanned = store.scan(cursor, SLICE).await?;
        let now = self.sessions.clock.now();
        let records = scanned.records.into_iter();
        let entries = records
            .filter(|(_, record)| !self.has_ended(kind, record, now))
            .map(|(id, record)| Entry { kind, id, record });
        let next = match scanned.next {
            Some(cursor) => Some(Position { kind, cursor: Some(cursor) }),
            None if kind == Kind::Session && self.store_of(Kind::Mark).is_some() => {
                Some(Position { kind: Kind::Mark, cursor: None })
            }
            None => None,
        };
        Ok(Exported { entries: entries.collect(), unreadable: scanned.unreadable, next })
    }

    /// Keeps what another store had, unless it is here already. It counts as no
    /// login and no use: limits are not applied, and the deadline stays.
    pub async fn import(&self, Entry { kind, id, record }: Entry) -> Result<Imported> {
        let now = self.sessions.clock.now();
        let Some(store) = self.store_of(kind) else { return Ok(Imported::Dropped) };
        if self.has_ended(kind, &record, now) {
            return Ok(Imported::Dropped);
        }
        let record = Arc::unwrap_or_clone(record);
        match store.restore(id, record, now).await? {
            Restored::Kept => Ok(Imported::Kept),
            Restored::Created(record) => {
                if kind == Kind::Session {
                    self.sessions.emit(id, &record.principal, now, EventKind::Created);
                }
                Ok(Imported::Created)
            }
            Restored::Replaced(Change { before, after }) => {
                if kind == Kind::Session && before.verifier != after.verifier {
                    let kind = EventKind::Rolled { former: &before.principal };
                    self.sessions.emit(id, &after.principal, now, kind);
                }
                Ok(Imported::Replaced)
            }
        }
    }

    /// `None`: an engine that never adopts has no marks.
    fn store_of(&self, kind: Kind) -> Option<&dyn Store> {
        match kind {
            Kind::Session => Some(self.sessions.store.as_ref()),
            Kind::Mark => self.adoption.as_ref().map(|adoption| adoption.marks.as_ref()),
        }
    }

    fn has_ended(&self, kind: Kind, record: &Record, now: Moment) -> bool {
        match kind {
            Kind::Session => self.sessions.has_expired(record, now),
            Kind::Mark => record.deadline <= now,
        }
    }
}
