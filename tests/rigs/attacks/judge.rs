//! What was measured of an attack, and whether that is good enough.
//!
//! Machines differ and are noisy. So a time is held against the bystander's own times of
//! the same run, without the attack, and each of both is a median over several windows: one
//! window that the machine has spoiled decides nothing. Memory is exact, and held to exactly.

use std::{fmt, time::Duration};

use crate::rig::Form;

pub(super) const MIB: u64 = 1 << 20;

/// How the bystander fared for a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub p50: Duration,
    pub p99: Duration,
}

impl Window {
    /// Of the times of single calls; `None`: there were none.
    pub(super) fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let at = |percent: usize| times.get((times.len() * percent).div_ceil(100).max(1) - 1);
        Some(Self { p50: *at(50)?, p99: *at(99)? })
    }
}

/// The median, the higher one of two.
pub(super) fn median(times: impl IntoIterator<Item = Duration>) -> Option<Duration> {
    let mut times: Vec<_> = times.into_iter().collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// Where somebody new comes in. The tables name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// A new connection and its first Resolve.
    Sessions,
    /// The liveness probe: a new connection to the admin listener, and Health/Check.
    Health,
    /// A scrape of the metrics.
    Metrics,
}

/// How long somebody new had to wait at a door; `None`: longer than the rig's patience.
#[derive(Debug, Clone, Copy)]
pub(super) struct Newcomer {
    pub door: Door,
    pub took: Option<Duration>,
}

/// Resident bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    pub first: u64,
    pub most: u64,
    /// When the peers are gone, and some time has passed.
    pub after: u64,
}

/// All that is known of an attack when it is over.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub quiet: Vec<Window>,
    pub during: Vec<Window>,
    pub newcomers: Vec<Newcomer>,
    pub memory: Memory,
    pub log_lines: usize,
    /// What is wrong whatever the figures are: a bystander's call that failed, say.
    pub findings: Vec<String>,
}

impl Measured {
    fn median_of(windows: &[Window], time: fn(&Window) -> Duration) -> Option<Duration> {
        median(windows.iter().map(time))
    }

    /// The median wait at a door; `None`: most did not get in.
    fn wait(&self, door: Door) -> Option<Duration> {
        let at_door = self.newcomers.iter().filter(|newcomer| newcomer.door == door);
        median(at_door.map(|newcomer| newcomer.took.unwrap_or(Duration::MAX)))
            .filter(|wait| *wait != Duration::MAX)
    }
}

/// What an attack may do at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The bystander's median, to that of its own noise.
    pub p50_times: u32,
    /// Beyond that. Below it a difference is one of scheduling.
    pub p50_beyond: Duration,
    /// Of the bystander's 99th percentile, beyond its own noise.
    pub p99_beyond: Duration,
    pub newcomer: Duration,
    /// Resident, beyond what was before.
    pub more_bytes: u64,
    /// Resident afterwards, to what was before.
    pub after_percent: u64,
    /// Beyond that: the allocator's arenas of threads that had nothing to do before.
    pub after_beyond_bytes: u64,
    pub log_lines: usize,
}

impl Limits {
    /// Of the release build, on a machine that does nothing else.
    pub(super) const STRICT: Self = Self {
        p50_times: 3,
        p50_beyond: Duration::from_micros(100),
        p99_beyond: Duration::from_millis(25),
        newcomer: Duration::from_secs(1),
        more_bytes: 64 * MIB,
        after_percent: 150,
        after_beyond_bytes: 8 * MIB,
        log_lines: 100,
    };

    /// The shorter forms run builds without optimization beside other rigs. A frame costs many
    /// times more there, so times only tell what is far off. Memory is held to as strictly.
    pub(super) fn of(form: Form) -> Self {
        let lenient = Self {
            p50_times: 6,
            p50_beyond: Duration::from_millis(100),
            p99_beyond: Duration::from_millis(400),
            newcomer: Duration::from_secs(2),
            ..Self::STRICT
        };
        form.pick(lenient, lenient, Self::STRICT)
    }

    /// What is too much, one sentence each.
    pub(super) fn judge(&self, measured: &Measured) -> Vec<String> {
        let mut faults = measured.findings.clone();
        let of = Measured::median_of;
        let (quiet, during) = (&measured.quiet, &measured.during);
        match (of(quiet, |window| window.p50), of(during, |window| window.p50)) {
            (Some(quiet), Some(during)) => {
                let most = quiet * self.p50_times + self.p50_beyond;
                if during > most {
                    faults.push(format!(
                        "the bystander's p50 was {during:.2?} during the attack, expected at most \
                         {most:.2?} ({} times {quiet:.2?}, its own noise, and {:.2?})",
                        self.p50_times, self.p50_beyond
                    ));
                }
            }
            _ => faults.push("the bystander was never answered".to_owned()),
        }
        if let (Some(quiet), Some(during)) =
            (of(quiet, |window| window.p99), of(during, |window| window.p99))
            && during > quiet + self.p99_beyond
        {
            faults.push(format!(
                "the bystander's p99 was {during:.2?} during the attack, expected at most \
                 {:.2?} more than its own noise of {quiet:.2?}",
                self.p99_beyond
            ));
        }
        for door in [Door::Sessions, Door::Health, Door::Metrics] {
            let waited = match measured.wait(door) {
                Some(wait) if wait <= self.newcomer => continue,
                Some(wait) => format!("{wait:.2?}"),
                None => "longer than the rig waited".to_owned(),
            };
            faults.push(format!(
                "somebody new waited {waited} at {door:?} during the attack, expected at most \
                 {:.2?}",
                self.newcomer
            ));
        }
        let Memory { first, most, after } = measured.memory;
        if most > first + self.more_bytes {
            faults.push(format!(
                "resident memory rose from {} to {} MiB, expected at most {} MiB more",
                first / MIB,
                most / MIB,
                self.more_bytes / MIB
            ));
        }
        let kept = first * self.after_percent / 100 + self.after_beyond_bytes;
        if after > kept {
            faults.push(format!(
                "{} MiB were resident after the attack, expected at most {} MiB: {} before",
                after / MIB,
                kept / MIB,
                first / MIB
            ));
        }
        if measured.log_lines > self.log_lines {
            faults.push(format!(
                "the daemon logged {} lines, expected at most {}: each thing once",
                measured.log_lines, self.log_lines
            ));
        }
        faults
    }
}

/// The head of the table whose rows `Row` prints.
pub(super) const TABLE: &str = "\
| attack | bystander p50, ms | p99, ms | newcomer, ms: sessions, health, metrics | resident, MiB: first, most, after | held |
|---|---|---|---|---|---|";

/// A row of the table: what was measured, and how many limits were broken.
pub(super) struct Row<'a> {
    pub name: &'a str,
    pub measured: &'a Measured,
    pub faults: usize,
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measured = self.measured;
        let of = Measured::median_of;
        let (quiet, during) = (&measured.quiet, &measured.during);
        let Memory { first, most, after } = measured.memory;
        write!(
            f,
            "| {} | {} → {} | {} → {} | {}, {}, {} | {}, {}, {} | {} |",
            self.name,
            Millis(of(quiet, |window| window.p50)),
            Millis(of(during, |window| window.p50)),
            Millis(of(quiet, |window| window.p99)),
            Millis(of(during, |window| window.p99)),
            Millis(measured.wait(Door::Sessions)),
            Millis(measured.wait(Door::Health)),
            Millis(measured.wait(Door::Metrics)),
            first / MIB,
            most / MIB,
            after / MIB,
            if self.faults == 0 { "yes".to_owned() } else { format!("no: {}", self.faults) },
        )
    }
}

/// Milliseconds with as many digits as tell something; a dash for what did not end.
struct Millis(Option<Duration>);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.map(|time| time.as_secs_f64() * 1000.0) {
            None => f.write_str("–"),
            Some(millis) if millis < 1.0 => write!(f, "{millis:.2}"),
            Some(millis) if millis < 10.0 => write!(f, "{millis:.1}"),
            Some(millis) => write!(f, "{millis:.0}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(p50_micros: u64, p99_micros: u64) -> Window {
        Window { p50: Duration::from_micros(p50_micros), p99: Duration::from_micros(p99_micros) }
    }

    fn newcomers(millis: [u64; 3]) -> Vec<Newcomer> {
        let doors = [Door::Sessions, Door::Health, Door::Metrics];
        let one = |(door, millis)| Newcomer { door, took: Some(Duration::from_millis(millis)) };
        doors.into_iter().zip(millis).map(one).collect()
    }

    /// Just within every limit.
    fn good() -> Measured {
        Measured {
            quiet: vec![window(200, 1_000); 3],
            during: vec![window(700, 26_000); 6],
            newcomers: newcomers([1_000; 3]),
            memory: Memory { first: 20 * MIB, most: 84 * MIB, after: 38 * MIB },
            log_lines: 100,
            findings: Vec::new(),
        }
    }

    #[track_caller]
    fn expect_one(measured: &Measured, words: &str) {
        let faults = Limits::STRICT.judge(measured);
        assert_eq!(faults.len(), 1, "expected one fault, about {words:?}: {faults:?}");
        assert!(faults[0].contains(words), "expected {words:?} in {:?}", faults[0]);
    }

    #[test]
    fn what_is_within_the_limits_is_good() {
        assert_eq!(Limits::STRICT.judge(&good()), Vec::<String>::new());
    }

    #[test]
    fn each_limit_is_found_when_it_is_broken() {
        let bad = |change: fn(&mut Measured)| {
            let mut measured = good();
            change(&mut measured);
            measured
        };
        let slow = bad(|measured| measured.during = vec![window(701, 1_000); 6]);
        expect_one(&slow, "p50 was 701.00µs");
        let stalled = bad(|measured| measured.during = vec![window(700, 26_001); 6]);
        expect_one(&stalled, "p99 was 26.00ms");
        for (at, door) in ["Sessions", "Health", "Metrics"].into_iter().enumerate() {
            let mut late = good();
            late.newcomers[at].took = Some(Duration::from_millis(1_001));
            expect_one(&late, door);
            late.newcomers[at].took = None;
            expect_one(&late, door);
            late.newcomers.remove(at);
            expect_one(&late, door);
        }
        expect_one(&bad(|measured| measured.memory.most += 1), "expected at most 64 MiB more");
        expect_one(&bad(|measured| measured.memory.after += 1), "38 MiB were resident after");
        expect_one(&bad(|measured| measured.log_lines += 1), "logged 101 lines");
        expect_one(&bad(|measured| measured.findings.push("it died".to_owned())), "it died");
    }

    #[test]
    fn a_bystander_without_an_answer_is_a_fault() {
        for deaf in [Measured { during: vec![], ..good() }, Measured { quiet: vec![], ..good() }] {
            expect_one(&deaf, "never answered");
        }
    }

    #[test]
    fn a_window_that_the_machine_has_spoiled_decides_nothing() {
        let mut noisy = good();
        noisy.during[1] = window(90_000, 900_000);
        noisy.during[4] = window(90_000, 900_000);
        noisy.newcomers.extend(newcomers([10; 3]));
        noisy.newcomers.extend([Newcomer { door: Door::Sessions, took: None }]);
        assert_eq!(Limits::STRICT.judge(&noisy), Vec::<String>::new());
        // Nor does a quiet one that was too good or too bad.
        noisy.quiet[0] = window(90_000, 900_000);
        assert_eq!(Limits::STRICT.judge(&noisy), Vec::<String>::new());
        noisy.during = vec![window(90_000, 900_000); 6];
        assert_eq!(Limits::STRICT.judge(&noisy).len(), 2, "but most windows do");
    }

    #[test]
    fn the_short_form_finds_what_is_far_off_and_holds_memory_as_strictly() {
        let limits = Limits::of(Form::Short);
        assert_eq!(limits.more_bytes, Limits::STRICT.more_bytes);
        assert_eq!(limits.after_percent, Limits::STRICT.after_percent);
        let slow = Measured { during: vec![window(200_000, 900_000); 6], ..good() };
        assert_eq!(limits.judge(&slow).len(), 2, "p50 and p99");
        assert_eq!(limits.judge(&good()), Vec::<String>::new());
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<_> = (1..=100).rev().map(Duration::from_micros).collect();
        let window = Window::of(times).expect("there are times");
        assert_eq!((window.p50.as_micros(), window.p99.as_micros()), (50, 99));
        let one = Window::of(vec![Duration::from_micros(7)]).expect("there is one");
        assert_eq!((one.p50.as_micros(), one.p99.as_micros()), (7, 7));
        assert!(Window::of(Vec::new()).is_none());
    }
}
