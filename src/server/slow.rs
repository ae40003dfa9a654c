//! Operations that took long: a line in the log for some of them.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::metrics::RequestMetrics;
use crate::{
    service::observer::{Observer, Outcome, Subject},
    session::engine::Engine,
};

const MINUTE: Duration = Duration::from_secs(60);
/// Lines in one minute: when a disk is in trouble, all operations are slow.
const MAX_LOGGED: u32 = 10;

/// Keeps the metrics, and logs what is slow.
pub(super) struct SlowLog {
    metrics: RequestMetrics,
    /// `log.slow`. `None`: nothing is logged.
    threshold: Option<Duration>,
    minute: Mutex<Minute>,
}

#[derive(Default)]
struct Minute {
    began: Option<Instant>,
    logged: u32,
    not_logged: u64,
}

impl SlowLog {
    pub(super) fn new(metrics: RequestMetrics, threshold: Option<Duration>) -> Self {
        Self { metrics, threshold, minute: Mutex::default() }
    }

    /// Whether to log one more, and then how many were not logged before.
    fn may_log(&self, now: Instant) -> Option<u64> {
        let mut minute = self.minute.lock();
        let mut not_logged = 0;
        if minute.began.is_none_or(|began| now.saturating_duration_since(began) >= MINUTE) {
            not_logged = minute.not_logged;
            *minute = Minute { began: Some(now), ..Minute::default() };
        }
        if minute.logged < MAX_LOGGED {
            minute.logged += 1;
            return Some(not_logged);
        }
        minute.not_logged += 1;
        None
    }

    #[cold]
    fn log(&self, subject: Subject<'_>, outcome: Outcome, elapsed: Duration) {
        // What the store has failed is told as an outage.
        if matches!(outcome, Outcome::Failed(_)) {
            return;
        }
        if let Some(not_logged) = self.may_log(Instant::now()) {
            let (rpc, state) = (subject.kind.name(), outcome.name());
            let engine = subject.engine.map(Engine::name);
            let took_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(rpc, engine, state, took_ms, not_logged, "a slow operation");
        }
    }
}

impl Observer for SlowLog {
    fn finished(&self, subject: Subject<'_>, outcome: Outcome, elapsed: Duration) {
        self.metrics.finished(subject, outcome, elapsed);
        if self.threshold.is_some_and(|threshold| elapsed >= threshold) {
            self.log(subject, outcome, elapsed);
        }
    }

    fn begun(&self, subject: Subject<'_>) {
        self.metrics.begun(subject);
    }

    fn ended(&self, subject: Subject<'_>) {
        self.metrics.ended(subject);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{server::metrics::Metrics, service::engines::Engines};

    #[test]
    fn ten_lines_a_minute_are_logged() {
        let metrics = Metrics::new().of_requests(&Engines::new(Default::default()));
        let slow = SlowLog::new(metrics, Some(Duration::from_secs(1)));
        let start = Instant::now();
        let at = |seconds| slow.may_log(start + Duration::from_secs(seconds));
        let logged = (0..25).filter(|second| at(*second).is_some());
        assert_eq!(logged.count(), 10);
        assert_eq!(at(59), None);
        assert_eq!(at(60), Some(16), "those that were not logged are counted");
        assert_eq!(at(61), Some(0));
    }
}
