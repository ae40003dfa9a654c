//! What the engine asks of a store.

use std::{error::Error, fmt, sync::Arc};

use bytes::Bytes;

use super::{
    clock::Moment,
    id::PublicId,
    record::{Claim, Principal, Record, Refusal, Touch, Update},
};

/// Keeps the records of one engine, by public id.
///
/// A store holds no policy and no clock: every moment is an argument, and what
/// may change in a record is decided by [`Touch::apply`], [`Update::apply`] and
/// [`Claim::holds`], which the store calls inside whatever makes its change
/// atomic. Operations on one id are linearizable; [`list`](Self::list) looks at
/// one id after the other.
///
/// Absence is an answer (`None`), never an error; an error means that the store
/// itself failed, and that the operation may or may not have taken effect. When
/// a change is answered it is as durable as the store's configuration says.
///
/// A record is kept until it is destroyed or its deadline has passed and a
/// cleanup met it, or until the store itself removes what is over; reading does
/// not judge deadlines.
pub trait Store: Send + Sync + 'static {
    /// The record under `id`, if the store has it in memory. `None` tells nothing:
    /// ask one of the others. Does not wait.
    fn recall(&self, _id: PublicId) -> Option<Arc<Record>> {
        None
    }

    /// The record under `id`.
    fn read(&self, id: PublicId) -> impl Future<Output = Result<Option<Arc<Record>>>> + Send;

    /// As [`read`](Self::read), of a record that others are built on: no change that is
    /// made and answered after this outlives what is found, whatever fails.
    fn read_for_good(
        &self,
        id: PublicId,
    ) -> impl Future<Output = Result<Option<Arc<Record>>>> + Send;

    /// Moves the deadline as `touch` says, and gives the record as it is then.
    fn touch(
        &self,
        id: PublicId,
        touch: Touch,
    ) -> impl Future<Output = Result<Option<Touched>>> + Send;

    /// Keeps a new record. `None`, and nothing stored, when `id` is taken.
    fn create(
        &self,
        id: PublicId,
        record: Record,
    ) -> impl Future<Output = Result<Option<Arc<Record>>>> + Send;

    /// Changes the record under `id` as `update` says, never creating one.
    fn write(
        &self,
        id: PublicId,
        update: Arc<Update>,
    ) -> impl Future<Output = Result<Option<Written>>> + Send;

    /// Removes the record under `id` and gives it back. `None`, and nothing
    /// removed, when there is none or `claim` does not hold there.
    fn destroy(
        &self,
        id: PublicId,
        claim: Claim,
    ) -> impl Future<Output = Result<Option<Arc<Record>>>> + Send;

    /// Records of `principal`, who is not anonymous: those with an id above
    /// `after`, in the order of ids. Looks at no more than `limit` entries of
    /// the index, at least one, so that one call is short.
    ///
    /// A record that is the principal's from before the call until after it is
    /// found; one that comes or goes meanwhile may be. So are all that are the
    /// principal's throughout, when one call goes on after the other. The index
    /// leaks nothing: an entry without its record goes after the first call that
    /// meets it when nothing can need it any more, and with a cleanup that has come
    /// to its end.
    fn list(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> impl Future<Output = Result<Listed>> + Send;

    /// As [`list`](Self::list), and what it leaves out because that has ended, or is
    /// another's now, stays so as durably as after a [`destroy`](Self::destroy). So who
    /// finds nothing can rely on that, also when another has ended it who was never
    /// told, or has yet to be.
    fn list_for_good(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> impl Future<Output = Result<Listed>> + Send;

    /// All records, a slice of about `limit` at a time, in an order of the store's own:
    /// those after `from`, from the first one when there is none or when it is of
    /// another store.
    ///
    /// A record that is there from the first call to the last is given at least once,
    /// as it is at some moment in between; one that comes or goes meanwhile may be.
    /// None is taken into memory, so that what is in use stays there.
    fn scan(
        &self,
        from: Option<Cursor>,
        limit: usize,
    ) -> impl Future<Output = Result<Scanned>> + Send;

    /// Keeps a record that comes from another store, unless there is one under `id`
    /// that is as late ([`Record::is_later_than`]). `now` says how long it has to
    /// live.
    fn restore(
        &self,
        id: PublicId,
        record: Record,
        now: Moment,
    ) -> impl Future<Output = Result<Restored>> + Send;

    /// Removes records whose deadline is at or before `now`, in the order of
    /// deadlines, and mends what an unclean stop has left. Looks at no more than
    /// `limit` entries, so that one call is short.
    fn cleanup(&self, now: Moment, limit: usize) -> impl Future<Output = Result<Swept>> + Send;

    /// An error when the store can not serve: for good, until it is opened again,
    /// or until what it depends on is back. Does not wait.
    fn check(&self) -> Result<()>;

    /// How many records are kept, expired ones included until they are swept;
    /// `None`: the store does not know.
    fn count(&self) -> Option<u64>;
}

/// The outcome of a touch.
#[derive(Debug, Clone)]
pub struct Touched {
    /// As it is after the touch.
    pub record: Arc<Record>,
    /// The deadline was moved.
    pub moved: bool,
}

/// The outcome of a write on a record that exists.
pub type Written = std::result::Result<Change, Refusal>;

/// A record before and after a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub before: Arc<Record>,
    pub after: Arc<Record>,
}

/// Some records of a principal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed {
    /// Those whose deadline has passed included, until they are swept.
    pub records: Vec<(PublicId, Arc<Record>)>,
    /// Go on after this; `None`: that was all.
    pub next: Option<PublicId>,
}

/// How far a scan has come: octets that mean something to the store that gave them,
/// also after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub Bytes);

impl Cursor {
    /// Of a store that scans in the order of ids.
    pub fn after(id: PublicId) -> Self {
        Self(Bytes::copy_from_slice(id.as_bytes()))
    }

    /// The id that [`after`](Self::after) was given; `None`: it is of another store.
    pub fn to_id(&self) -> Option<PublicId> {
        self.0.as_ref().try_into().ok().map(PublicId::from_bytes)
    }
}

/// A slice of all records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scanned {
    /// Those whose deadline has passed included, until they are swept.
    pub records: Vec<(PublicId, Arc<Record>)>,
    /// Records that make no sense; the log names them.
    pub unreadable: usize,
    /// Go on from here; `None`: that was all.
    pub next: Option<Cursor>,
}

/// What became of a record that came from another store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// There was none under its id.
    Created(Arc<Record>),
    /// It was later than the one that was there.
    Replaced(Change),
    /// What is there is as late.
    Kept,
}

/// What one slice of a cleanup did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// Entries looked at; as many as the limit means there may be more.
    pub examined: usize,
    /// What was removed because its deadline had passed.
    pub removed: Vec<Expired>,
    /// The earliest deadline still to be looked at.
    pub next: Option<Moment>,
}

/// A record that a cleanup has removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    pub id: PublicId,
    pub principal: Principal,
}

pub type Result<T> = std::result::Result<T, StoreError>;

/// A store failed. The text names what it was doing; the cause, for the log,
/// is the source.
#[derive(Debug)]
pub struct StoreError {
    pub kind: StoreErrorKind,
    doing: &'static str,
    source: Box<dyn Error + Send + Sync>,
}

/// What a caller can do about a failed store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// It may work again later.
    Unavailable,
    /// It has more to do than it may keep waiting. Nothing was done.
    Overloaded,
    /// It has no room for more. Nothing was done; what is stored can be read and
    /// destroyed.
    Full,
    /// The record is there and makes no sense. Trying again does not help.
    Unreadable,
}

impl StoreError {
    /// The store could not do its work, for example `"write a record"`.
    pub fn unavailable(
        doing: &'static str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { kind: StoreErrorKind::Unavailable, doing, source: source.into() }
    }

    /// The store has too much to do already.
    pub fn overloaded(
        doing: &'static str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { kind: StoreErrorKind::Overloaded, doing, source: source.into() }
    }

    /// There is no room for more.
    pub fn full(doing: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind: StoreErrorKind::Full, doing, source: source.into() }
    }

    /// What is stored makes no sense.
    pub fn unreadable(
        doing: &'static str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { kind: StoreErrorKind::Unreadable, doing, source: source.into() }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = match self.kind {
            StoreErrorKind::Unavailable => "this says nothing about the session; try again",
            StoreErrorKind::Overloaded => "it has too much to do; try again in a moment",
            StoreErrorKind::Full => "there is no room; make some, it goes on by itself",
            StoreErrorKind::Unreadable => "what is stored is damaged; trying again does not help",
        };
        write!(f, "the store could not {}: {advice}", self.doing)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}
