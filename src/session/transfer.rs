//! Transfer: moves all sessions of an engine to another store.
//!
//! Records are exported as they are stored. A record holds only the hash of the verifier, so
//! an export contains no usable id. After the import, the browser's cookie still works.
//!
//! A later state of a session replaces an earlier one, and never the reverse. So importing
//! twice, or in another order, gives the same result. The importing engine does not know
//! which sessions were ended between export and import: such a session comes back.
//!
//! The marks of [`adoption`](super::adoption) are exported too. Without them, the new store
//! would again adopt an application's session that was ended here.

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

/// The records that one scan of the store asks for.
const SLICE: usize = 100;

/// The kind of an exported record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A record that a credential can lead to.
    Session,
    /// Maps an application's id to the session that was adopted.
    Mark,
}

/// A record and its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Says which of the engine's two stores the record is in.
    pub kind: Kind,
    /// Of a mark: derived from the application's id.
    pub id: PublicId,
    /// As it was at some moment during the export.
    pub record: Arc<Record>,
}

/// The position of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Sessions come first, then marks.
    pub kind: Kind,
    /// `None`: the beginning.
    pub cursor: Option<Cursor>,
}

impl Position {
    /// Before the first session.
    pub const START: Self = Self { kind: Kind::Session, cursor: None };
}

/// One slice of an export.
#[derive(Debug, Default)]
pub struct Exported {
    /// The entries that have not expired. An export may return an entry more than once.
    pub entries: Vec<Entry>,
    /// The number of unreadable records. They are left out, and the log names them.
    pub unreadable: usize,
    /// The position to continue from; `None`: the export is complete.
    pub next: Option<Position>,
}

/// The result of importing an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// Nothing was stored under the id.
    Created,
    /// The entry was a later state than the stored record and replaced it.
    Replaced,
    /// The stored record is as late or later, and was kept.
    Kept,
    /// The entry has expired, or it is a mark and this engine never adopts.
    Dropped,
}

impl Engine {
    /// Exports one slice, starting at the given position.
    ///
    /// A record that exists from the first slice to the last is exported at least once. A
    /// session that changes during the export is exported in its old or its new state.
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

    /// Stores an exported entry, unless the stored record is as late or later. An import is
    /// neither a login nor a use: no limit applies, and the deadline does not move.
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

    /// `None` for marks, if the engine never adopts.
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
