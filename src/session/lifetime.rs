//! Lifetimes: when a session ends, and when a touch needs a write.

use std::time::Duration;

use super::{clock::Moment, cookie::MAX_AGE_LIMIT};

/// The longest idle timeout: as long as a browser keeps a cookie (RFC 6265bis).
pub const MAX_DURATION: Duration = MAX_AGE_LIMIT;

/// How far past the promised end a deadline is stored. A busy session then costs one write
/// per granularity, not one per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// A 64th of the idle timeout, at most 60 s.
    Auto,
    /// At most the idle timeout; a longer one is cut to it.
    Fixed(Duration),
}

impl Granularity {
    /// The part of the idle timeout that [`Auto`](Self::Auto) takes.
    pub const AUTO_FRACTION: u32 = 64;
    /// The most that [`Auto`](Self::Auto) takes.
    pub const AUTO_LIMIT: Duration = Duration::from_secs(60);

    /// The granularity for an idle timeout of `duration`; never more than `duration`.
    pub fn of(self, duration: Duration) -> Duration {
        match self {
            Self::Auto => (duration / Self::AUTO_FRACTION).min(Self::AUTO_LIMIT),
            Self::Fixed(granularity) => granularity.min(duration),
        }
    }
}

/// The times in a record that decide when its session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The absolute timeout counts from here.
    pub create_time: Moment,
    /// When the session ends, unless its absolute timeout comes first.
    pub deadline: Moment,
    /// The session's own idle timeout; `None`: the engine's.
    pub duration: Option<Duration>,
}

/// How long the sessions of an engine live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// The idle timeout (OWASP), unless the session has its own.
    pub duration: Duration,
    /// How far ahead deadlines are stored.
    pub granularity: Granularity,
    /// The absolute timeout (OWASP), counted from creation. No touch extends it.
    pub absolute: Option<Duration>,
}

impl Lifetime {
    /// The idle timeout of a session: its `own`, if it has one, else the engine's.
    pub fn duration(&self, own: Option<Duration>) -> Duration {
        own.unwrap_or(self.duration)
    }

    /// When the session ends, unless it is touched before.
    pub fn expire_time(&self, times: Times) -> Moment {
        times.deadline.min(self.end(times.create_time))
    }

    /// At its deadline a session has expired already.
    pub fn has_expired(&self, times: Times, now: Moment) -> bool {
        now >= self.expire_time(times)
    }

    /// The deadline to store at `now`: one granularity past the promised end, and never past
    /// the absolute timeout.
    pub fn deadline(&self, create_time: Moment, own: Option<Duration>, now: Moment) -> Moment {
        let duration = self.duration(own);
        (now + duration + self.granularity.of(duration)).min(self.end(create_time))
    }

    /// The deadline that a touch at `now` must store. `None` if the stored deadline already
    /// gives the session its idle timeout from `now`.
    pub fn slide(&self, times: Times, now: Moment) -> Option<Moment> {
        let promised = (now + self.duration(times.duration)).min(self.end(times.create_time));
        (times.deadline < promised).then(|| self.deadline(times.create_time, times.duration, now))
    }

    /// The times after a use at `now` that may set the session's own idle timeout. `None` if
    /// they stay as they are. Only a change of the idle timeout makes the deadline earlier.
    pub fn touched(&self, times: Times, own: Option<Duration>, now: Moment) -> Option<Times> {
        if own.is_some() && own != times.duration {
            let deadline = self.deadline(times.create_time, own, now);
            return Some(Times { deadline, duration: own, ..times });
        }
        self.slide(times, now).map(|deadline| Times { deadline, ..times })
    }

    /// When the session was last used, computed from the deadline: exact to the granularity,
    /// and never later than it was. Earlier if the absolute timeout has cut the deadline short.
    pub fn last_use_time(&self, times: Times) -> Moment {
        self.last_slide(times).max(times.create_time)
    }

    /// When the deadline was last moved, computed from the deadline. The result is too early
    /// if the absolute timeout has cut the deadline short.
    pub fn last_slide(&self, times: Times) -> Moment {
        let duration = self.duration(times.duration);
        times.deadline.before(duration + self.granularity.of(duration))
    }

    fn end(&self, create_time: Moment) -> Moment {
        match self.absolute {
            Some(absolute) => create_time + absolute,
            None => Moment::from_unix_millis(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn auto_granularity_is_a_64th_and_at_most_a_minute() {
        let of = |secs| Granularity::Auto.of(Duration::from_secs(secs));
        assert_eq!(of(64), Duration::from_secs(1));
        assert_eq!(of(1800), Duration::from_millis(28_125));
        assert_eq!(of(64 * 3600), Duration::from_secs(60));
        let fixed = Granularity::Fixed(Duration::from_secs(9));
        assert_eq!(fixed.of(Duration::from_secs(5)), Duration::from_secs(5));
    }

    proptest! {
        /// A random series of touches. After each the session lives for `duration`, at most
        /// one granularity longer, and never past the absolute timeout.
        #[test]
        fn never_early_and_at_most_one_granularity_late(
            duration_ms in 1u64..100_000, own_ms in proptest::option::of(1u64..100_000),
            granularity_ms in proptest::option::of(0u64..200_000),
            absolute_ms in proptest::option::of(1u64..400_000),
            steps in proptest::collection::vec(0u64..150_000, 1..40),
        ) {
            let millis = Duration::from_millis;
            let lifetime = Lifetime {
                duration: millis(duration_ms),
                granularity: granularity_ms.map_or(Granularity::Auto, |ms| Granularity::Fixed(millis(ms))),
                absolute: absolute_ms.map(millis),
            };
            let own = own_ms.map(millis);
            let idle = lifetime.duration(own);
            let granularity = lifetime.granularity.of(idle);
            let created = Moment::from_unix_millis(1_000);
            let end = absolute_ms.map_or(Moment::from_unix_millis(u64::MAX), |ms| created + millis(ms));
            let mut times = Times {
                create_time: created,
                deadline: lifetime.deadline(created, own, created),
                duration: own,
            };
            let (mut now, mut touched) = (created, created);
            for step in steps {
                now = now + millis(step);
                let promised = (touched + idle).min(end);
                let latest = (touched + idle + granularity).min(end);
                let over = lifetime.has_expired(times, now);
                prop_assert!(!over || now >= promised, "expired early: {now:?} < {promised:?}");
                prop_assert!(over || now < latest, "lived past {latest:?}");
                if over {
                    break;
                }
                if let Some(deadline) = lifetime.slide(times, now) {
                    prop_assert!(deadline > times.deadline, "a touch never shortens");
                    times.deadline = deadline;
                }
                touched = now;
            }
        }
    }
}
