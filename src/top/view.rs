//! What is shown: rates and latencies between two looks, and the last events.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use sessiond::grpc::pb::{
    DaemonState, GetStatusResponse, SessionEndCause, SessionEventKind, WatchSessionsResponse,
};

use super::feed::News;
use crate::{
    client::Problem,
    openmetrics::{Page, quantile},
    table::{bytes, printable, span, system_time},
};

const MOST_EVENTS: usize = 200;
const MOST_RATES: usize = 600;

/// What is shown.
pub(super) struct View {
    pub address: String,
    pub interval: Duration,
    pub is_paused: bool,
    /// Why the daemon does not answer.
    pub away: Option<Problem>,
    pub daemon: Option<Daemon>,
    /// Operations a second, the latest one last.
    pub rates: VecDeque<u64>,
    /// The latest one first.
    pub events: VecDeque<EventLine>,
    /// Why no events come.
    pub no_events: Option<Problem>,
    last: Option<(Instant, Page)>,
}

/// The daemon at the last look.
pub(super) struct Daemon {
    pub version: String,
    pub state: DaemonState,
    pub reason: String,
    pub up: String,
    pub store: String,
    pub connections: u64,
    pub watchers: u64,
    pub held: String,
    pub rpcs: Vec<Work>,
    pub outcomes: Vec<(String, f64)>,
    pub store_work: Vec<Work>,
    pub engines: Vec<EngineLine>,
}

/// Work of one kind between two looks.
pub(super) struct Work {
    pub name: String,
    pub rate: f64,
    pub failures: f64,
    /// In seconds; `None`: nothing was timed.
    pub median: Option<f64>,
    pub p99: Option<f64>,
}

pub(super) struct EngineLine {
    pub name: String,
    pub stored: Option<u64>,
    pub created: f64,
    pub ended: f64,
    pub swept: f64,
}

pub(super) struct EventLine {
    /// Of the day, to seconds.
    pub time: String,
    pub kind: &'static str,
    pub engine: String,
    pub session: String,
    pub principal: String,
}

impl View {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            interval: Duration::from_secs(1),
            is_paused: false,
            away: None,
            daemon: None,
            rates: VecDeque::new(),
            events: VecDeque::new(),
            no_events: None,
            last: None,
        }
    }

    /// Takes in what is new. While it is paused, what is shown stays.
    pub(super) fn take(&mut self, news: News, now: Instant) {
        match news {
            News::Away(problem) => {
                self.away = Some(problem);
                // Counters begin anew with the process.
                self.last = None;
            }
            News::Events(begun) => self.no_events = begun.err(),
            _ if self.is_paused => {}
            News::Event(event) => {
                self.events.push_front(event_line(&event));
                self.events.truncate(MOST_EVENTS);
            }
            News::Status(status) => {
                self.away = None;
                self.look(&status, now);
            }
        }
    }

    fn look(&mut self, status: &GetStatusResponse, now: Instant) {
        let page = Page::parse(&status.metrics);
        let nothing = Page::default();
        let (before, seconds) = match &self.last {
            Some((at, before)) => (before, now.duration_since(*at).as_secs_f64()),
            // There is no rate yet.
            None => (&nothing, f64::INFINITY),
        };
        let looks = Looks { before, now: &page, seconds };
        let number = |name: &str| page.sum(name, &[]).unwrap_or_default();
        let daemon = Daemon {
            version: status.version.clone(),
            state: status.state(),
            reason: status.reason.clone(),
            up: span(status.start_time.as_ref(), status.status_time.as_ref()),
            store: status.store.clone(),
            connections: number("sessiond_connections") as u64,
            watchers: number("sessiond_watchers") as u64,
            held: bytes(number("sessiond_held_bytes")),
            rpcs: looks.rpcs(),
            outcomes: looks.outcomes(),
            store_work: looks.store_work(),
            engines: status
                .engines
                .iter()
                .map(|engine| looks.engine(&engine.name, engine.stored_count))
                .collect(),
        };
        if self.last.is_some() {
            let rate: f64 = daemon.rpcs.iter().map(|work| work.rate).sum();
            self.rates.push_back(rate.round() as u64);
            let excess = self.rates.len().saturating_sub(MOST_RATES);
            self.rates.drain(..excess);
        }
        self.daemon = Some(daemon);
        self.last = Some((now, page));
    }
}

/// Two looks at the metrics.
struct Looks<'l> {
    before: &'l Page,
    now: &'l Page,
    seconds: f64,
}

impl Looks<'_> {
    /// How often a second a counter was counted.
    fn rate(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let of = |page: &Page| page.sum(name, labels).unwrap_or_default();
        (of(self.now) - of(self.before)).max(0.0) / self.seconds
    }

    fn work(
        &self,
        name: &str,
        histogram: &str,
        labels: &[(&str, &str)],
        failures: f64,
        rate: f64,
    ) -> Work {
        let buckets = |page: &Page| page.buckets(histogram, labels);
        let (before, now) = (buckets(self.before), buckets(self.now));
        // Without a look before, it would be of all the time since the start.
        let of = |share| quantile(share, &before, &now).filter(|_| self.seconds.is_finite());
        Work { name: name.to_owned(), rate, failures, median: of(0.5), p99: of(0.99) }
    }

    fn rpcs(&self) -> Vec<Work> {
        let names = self.now.by("sessiond_request_duration_seconds_count", &[], "rpc");
        let work = |rpc: &str| {
            let labels = [("rpc", rpc)];
            let states = self.now.by("sessiond_requests_total", &labels, "state");
            let failures = states.keys().filter(|state| is_failure(state)).map(|state| {
                self.rate("sessiond_requests_total", &[("rpc", rpc), ("state", state.as_str())])
            });
            let rate = self.rate("sessiond_requests_total", &labels);
            self.work(rpc, "sessiond_request_duration_seconds", &labels, failures.sum(), rate)
        };
        names.keys().map(|rpc| work(rpc)).collect()
    }

    /// How operations ended, the most frequent first.
    fn outcomes(&self) -> Vec<(String, f64)> {
        let states = self.now.by("sessiond_requests_total", &[], "state");
        let mut outcomes: Vec<_> = states
            .into_keys()
            .map(|state| {
                let rate = self.rate("sessiond_requests_total", &[("state", state.as_str())]);
                (state, rate)
            })
            .collect();
        outcomes.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
        outcomes
    }

    fn store_work(&self) -> Vec<Work> {
        let histogram = "sessiond_store_duration_seconds";
        let count = format!("{histogram}_count");
        let operations = self.now.by(&count, &[], "operation");
        let work = |operation: &str| {
            let labels = [("operation", operation)];
            let failures = self.rate("sessiond_store_errors_total", &labels);
            self.work(operation, histogram, &labels, failures, self.rate(&count, &labels))
        };
        let recalled = Work {
            name: "recall".to_owned(),
            rate: self.rate("sessiond_store_recalled_total", &[]),
            failures: 0.0,
            median: None,
            p99: None,
        };
        [recalled].into_iter().chain(operations.keys().map(|operation| work(operation))).collect()
    }

    fn engine(&self, name: &str, stored: Option<u64>) -> EngineLine {
        let rate = |counter: &str| self.rate(counter, &[("engine", name)]);
        EngineLine {
            name: name.to_owned(),
            stored,
            created: rate("sessiond_sessions_created_total"),
            ended: rate("sessiond_sessions_destroyed_total"),
            swept: rate("sessiond_sessions_swept_total"),
        }
    }
}

/// Whether a state is the reason of an error. The others say what became of a credential.
fn is_failure(state: &str) -> bool {
    !["ACTIVE", "CREATED", "NONE", "INVALID", "NOT_FOUND", "SUPERSEDED", "EXPIRED"].contains(&state)
}

fn event_line(event: &WatchSessionsResponse) -> EventLine {
    let time = system_time(event.event_time.as_ref());
    let time =
        time.map_or_else(String::new, |time| humantime::format_rfc3339_seconds(time).to_string());
    let kind = match (event.kind(), event.cause()) {
        (SessionEventKind::Unspecified, _) => "unknown",
        (SessionEventKind::Created, _) => "created",
        (SessionEventKind::Rolled, _) => "rolled",
        (SessionEventKind::Expired, _) => "expired",
        (SessionEventKind::Destroyed, SessionEndCause::Revoked) => "revoked",
        (SessionEventKind::Destroyed, SessionEndCause::Limit) => "ended by the limit",
        (SessionEventKind::Destroyed, SessionEndCause::Scope) => "ended by another",
        (SessionEventKind::Destroyed, _) => "ended",
    };
    let principal = match event.principal.is_empty() {
        true => "(nobody)".to_owned(),
        false => printable(&event.principal),
    };
    EventLine {
        time: time.get(11..19).unwrap_or_default().to_owned(),
        kind,
        engine: event.engine.clone(),
        session: event.session_id.clone(),
        principal,
    }
}
