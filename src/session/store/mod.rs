//! What the engine asks of a store.
//!
//! | file | holds |
//! |---|---|
//! | this one | [`Store`], [`BulkStore`], and what their operations return |
//! | [`error`] | how a store fails |
//! | [`blocking`] | work that takes too long for a thread that serves |
//! | [`layer`] | a store in front of another store |

mod blocking;
mod error;
mod layer;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::{
    blocking::run_blocking,
    error::{Result, StoreError, StoreErrorKind},
    layer::{Layer, StoreFuture, Verb},
};
use super::{
    clock::Moment,
    id::PublicId,
    record::{Claim, Principal, Record, Refusal, Touch, Update},
};

/// Keeps the records of one engine, by public id.
///
/// A store has no policy and no clock. Every moment is an argument, and [`Touch::apply`],
/// [`Update::apply`] and [`Claim::holds`] decide what may change in a record. The store
/// calls them inside the transaction that makes its change atomic.
/// Operations on one id are linearizable; [`list`](Self::list) reads one id after the
/// other.
///
/// Absence is an answer (`None`), never an error. An error means that the store itself
/// failed, and that the operation may or may not have taken effect. When a change is
/// acknowledged, it is as durable as the store's configuration says.
///
/// A record is kept until it is destroyed, or until its deadline has passed and a
/// cleanup or the store itself has removed it. Reading does not judge deadlines.
#[async_trait]
pub trait Store: BulkStore {
    /// The record under `id`, if the store has it in memory. `None` does not mean that there
    /// is no record: ask [`read`](Self::read) or [`touch`](Self::touch). Never waits.
    fn recall(&self, _id: PublicId) -> Option<Arc<Record>> {
        None
    }

    /// The record under `id`. May wait for the disk or the network even if the record is in
    /// memory: ask [`recall`](Self::recall) first.
    async fn read(&self, id: PublicId, certainty: Certainty) -> Result<Option<Arc<Record>>>;

    /// Moves the deadline as `touch` says, and returns the record as it is then. A store that
    /// can read and takes no changes returns the record as it is, unmoved.
    async fn touch(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>>;

    /// Keeps a new record. `None`, and nothing is stored, if `id` is taken.
    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>>;

    /// Changes the record under `id` as `update` says. Never creates one.
    async fn write(&self, id: PublicId, update: Arc<Update>) -> Result<Option<Written>>;

    /// Removes the record under `id` and returns it. `None`, and nothing is removed, if
    /// there is none or if `claim` does not hold for it. Also removes a record that cannot be
    /// read, whatever the claim is.
    async fn destroy(&self, id: PublicId, claim: Claim) -> Result<Option<Removed>>;

    /// Records of `principal` with an id above `after`, in the order of ids. Nothing if the
    /// principal is anonymous. Reads at most `limit` entries of the index, and at least one,
    /// so that a call is short.
    ///
    /// A record that belongs to the principal during the whole call is found. A record that
    /// comes or goes during the call may be found. The same holds for a sequence of calls,
    /// each of which continues after the one before. With [`Certainty::Durable`], records
    /// that are missing also stay missing, as after a [`destroy`](Self::destroy).
    ///
    /// Orphaned index entries are removed by the first `list` that finds them after nothing
    /// can need them any more, or by a completed cleanup.
    async fn list(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
        certainty: Certainty,
    ) -> Result<Listed>;

    /// Removes records whose deadline is at or before `now`, in the order of
    /// deadlines, and repairs what an unclean stop has left. Reads at most `limit`
    /// entries, so that a call is short.
    async fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept>;

    /// An error if the store cannot serve until it is opened again, or until what it depends
    /// on is back. Never waits.
    fn check(&self) -> Result<()>;

    /// The same, and no error if records can still be read: sessions go on then, although
    /// changes are refused.
    fn check_reading(&self) -> Result<()> {
        self.check()
    }

    /// How many records are kept, including expired ones that no cleanup has removed.
    /// `None`: the store does not know.
    fn count(&self) -> Option<u64>;
}

/// All records of a store, for export and import.
#[async_trait]
pub trait BulkStore: Send + Sync + 'static {
    /// About `limit` records after `from`, in an order of the store's own. Begins with the
    /// first record if there is no cursor, or if the cursor is from another store.
    ///
    /// A record that exists from the first call to the last is returned at least once,
    /// as it is at some moment in between. A record that comes or goes meanwhile may be
    /// returned. A scan does not displace the records in memory, which are in use.
    async fn scan(&self, from: Option<Cursor>, limit: usize) -> Result<Scanned>;

    /// Keeps a record from another store, unless the record under `id` is at least as late
    /// ([`Record::is_later_than`]). `now` tells how long the record has to live.
    async fn restore(&self, id: PublicId, record: Record, now: Moment) -> Result<Restored>;
}

/// How sure an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// As the store has it now.
    Current,
    /// As durable as an acknowledged change: neither what is found nor what is missing
    /// can be undone while a later acknowledged change survives.
    Durable,
}

/// The outcome of a touch.
#[derive(Debug, Clone)]
pub struct Touched {
    /// The record after the touch.
    pub record: Arc<Record>,
    /// The deadline was moved.
    pub moved: bool,
}

/// The outcome of a write on a record that exists.
pub type Written = std::result::Result<Change, Refusal>;

/// A record before and after a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// As the write found it.
    pub before: Arc<Record>,
    /// As it is stored now.
    pub after: Arc<Record>,
}

/// What a destroy has removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// As it was at the moment of its removal.
    Record(Arc<Record>),
    /// A record that could not be read.
    Unreadable,
}

/// Some records of a principal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed {
    /// Includes records whose deadline has passed, until a cleanup removes them.
    pub records: Vec<(PublicId, Arc<Record>)>,
    /// Records that cannot be read and that belonged to the principal when they last could.
    pub unreadable: Vec<PublicId>,
    /// Continue after this id. `None`: there are no more.
    pub next: Option<PublicId>,
}

/// The position of a scan. Its octets have a meaning only to the store that returned them,
/// also after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub Bytes);

impl Cursor {
    /// For a store that scans in the order of ids.
    pub fn after(id: PublicId) -> Self {
        Self(Bytes::copy_from_slice(id.as_bytes()))
    }

    /// The id that [`after`](Self::after) was given. `None`: the cursor is from another
    /// store.
    pub fn to_id(&self) -> Option<PublicId> {
        self.0.as_ref().try_into().ok().map(PublicId::from_bytes)
    }
}

/// A slice of all records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scanned {
    /// Includes records whose deadline has passed, until a cleanup removes them.
    pub records: Vec<(PublicId, Arc<Record>)>,
    /// Records that cannot be decoded. The log names them.
    pub unreadable: usize,
    /// Continue from here. `None`: there are no more.
    pub next: Option<Cursor>,
}

/// The outcome of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// There was no record under the id.
    Created(Arc<Record>),
    /// The record was later than the one under the id.
    Replaced(Change),
    /// The record under the id is at least as late.
    Kept,
}

/// The outcome of one slice of a cleanup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// Entries that were read. If it is the limit, there may be more.
    pub examined: usize,
    /// The records that were removed because their deadline had passed.
    pub removed: Vec<Expired>,
    /// The earliest deadline that is still to be checked.
    pub next: Option<Moment>,
}

/// A record that a cleanup has removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// It may be used again from now on.
    pub id: PublicId,
    /// Whose session it was. Empty: anonymous.
    pub principal: Principal,
}
