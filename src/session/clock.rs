//! Moments, and the clock they come from.

use std::{
    fmt,
    ops::Add,
    time::{Duration, UNIX_EPOCH},
};

/// A point in time: milliseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The latest moment. Nothing happens after it.
    pub const LAST: Self = Self(u64::MAX);

    /// For a time that was stored or sent. The current time comes from a [`Clock`].
    pub const fn from_unix_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Never negative: there is no moment before the epoch.
    pub const fn unix_millis(self) -> u64 {
        self.0
    }

    /// The moment `span` before this one. Rounds `span` as [`add`](Add::add) does. Stops at
    /// the Unix epoch instead of wrapping around.
    pub fn before(self, span: Duration) -> Moment {
        Moment(self.0.saturating_sub(millis(span)))
    }

    /// The time from `earlier` to this moment. Zero if `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// The span, rounded up to whole milliseconds, in which stores and answers count. Up, because
/// a session must not end early.
pub fn whole_millis(span: Duration) -> Duration {
    Duration::from_millis(millis(span))
}

/// The span in milliseconds, rounded up. Does not use `as_nanos`: dividing its 128 bits
/// takes longer than the rest of reading the clock.
fn millis(span: Duration) -> u64 {
    let below_a_second = span.subsec_nanos().div_ceil(1_000_000);
    span.as_secs().saturating_mul(1000).saturating_add(below_a_second.into())
}

impl Add<Duration> for Moment {
    type Output = Moment;

    /// Rounds up to a whole millisecond, because a session must not end early. Stops at the
    /// latest moment instead of wrapping around.
    fn add(self, span: Duration) -> Moment {
        Moment(self.0.saturating_add(millis(span)))
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Moment({}ms)", self.0)
    }
}

impl From<Moment> for std::time::SystemTime {
    fn from(moment: Moment) -> Self {
        UNIX_EPOCH + Duration::from_millis(moment.0)
    }
}

/// The clock that deadlines are judged by. It never goes backwards, even if an operator
/// changes the wall clock. [`follow`](Self::follow) is the one exception.
pub trait Clock: Send + Sync + 'static {
    /// Not before any moment that it returned earlier.
    fn now(&self) -> Moment;

    /// Moves the clock forward to `moment`, if it is behind. Called once, before the clock
    /// is first read: the stored data was written at `moment`.
    fn not_before(&self, moment: Moment);

    /// Aligns this clock with the clock of the shared store, which is now between
    /// `earliest` and `latest`. Only this call can make the clock go backwards.
    fn follow(&self, earliest: Moment, latest: Moment);
}
