//! Metrics, in the OpenMetrics text that Prometheus reads.
//!
//! Labels are engines, operations and states: never anything of a session.

use std::{
    sync::{Arc, OnceLock, atomic::Ordering},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::{FutureExt, future::BoxFuture};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{
    outages::{Outages, Work},
    reload::ReloadMetrics,
    traces::TraceMetrics,
};
use crate::{
    service::{
        engines::Engines,
        fault::Reason,
        observer::{Observer, OperationKind, Outcome},
        peer_memory::PeerMemory,
        watchers::Watchers,
    },
    session::{
        clock::Moment,
        credential::Absence,
        foreign::{Foreign, ForeignId, Source},
        id::PublicId,
        record::{Claim, Record},
        store::{Layer, Removed, Restored, Result, Store, StoreFuture, Swept, Verb},
    },
};

/// Seconds: from a hit in memory to a disk that is in trouble.
const BUCKETS: [f64; 14] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05,
    0.1, 0.5, 2.5,
];

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcState {
    rpc: &'static str,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRpc {
    rpc: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEngine {
    engine: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOperation {
    engine: String,
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRefusal {
    listener: &'static str,
    reason: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All metrics of a daemon.
pub struct Metrics {
    registry: Registry,
    rpcs: RpcMetrics,
    sessions: Family<OfEngine, Gauge>,
    connections: Gauge,
    held_bytes: Gauge,
    watchers: Gauge,
    watchers_dropped: Counter,
    refused: Family<OfRefusal, Counter>,
    /// What reloads did, and the certificates in force.
    pub(super) reloads: ReloadMetrics,
    /// What has become of spans.
    pub(super) traces: TraceMetrics,
    stores: StoreFamilies,
}

struct RpcMetrics {
    requests: Family<RpcState, Counter>,
    // A request finds its counter by number; the family is asked once.
    by_outcome: [[OnceLock<Counter>; OUTCOMES]; OperationKind::ALL.len()],
    durations: [Histogram; OperationKind::ALL.len()],
}

#[derive(Clone, Default)]
struct StoreFamilies {
    recalled: Family<OfEngine, Counter>,
    created: Family<OfEngine, Counter>,
    destroyed: Family<OfEngine, Counter>,
    revoked: Family<OfEngine, Counter>,
    swept: Family<OfEngine, Counter>,
    examined: Family<OfEngine, Counter>,
    lag: Family<OfEngine, Gauge<f64, std::sync::atomic::AtomicU64>>,
    errors: Family<OfOperation, Counter>,
    durations: Option<Histograms<OfOperation>>,
}

impl Metrics {
    /// All metrics, with names that begin with `sessiond_`. Counters of known labels start at 0.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("sessiond");
        let requests = Family::default();
        registry.register(
            "requests",
            "Operations by RPC and by the state they ended in; those of a pipeline included",
            requests.clone(),
        );
        let durations = Histograms::<OfRpc>::new_with_constructor(histogram as fn() -> _);
        registry.register_with_unit(
            "request_duration",
            "How long an operation took, without the network; what is answered from memory counts as 0",
            Unit::Seconds,
            durations.clone(),
        );
        let sessions = Family::default();
        registry.register(
            "sessions",
            "Sessions that are stored: the live ones, and expired ones until they are swept",
            sessions.clone(),
        );
        let connections = Gauge::default();
        registry.register("connections", "Open connections of gRPC clients", connections.clone());
        let held_bytes = Gauge::default();
        registry.register_with_unit(
            "held",
            "Bytes of limits.max_held_bytes in use",
            Unit::Bytes,
            held_bytes.clone(),
        );
        let watchers = Gauge::default();
        registry.register("watchers", "Open WatchSessions streams", watchers.clone());
        let watchers_dropped = Counter::default();
        registry.register(
            "watchers_dropped",
            "WatchSessions streams that were ended because they did not keep up",
            watchers_dropped.clone(),
        );
        let refused = Family::default();
        registry.register(
            "refused",
            "Callers that were refused: calls by the reason of their error, and TLS handshakes",
            refused.clone(),
        );
        let reloads = ReloadMetrics::register(&mut registry);
        let traces = TraceMetrics::register(&mut registry);
        let rpcs = RpcMetrics {
            requests,
            by_outcome: Default::default(),
            durations: OperationKind::ALL
                .map(|kind| durations.get_or_create_owned(&OfRpc { rpc: kind.name() })),
        };
        let stores = StoreFamilies::register(&mut registry);
        Arc::new(Self {
            registry,
            rpcs,
            sessions,
            connections,
            held_bytes,
            watchers,
            watchers_dropped,
            refused,
            reloads,
            traces,
            stores,
        })
    }

    /// A store whose work is counted and timed, and whose failures are logged.
    pub fn measured(&self, engine: &str, store: Arc<dyn Store>) -> Measured {
        let metrics = StoreMetrics::new(&self.stores, engine);
        Measured { store, metrics }
    }

    /// A source of sessions to adopt, likewise.
    pub fn measured_source(&self, engine: &str, source: impl Source) -> Arc<dyn Source> {
        let verb = VerbMetrics::new(&self.stores, engine, FETCH);
        Arc::new(MeasuredSource { source, verb, outages: Outages::new(engine) })
    }

    /// The counter of the callers that a listener has refused for this reason.
    pub(super) fn refused(&self, listener: &'static str, reason: &'static str) -> Counter {
        self.refused.get_or_create_owned(&OfRefusal { listener, reason })
    }

    /// The text that Prometheus reads. `connections` are open.
    pub fn to_text(
        &self,
        engines: &Engines,
        connections: usize,
        memory: &PeerMemory,
        watchers: &Watchers,
    ) -> String {
        for engine in engines.iter() {
            // Of a store that does not know there is no line, rather than a wrong one.
            if let Some(count) = engine.count() {
                let label = OfEngine { engine: engine.name().to_owned() };
                self.sessions.get_or_create(&label).set(count.try_into().unwrap_or(i64::MAX));
            }
        }
        self.connections.set(connections.try_into().unwrap_or(i64::MAX));
        self.held_bytes.set(memory.used().try_into().unwrap_or(i64::MAX));
        self.watchers.set(watchers.count().try_into().unwrap_or(i64::MAX));
        self.watchers_dropped.inner().store(watchers.dropped(), Ordering::Relaxed);
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}

impl Observer for Metrics {
    fn finished(&self, kind: OperationKind, outcome: Outcome, elapsed: Duration) {
        let rpcs = &self.rpcs;
        let counter = rpcs.by_outcome[kind as usize][outcome_number(outcome)].get_or_init(|| {
            let labels = RpcState { rpc: kind.name(), state: outcome_name(outcome) };
            rpcs.requests.get_or_create_owned(&labels)
        });
        counter.inc();
        rpcs.durations[kind as usize].observe(elapsed.as_secs_f64());
    }
}

const FIRST_ABSENCE: usize = 2;
const FIRST_REASON: usize = FIRST_ABSENCE + 6;
const OUTCOMES: usize = FIRST_REASON + Reason::ALL.len();

fn outcome_number(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Active => 0,
        Outcome::Created => 1,
        Outcome::Absent(absence) => FIRST_ABSENCE + absence as usize,
        Outcome::Failed(reason) => FIRST_REASON + reason as usize,
    }
}

pub(super) fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Active => "ACTIVE",
        Outcome::Created => "CREATED",
        Outcome::Absent(Absence::None) => "NONE",
        Outcome::Absent(Absence::Invalid) => "INVALID",
        Outcome::Absent(Absence::NotFound) => "NOT_FOUND",
        Outcome::Absent(Absence::Superseded | Absence::JustSuperseded) => "SUPERSEDED",
        Outcome::Absent(Absence::Expired) => "EXPIRED",
        Outcome::Failed(reason) => reason.name(),
    }
}

impl StoreFamilies {
    fn register(registry: &mut Registry) -> Self {
        let durations = Histograms::<OfOperation>::new_with_constructor(histogram as fn() -> _);
        registry.register_with_unit(
            "store_duration",
            "How long the store took, by its operation; what it recalls from memory is not in it",
            Unit::Seconds,
            durations.clone(),
        );
        let families = Self { durations: Some(durations), ..Self::default() };
        registry.register("store_errors", "Failures of the store", families.errors.clone());
        registry.register(
            "store_recalled",
            "Records that were found in memory when the store was asked for them",
            families.recalled.clone(),
        );
        registry.register("sessions_created", "Sessions created", families.created.clone());
        registry.register(
            "sessions_destroyed",
            "Sessions ended before their time, whoever ended them",
            families.destroyed.clone(),
        );
        registry.register(
            "sessions_revoked",
            "Of these, the ones that another session's Destroy, an operator or the limit has ended",
            families.revoked.clone(),
        );
        registry.register(
            "sessions_swept",
            "Expired sessions that a cleanup removed",
            families.swept.clone(),
        );
        registry.register(
            "cleanup_examined",
            "Entries that a cleanup looked at",
            families.examined.clone(),
        );
        registry.register_with_unit(
            "cleanup_lag",
            "How far past its deadline the oldest entry is that no cleanup has looked at",
            Unit::Seconds,
            families.lag.clone(),
        );
        families
    }
}

/// The metrics of one engine's store.
struct StoreMetrics {
    recalled: Counter,
    created: Counter,
    destroyed: Counter,
    revoked: Counter,
    swept: Counter,
    examined: Counter,
    lag: Gauge<f64, std::sync::atomic::AtomicU64>,
    verbs: [VerbMetrics; Verb::ALL.len()],
    outages: Outages,
}

struct VerbMetrics {
    duration: Histogram,
    errors: Counter,
}

fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Read => "read",
        Verb::Touch => "touch",
        Verb::Create => "create",
        Verb::Write => "write",
        Verb::Destroy => "destroy",
        Verb::List => "list",
        Verb::Cleanup => "cleanup",
        Verb::Scan => "scan",
        Verb::Restore => "restore",
    }
}

/// A touch that cannot move a deadline is a read.
fn work_of(verb: Verb) -> Work {
    match verb {
        Verb::Create | Verb::Write | Verb::Destroy | Verb::Restore => Work::Changing,
        Verb::Read | Verb::Touch | Verb::List | Verb::Cleanup | Verb::Scan => Work::Reading,
    }
}

impl StoreMetrics {
    fn new(families: &StoreFamilies, engine: &str) -> Self {
        let label = OfEngine { engine: engine.to_owned() };
        Self {
            recalled: families.recalled.get_or_create_owned(&label),
            created: families.created.get_or_create_owned(&label),
            destroyed: families.destroyed.get_or_create_owned(&label),
            revoked: families.revoked.get_or_create_owned(&label),
            swept: families.swept.get_or_create_owned(&label),
            examined: families.examined.get_or_create_owned(&label),
            lag: families.lag.get_or_create_owned(&label),
            verbs: Verb::ALL.map(|verb| VerbMetrics::new(families, engine, verb_name(verb))),
            outages: Outages::new(engine),
        }
    }
}

impl VerbMetrics {
    fn new(families: &StoreFamilies, engine: &str, operation: &'static str) -> Self {
        let label = OfOperation { engine: engine.to_owned(), operation };
        let durations = families.durations.as_ref();
        Self {
            duration: durations.map_or_else(histogram, |family| family.get_or_create_owned(&label)),
            errors: families.errors.get_or_create_owned(&label),
        }
    }

    async fn time<T>(
        &self,
        outages: &Outages,
        work: Work,
        operation: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let started = Instant::now();
        let outcome = operation.await;
        self.duration.observe(started.elapsed().as_secs_f64());
        match &outcome {
            Ok(_) => outages.worked(work, Instant::now),
            Err(error) => {
                self.errors.inc();
                outages.failed(work, error, Instant::now());
            }
        }
        outcome
    }
}

/// The one operation of a source.
const FETCH: &str = "fetch";

/// A source of sessions to adopt whose work is counted and timed, and whose failures
/// are logged.
struct MeasuredSource<T> {
    source: T,
    verb: VerbMetrics,
    outages: Outages,
}

impl<T: Source> Source for MeasuredSource<T> {
    fn fetch<'a>(&'a self, id: &'a ForeignId) -> BoxFuture<'a, Result<Option<Foreign>>> {
        self.verb.time(&self.outages, Work::Reading, self.source.fetch(id)).boxed()
    }
}

/// A store whose work is counted and timed, and whose failures are logged.
pub struct Measured {
    store: Arc<dyn Store>,
    metrics: StoreMetrics,
}

#[async_trait]
impl Layer for Measured {
    fn inner(&self) -> &dyn Store {
        self.store.as_ref()
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        verb: Verb,
        operation: StoreFuture<'a, T>,
    ) -> StoreFuture<'a, T> {
        let StoreMetrics { verbs, outages, .. } = &self.metrics;
        Box::pin(verbs[verb as usize].time(outages, work_of(verb), operation))
    }

    fn recall(&self, id: PublicId) -> Option<Arc<Record>> {
        let found = self.store.recall(id)?;
        self.metrics.recalled.inc();
        Some(found)
    }

    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        let created = self.store.create(id, record).await?;
        self.metrics.created.inc_by(created.is_some().into());
        Ok(created)
    }

    async fn destroy(&self, id: PublicId, claim: Claim) -> Result<Option<Removed>> {
        let is_own = matches!(claim, Claim::Presented { .. });
        let removed = self.store.destroy(id, claim).await?;
        if removed.is_some() {
            self.metrics.destroyed.inc();
            self.metrics.revoked.inc_by((!is_own).into());
        }
        Ok(removed)
    }

    async fn restore(&self, id: PublicId, record: Record, now: Moment) -> Result<Restored> {
        let restored = self.store.restore(id, record, now).await?;
        self.metrics.created.inc_by(matches!(restored, Restored::Created(_)).into());
        Ok(restored)
    }

    async fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        let swept = self.store.cleanup(now, limit).await?;
        self.metrics.examined.inc_by(swept.examined as u64);
        self.metrics.swept.inc_by(swept.removed.len() as u64);
        let lag = swept.next.map(|next| now.since(next)).unwrap_or_default();
        self.metrics.lag.set(lag.as_secs_f64());
        Ok(swept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_a_number_of_its_own() {
        let absences = [
            Absence::None,
            Absence::Invalid,
            Absence::NotFound,
            Absence::Superseded,
            Absence::Expired,
            Absence::JustSuperseded,
        ];
        let outcomes = [Outcome::Active, Outcome::Created]
            .into_iter()
            .chain(absences.map(Outcome::Absent))
            .chain(Reason::ALL.map(Outcome::Failed));
        let numbers: Vec<_> = outcomes.map(outcome_number).collect();
        assert_eq!(numbers, (0..OUTCOMES).collect::<Vec<_>>());
        assert_eq!(OperationKind::ALL.map(|kind| kind as usize), [0, 1, 2, 3, 4]);
        assert_eq!(Verb::ALL.map(|verb| verb as usize), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
