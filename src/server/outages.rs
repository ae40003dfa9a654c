//! Limits what is logged about a failing store.
//!
//! Every caller gets the error, and a store that is down fails thousands of calls a
//! second. So the log gets one line when an outage begins, one per minute while it
//! lasts, and one when it ends. An outage ends when the store works and has not failed
//! for [`QUIET`], so that occasional failures do not fill the log either. A store may be able
//! to read and take no changes: so an outage of changes ends when a change works. Each record
//! that cannot be read gets a line of its own, up to a limit per minute.
//!
//! Overload is only counted, and a full store logs that itself.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::session::store::{StoreError, StoreErrorKind};

/// How long a store must work without a failure until its outage is over.
const QUIET: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);
/// How many unreadable records are logged per minute.
const MAX_UNREADABLE_LOGGED: u32 = 10;

/// What a store does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Reading,
    Changing,
}

/// The state of one engine's store.
pub(super) struct Outages {
    engine: String,
    /// Whether there is an outage. While the store works, only this is read.
    fails: AtomicBool,
    outage: Mutex<Option<Outage>>,
    unreadable: Mutex<Option<Unreadable>>,
}

struct Outage {
    began: Instant,
    last_failure: Instant,
    /// The last failure of each kind of work, unless that works again.
    failing: [Option<Instant>; 2],
    last_logged: Instant,
    failures: u64,
}

struct Unreadable {
    minute_began: Instant,
    logged: u32,
    not_logged: u64,
}

impl Outages {
    pub(super) fn new(engine: &str) -> Self {
        Self {
            engine: engine.to_owned(),
            fails: AtomicBool::new(false),
            outage: Mutex::new(None),
            unreadable: Mutex::new(None),
        }
    }

    /// Call it after each success of the store.
    pub(super) fn worked(&self, work: Work, now: impl FnOnce() -> Instant) {
        if self.fails.load(Ordering::Relaxed) {
            self.may_be_over(work, now());
        }
    }

    pub(super) fn failed(&self, work: Work, error: &StoreError, now: Instant) {
        match error.kind {
            StoreErrorKind::Unavailable => self.unavailable(work, error, now),
            StoreErrorKind::Unreadable => self.unreadable(error, now),
            StoreErrorKind::Overloaded | StoreErrorKind::Full => {}
        }
    }

    fn unavailable(&self, work: Work, error: &StoreError, now: Instant) {
        let (engine, cause) = (&self.engine, cause(error));
        let mut outage = self.outage.lock();
        let Some(outage) = outage.as_mut() else {
            let mut failing = [None; 2];
            failing[work as usize] = Some(now);
            let (began, last_failure, last_logged) = (now, now, now);
            *outage = Some(Outage { began, last_failure, failing, last_logged, failures: 1 });
            self.fails.store(true, Ordering::Relaxed);
            tracing::error!(
                engine,
                cause,
                "the store fails; logged once a minute while it does: {error}"
            );
            return;
        };
        outage.failures += 1;
        outage.last_failure = now;
        outage.failing[work as usize] = Some(now);
        if now.saturating_duration_since(outage.last_logged) >= MINUTE {
            outage.last_logged = now;
            let failures = outage.failures;
            tracing::error!(engine, cause, failures, "the store still fails: {error}");
        }
    }

    fn may_be_over(&self, work: Work, now: Instant) {
        let mut outage = self.outage.lock();
        let over = outage.take_if(|outage| {
            outage.failing[work as usize]
                .take_if(|last| now.saturating_duration_since(*last) >= QUIET);
            outage.failing == [None; 2]
        });
        if let Some(Outage { began, last_failure, failures, .. }) = over {
            self.fails.store(false, Ordering::Relaxed);
            let (engine, seconds) = (&self.engine, (last_failure - began).as_secs());
            tracing::info!(engine, failures, seconds, "the store works again");
        }
    }

    fn unreadable(&self, error: &StoreError, now: Instant) {
        let mut unreadable = self.unreadable.lock();
        let fresh = Unreadable { minute_began: now, logged: 0, not_logged: 0 };
        let is_over =
            |minute: &Unreadable| now.saturating_duration_since(minute.minute_began) >= MINUTE;
        let not_logged =
            unreadable.take_if(|minute| is_over(minute)).map_or(0, |minute| minute.not_logged);
        let minute = unreadable.get_or_insert(fresh);
        if minute.logged == MAX_UNREADABLE_LOGGED {
            minute.not_logged += 1;
            return;
        }
        minute.logged += 1;
        tracing::error!(engine = self.engine, cause = cause(error), not_logged, "{error}");
    }
}

fn cause(error: &StoreError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `work` logs.
    fn logged(work: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .finish();
        tracing::subscriber::with_default(log, work);
        let text = String::from_utf8(std::mem::take(&mut lines.0.lock())).expect("text");
        text.lines().map(|line| line.trim_start().to_owned()).collect()
    }

    fn away() -> StoreError {
        StoreError::unavailable("read a record", "nobody answers")
    }

    #[test]
    fn an_outage_is_two_lines() {
        let (outages, start) = (Outages::new("default"), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let lines = logged(|| {
            outages.worked(Work::Reading, || at(0));
            for call in 0..10_000 {
                outages.failed(Work::Reading, &away(), at(call));
            }
            outages.worked(Work::Reading, || at(19_999));
            outages.worked(Work::Reading, || at(20_000));
        });
        let expected = [
            "ERROR the store fails; logged once a minute while it does: the store could not read a record: \
             this says nothing about the session; try again engine=\"default\" cause=\"nobody answers\"",
            "INFO the store works again engine=\"default\" failures=10000 seconds=9",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_continuing_outage_is_logged_once_a_minute() {
        let (outages, start) = (Outages::new("default"), Instant::now());
        let lines = logged(|| {
            for second in 0..150 {
                let now = start + Duration::from_secs(second);
                outages.failed(Work::Reading, &away(), now);
                // Another part of the store works.
                outages.worked(Work::Reading, || now);
            }
        });
        assert_eq!(lines.len(), 3, "when it began, and after one minute and two: {lines:#?}");
        assert!(lines[1].contains("failures=61"), "{lines:#?}");
    }

    #[test]
    fn an_outage_of_changes_is_not_over_when_reading_works() {
        let (outages, start) = (Outages::new("default"), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let refused = || StoreError::unavailable("change a record", "it takes no changes");
        let lines = logged(|| {
            for call in 0..4 {
                outages.failed(Work::Changing, &refused(), at(call * 12));
                outages.worked(Work::Reading, || at(call * 12 + 11));
            }
            outages.worked(Work::Changing, || at(60));
        });
        assert_eq!(lines.len(), 2, "{lines:#?}");
        assert!(lines[1].contains("the store works again"), "{lines:#?}");
    }

    #[test]
    fn the_next_outage_is_logged_again() {
        let (outages, start) = (Outages::new("default"), Instant::now());
        let lines = logged(|| {
            outages.failed(Work::Reading, &away(), start);
            outages.worked(Work::Reading, || start + QUIET);
            outages.failed(Work::Reading, &away(), start + QUIET);
        });
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert!(lines[2].starts_with("ERROR"), "{lines:#?}");
    }

    #[test]
    fn many_unreadable_records_are_limited_and_counted() {
        let (outages, start) = (Outages::new("default"), Instant::now());
        let damaged = || StoreError::unreadable("read a record", "cut short");
        let lines = logged(|| {
            for _ in 0..1000 {
                outages.failed(Work::Reading, &damaged(), start);
            }
            outages.failed(Work::Reading, &damaged(), start + MINUTE);
            outages.worked(Work::Reading, || start + MINUTE);
        });
        assert_eq!(lines.len(), 11, "{lines:#?}");
        assert!(lines[10].contains("not_logged=990"), "{lines:#?}");
    }

    #[test]
    fn overload_and_a_full_store_are_not_logged_here() {
        let outages = Outages::new("default");
        let lines = logged(|| {
            outages.failed(Work::Reading, &StoreError::full("write", "full"), Instant::now());
            outages.failed(Work::Reading, &StoreError::overloaded("write", "busy"), Instant::now());
        });
        assert_eq!(lines, [""; 0]);
    }
}
