//! Moments, and the clock they come from.
//!
//! Sessions have a clock of their own. Deadlines are [`Moment`]s of it, and it never steps:
//! so no change of the wall clock can end a session. What people and other programs read is
//! a [`WallTime`], which is made from a moment with the current [`WallOffset`]. If somebody
//! corrects the wall clock, only the offset changes.

use std::{
    fmt,
    ops::Add,
    time::{Duration, UNIX_EPOCH},
};

/// A point in time on the clock of the sessions: milliseconds since its epoch. That is the
/// Unix epoch if the wall clock was right when the clock was first started.
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

/// A point in time on the wall clock: milliseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(u64);

impl WallTime {
    /// For what a clock shows, or a time that was sent.
    pub const fn from_unix_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Never negative: there is no time before the epoch.
    pub const fn unix_millis(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this one. Zero if `earlier` is later.
    pub fn since(self, earlier: WallTime) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for WallTime {
    type Output = WallTime;

    /// Rounds up to a whole millisecond. Stops at the latest time instead of wrapping around.
    fn add(self, span: Duration) -> WallTime {
        WallTime(self.0.saturating_add(millis(span)))
    }
}

impl fmt::Debug for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WallTime({}ms)", self.0)
    }
}

impl From<WallTime> for std::time::SystemTime {
    fn from(time: WallTime) -> Self {
        UNIX_EPOCH + Duration::from_millis(time.0)
    }
}

/// How many milliseconds the wall clock is ahead of the clock of the sessions; negative:
/// behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WallOffset(i64);

impl WallOffset {
    /// The two clocks show the same.
    pub const ZERO: Self = Self(0);

    /// For an offset that was stored.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Positive if the wall clock is ahead.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// The offset at a moment when the wall clock shows `wall`.
    pub fn between(now: Moment, wall: WallTime) -> Self {
        let ahead = i128::from(wall.0) - i128::from(now.0);
        Self(ahead.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
    }

    /// What the wall clock shows at `moment`. Stops at the Unix epoch and at the latest time.
    pub const fn wall(self, moment: Moment) -> WallTime {
        WallTime(moment.0.saturating_add_signed(self.0))
    }

    /// The moment at which the wall clock shows `wall`. Stops as [`wall`](Self::wall) does.
    pub const fn moment(self, wall: WallTime) -> Moment {
        Moment(match self.0 {
            0.. => wall.0.saturating_sub(self.0.unsigned_abs()),
            _ => wall.0.saturating_add(self.0.unsigned_abs()),
        })
    }
}

/// What a database keeps of the time, so that the next start continues from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeMark {
    /// What the clock of the sessions showed.
    pub now: Moment,
    /// How its moments were shown.
    pub offset: WallOffset,
    /// What tells how long ago that was. `None`: only the wall clock can tell.
    pub evidence: Option<Evidence>,
}

/// What the clocks of the machine showed at the moment of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// What the wall clock showed.
    pub wall: WallTime,
    /// The wall clock was known to be right, because it follows a time server.
    pub is_synchronized: bool,
    /// Names the boot of the machine. `None`: the system does not tell.
    pub boot: Option<[u8; 16]>,
    /// The time since that boot, suspend included.
    pub since_boot: Duration,
}

/// The clock that deadlines are judged by. It never goes backwards and never steps, even if
/// an operator changes the wall clock. [`follow`](Self::follow) is the one exception.
///
/// A clock without a wall clock beside it implements only `now` and `follow`.
pub trait Clock: Send + Sync + 'static {
    /// Not before any moment that it returned earlier.
    fn now(&self) -> Moment;

    /// How to show a moment of this clock to people and to other programs.
    fn wall_offset(&self) -> WallOffset {
        WallOffset::ZERO
    }

    /// Aligns this clock with the clock of the shared store, which is now between
    /// `earliest` and `latest`. Only this call can make the clock go backwards.
    fn follow(&self, earliest: Moment, latest: Moment);

    /// Continues from the mark of the database. Called at most once, before the clock is
    /// first read.
    fn resume(&self, mark: TimeMark) {
        let _ = mark;
    }

    /// What the database should keep now.
    fn mark(&self) -> TimeMark {
        TimeMark { now: self.now(), offset: self.wall_offset(), evidence: None }
    }

    /// Looks at the wall clock, and changes the offset if somebody has set it. Returns
    /// whether that has happened. Called every second.
    fn follow_wall(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_moment_is_shown_and_read_again(now in 0..1u64 << 62, moment in 0..1u64 << 62, wall in 0..1u64 << 62) {
            let offset = WallOffset::between(Moment(now), WallTime(wall));
            prop_assert_eq!(offset.wall(Moment(now)), WallTime(wall));
            prop_assert_eq!(offset.moment(WallTime(wall)), Moment(now));
            let shown = offset.wall(Moment(moment));
            // Times before 1970 cannot be shown.
            if shown > WallTime(0) {
                prop_assert_eq!(offset.moment(shown), Moment(moment));
            }
        }

        #[test]
        fn any_numbers_are_taken(now in any::<u64>(), wall in any::<u64>(), other in any::<u64>()) {
            let offset = WallOffset::between(Moment(now), WallTime(wall));
            let _ = (offset.wall(Moment(other)), offset.moment(WallTime(other)));
        }
    }
}
