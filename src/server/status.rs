//! How the daemon is: for operators, who call, and for probes over HTTP.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Addresses, Fitness,
    config::ListenAddr,
    metrics::{Metrics, Present},
};
use crate::{
    grpc::health::Serving,
    service::{
        engines::Engines,
        peer_memory::PeerMemory,
        status::{EngineStatus, ListenerStatus, State, Status, StatusSource},
        watchers::Watchers,
    },
    session::clock::{Clock, Moment},
    store::database::Database,
};

/// Collects what is told of the daemon.
pub(super) struct Reporter {
    pub metrics: Arc<Metrics>,
    pub engines: Engines,
    pub watchers: Arc<Watchers>,
    pub memory: Arc<PeerMemory>,
    /// How many connections are open.
    pub open: Box<dyn Fn() -> usize + Send + Sync>,
    /// How many may be open.
    pub connections_limit: usize,
    pub database: Arc<dyn Database>,
    pub clock: Arc<dyn Clock>,
    pub started: Moment,
    /// The kind of the store.
    pub store: &'static str,
    pub addresses: Addresses,
    /// Cancelled when the daemon stops.
    pub stopping: CancellationToken,
}

impl Reporter {
    /// The page of metrics.
    pub(super) fn page(&self) -> String {
        self.metrics.to_text(Present {
            engines: &self.engines,
            serving: Fitness::of(&self.engines).serving(),
            connections: (self.open)(),
            connections_limit: self.connections_limit,
            memory: &self.memory,
            watchers: &self.watchers,
            database: self.database.figures(),
        })
    }
}

impl StatusSource for Reporter {
    fn status(&self) -> Status {
        let offset = self.clock.wall_offset();
        let state = match Fitness::of(&self.engines) {
            _ if self.stopping.is_cancelled() => State::Stopping,
            Fitness::Fit => State::Serving,
            Fitness::OnlyReads(error) => State::Reading(error.to_string()),
            Fitness::Unfit(error) => State::NotServing(error.to_string()),
        };
        let engine = |name: &str, stored| EngineStatus { name: name.to_owned(), stored };
        let Addresses { grpc, admin, metrics } = &self.addresses;
        let listeners = [("grpc", &grpc[..]), ("admin", admin), ("metrics", metrics.as_slice())];
        let listener =
            |kind, address: &ListenAddr| ListenerStatus { kind, address: address.to_string() };
        Status {
            version: env!("CARGO_PKG_VERSION"),
            start_time: offset.wall(self.started),
            time: offset.wall(self.clock.now()),
            state,
            store: self.store,
            engines: self.engines.iter().map(|one| engine(one.name(), one.count())).collect(),
            listeners: listeners
                .into_iter()
                .flat_map(|(kind, list)| list.iter().map(move |address| listener(kind, address)))
                .collect(),
            metrics: self.page(),
        }
    }
}

/// Beats on the thread that accepts connections, so that another one sees whether it hangs.
pub(super) struct Pulse {
    started: Instant,
    last_millis: AtomicU64,
}

const BEAT: Duration = Duration::from_secs(1);
/// After this long without a beat the thread hangs. A busy machine may delay it for seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Pulse {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), last_millis: AtomicU64::new(0) })
    }

    /// Beats for as long as it is polled.
    pub(super) async fn beat(self: Arc<Self>) {
        loop {
            let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.last_millis.store(millis, Ordering::Relaxed);
            tokio::time::sleep(BEAT).await;
        }
    }

    fn is_alive(&self, after: Duration) -> bool {
        let last = Duration::from_millis(self.last_millis.load(Ordering::Relaxed));
        after.saturating_sub(last) < LONGEST_PAUSE
    }
}

/// What probes ask for over HTTP.
pub(super) struct Probes {
    pub pulse: Arc<Pulse>,
    pub serving: watch::Receiver<Serving>,
    /// Cancelled when the daemon stops.
    pub stopping: CancellationToken,
}

/// The answer to a probe.
pub(super) struct ProbeAnswer {
    pub is_good: bool,
    pub text: &'static str,
}

impl Probes {
    /// The answer to a path; `None`: it is not one of a probe.
    pub(super) fn answer(&self, path: &str) -> Option<ProbeAnswer> {
        let answer = |is_good, text| Some(ProbeAnswer { is_good, text });
        match path {
            "/healthz" => match self.pulse.is_alive(self.pulse.started.elapsed()) {
                true => answer(true, "alive\n"),
                false => answer(false, "the thread that accepts connections hangs\n"),
            },
            "/readyz" => match *self.serving.borrow() {
                _ if self.stopping.is_cancelled() => answer(false, "not ready: stopping\n"),
                Serving { whole: true, .. } => answer(true, "ready\n"),
                Serving { services: true, .. } => {
                    answer(true, "ready, although the store takes no changes\n")
                }
                _ => answer(false, "not ready: the store fails; the log has the cause\n"),
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probes(serving: Serving) -> Probes {
        let serving = watch::channel(serving).1;
        Probes { pulse: Pulse::new(), serving, stopping: CancellationToken::new() }
    }

    fn good(probes: &Probes, path: &str) -> Option<bool> {
        probes.answer(path).map(|answer| answer.is_good)
    }

    #[test]
    fn ready_means_that_sessions_can_be_resolved() {
        for (whole, services, ready) in
            [(true, true, true), (false, true, true), (false, false, false)]
        {
            let probes = probes(Serving { whole, services });
            assert_eq!(good(&probes, "/readyz"), Some(ready), "{whole} {services}");
            assert_eq!(good(&probes, "/healthz"), Some(true), "a restart does not mend a store");
            probes.stopping.cancel();
            assert_eq!(good(&probes, "/readyz"), Some(false), "no new calls while it stops");
            assert_eq!(good(&probes, "/healthz"), Some(true), "it finishes what it has begun");
        }
        assert_eq!(good(&probes(Serving::default()), "/elsewhere"), None);
    }

    #[test]
    fn a_thread_that_hangs_is_not_alive() {
        let pulse = Pulse::new();
        assert!(pulse.is_alive(LONGEST_PAUSE - BEAT));
        assert!(!pulse.is_alive(LONGEST_PAUSE));
        pulse.last_millis.store(BEAT.as_millis() as u64, Ordering::Relaxed);
        assert!(pulse.is_alive(LONGEST_PAUSE), "it has beaten since");
    }
}
