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
    pub const fn from_unix_millis(millis: u64) -> Self {
        Self(millis)
    }

    pub const fn unix_millis(self) -> u64 {
        self.0
    }

    /// So long before this, rounded as [`add`](Add::add) rounds; the beginning of
    /// time when that is nearer.
    pub fn before(self, span: Duration) -> Moment {
        Moment(self.0.saturating_sub(millis(span)))
    }

    /// How long after `earlier` this is; zero when it is before.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Rounded up. Not by way of all its nanoseconds: to divide these, which have 128
/// bits, takes longer than the rest of a look at the clock.
fn millis(span: Duration) -> u64 {
    let below_a_second = span.subsec_nanos().div_ceil(1_000_000);
    span.as_secs().saturating_mul(1000).saturating_add(below_a_second.into())
}

impl Add<Duration> for Moment {
    type Output = Moment;

    /// Rounds up to a whole millisecond, so that nothing ends early, and stops
    /// at the end of time instead of wrapping round.
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

/// Tells the time. Two readings never go backwards, whatever an operator does
/// to the wall clock meanwhile: deadlines are judged by it. See [`follow`](Self::follow).
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Moment;

    /// Moves the clock on to `moment`, if it is behind. Called once, before the
    /// clock is read: what is stored was written at `moment`.
    fn not_before(&self, moment: Moment);

    /// Brings the clock into line with another one, by which all judge who share a
    /// store: there it is between these two moments by now. The one case in which
    /// a reading may be before an earlier one.
    fn follow(&self, earliest: Moment, latest: Moment);
}
