//! How long things take: histograms that cost next to nothing to write to.
//!
//! Each duration is two additions to counters that threads seldom share, so an operation that
//! takes microseconds can be timed as well. Whoever keeps the metrics reads them
//! ([`Timings::totals`]).

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// The upper bounds of the buckets in nanoseconds: from a hit in memory to a disk that is in
/// trouble. Longer durations have a bucket of their own.
pub const BOUNDS_NANOS: [u64; 22] = [
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
];

const BUCKETS: usize = BOUNDS_NANOS.len() + 1;

/// More threads than this share counters.
const MOST_STRIPES: usize = 16;

/// Durations, counted by how long they are.
#[derive(Debug)]
pub struct Timings {
    /// A power of two of them.
    stripes: Box<[Stripe]>,
}

/// Apart from the next one, so that two threads do not fight for a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    counts: [AtomicU64; BUCKETS],
    sum_nanos: AtomicU64,
}

/// What was counted so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// How many durations there were in each bucket, and above the last bound.
    pub counts: [u64; BUCKETS],
    /// The sum of all durations, in nanoseconds.
    pub sum_nanos: u64,
}

impl Default for Timings {
    /// For what takes long or is rare.
    fn default() -> Self {
        Self::with_stripes(1)
    }
}

impl Timings {
    /// For what all threads do all the time.
    pub fn striped() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_stripes(cores.next_power_of_two().min(MOST_STRIPES))
    }

    fn with_stripes(count: usize) -> Self {
        Self { stripes: (0..count).map(|_| Stripe::default()).collect() }
    }

    /// Counts one duration.
    pub fn observe(&self, elapsed: Duration) {
        // Without `as_nanos`, whose 128 bits cost more than the rest.
        let seconds = elapsed.as_secs().saturating_mul(1_000_000_000);
        let nanos = seconds.saturating_add(elapsed.subsec_nanos().into());
        let stripe = &self.stripes[thread_number() & (self.stripes.len() - 1)];
        stripe.counts[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        stripe.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for stripe in &self.stripes {
            for (total, count) in totals.counts.iter_mut().zip(&stripe.counts) {
                *total += count.load(Ordering::Relaxed);
            }
            let nanos = stripe.sum_nanos.load(Ordering::Relaxed);
            totals.sum_nanos = totals.sum_nanos.wrapping_add(nanos);
        }
        totals
    }
}

/// The first bucket that is not below. Nearly all durations are in one of the first.
fn bucket(nanos: u64) -> usize {
    BOUNDS_NANOS.iter().position(|bound| nanos <= *bound).unwrap_or(BOUNDS_NANOS.len())
}

/// A small number, another one for each of the threads that began to count last.
fn thread_number() -> usize {
    const NONE: usize = usize::MAX;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: Cell<usize> = const { Cell::new(NONE) });
    match NUMBER.get() {
        NONE => {
            let number = NEXT.fetch_add(1, Ordering::Relaxed) % MOST_STRIPES;
            NUMBER.set(number);
            number
        }
        number => number,
    }
}

/// Times what is done one after the other, with one reading of the clock for each: where one
/// thing ends, the next one begins.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    last: Instant,
}

impl Stopwatch {
    /// The first thing begins now.
    pub fn start() -> Self {
        Self { last: Instant::now() }
    }

    /// One thing has ended, and the next one begins. Returns how long the one took.
    pub fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now.saturating_duration_since(std::mem::replace(&mut self.last, now))
    }

    /// How long it has taken so far.
    pub fn elapsed(&self) -> Duration {
        self.last.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_up_to_their_bound() {
        let timings = Timings::default();
        for nanos in [0, 500, 501, 1_000, 4_999_999_999, 5_000_000_000, 5_000_000_001] {
            timings.observe(Duration::from_nanos(nanos));
        }
        let Totals { counts, sum_nanos } = timings.totals();
        assert_eq!(counts[..3], [2, 2, 0]);
        assert_eq!(counts[BUCKETS - 2..], [2, 1], "the last one is above all bounds");
        assert_eq!(counts.iter().sum::<u64>(), 7);
        assert_eq!(sum_nanos, 15_000_002_001);
        timings.observe(Duration::MAX);
        assert_eq!(timings.totals().counts[BUCKETS - 1], 2);
    }

    #[test]
    fn bounds_grow() {
        assert!(BOUNDS_NANOS.is_sorted(), "{BOUNDS_NANOS:?}");
        assert_eq!(Timings::striped().stripes.len().count_ones(), 1, "a power of two");
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let timings = Timings::striped();
        std::thread::scope(|scope| {
            for _ in 0..2 * MOST_STRIPES {
                scope.spawn(|| (0..100).for_each(|_| timings.observe(Duration::from_nanos(700))));
            }
        });
        let Totals { counts, sum_nanos } = timings.totals();
        assert_eq!(counts[1], 200 * MOST_STRIPES as u64);
        assert_eq!(sum_nanos, 700 * counts[1]);
    }

    #[test]
    fn laps_follow_one_another() {
        let all = Instant::now();
        let mut watch = Stopwatch::start();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(2) {}
        let (first, second) = (watch.lap(), watch.lap());
        // However long this thread was made to wait in between: no time is counted twice.
        assert!(first >= Duration::from_millis(2), "{first:?}, then {second:?}");
        let all = all.elapsed();
        assert!(first + second <= all, "{first:?}, then {second:?}, within {all:?}");
    }
}
