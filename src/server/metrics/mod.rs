//! Metrics, in the OpenMetrics text that Prometheus reads.
//!
//! Labels are engines, operations and states: never anything of a session.

//!
//! | file | holds |
//! |---|---|
//! | [`requests`] | operations: how they ended, and how long they took |
//! | [`durations`] | histograms on the page |
//! | [`database`] | what a store tells of its disk, or of its connections |
//! | [`process`] | the process: memory, CPU time, file descriptors |
//! | [`classic`] | the page for those who do not read OpenMetrics |

mod classic;
mod database;
mod durations;
mod process;
mod requests;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use async_trait::async_trait;
use futures_util::{FutureExt, future::BoxFuture};
use prometheus_client::{
    encoding::{
        EncodeLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

pub(super) use self::classic::to_classic;
pub use self::requests::RequestMetrics;
use self::{database::DatabaseFigures, durations::Durations, process::ProcessFigures};
use super::{
    outages::{Outages, Work},
    reload::ReloadMetrics,
    traces::TraceMetrics,
};
use crate::{
    grpc::health::Serving,
    service::{engines::Engines, peer_memory::PeerMemory, watchers::Watchers},
    session::{
        clock::Moment,
        foreign::{Foreign, ForeignId, Source},
        id::PublicId,
        record::{Claim, Record},
        store::{Layer, Removed, Restored, Result, Store, StoreFuture, Swept, Verb},
    },
    store::database::Figures,
};

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

/// All metrics of a daemon.
pub struct Metrics {
    registry: Registry,
    requests: requests::Families,
    sessions: Family<OfEngine, Gauge>,
    present: PresentMetrics,
    refused: Family<OfRefusal, Counter>,
    /// What reloads did, and the certificates in force.
    pub(super) reloads: ReloadMetrics,
    /// What has become of spans.
    pub(super) traces: TraceMetrics,
    stores: StoreFamilies,
}

/// What is looked up when the page is made.
struct PresentMetrics {
    serving: Gauge,
    takes_changes: Gauge,
    connections: Gauge,
    connections_limit: Gauge,
    held_bytes: Gauge,
    held_limit_bytes: Gauge,
    held_refusals: Counter,
    watchers: Gauge,
    watchers_dropped: Counter,
}

/// The daemon at the moment of a page.
pub(super) struct Present<'p> {
    pub engines: &'p Engines,
    pub serving: Serving,
    /// Open connections.
    pub connections: usize,
    /// `limits.max_connections`.
    pub connections_limit: usize,
    pub memory: &'p PeerMemory,
    pub watchers: &'p Watchers,
    pub database: Figures,
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
    durations: Family<OfOperation, Durations>,
}

impl Metrics {
    /// All metrics, with names that begin with `sessiond_`. Counters of known labels start at 0.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("sessiond");
        registry.register(
            "build",
            "What is running; always 1",
            Info::new([("version", env!("CARGO_PKG_VERSION"))].to_vec()),
        );
        let requests = requests::Families::register(&mut registry);
        let sessions = Family::default();
        registry.register(
            "sessions",
            "Sessions that are stored: the live ones, and expired ones until they are swept",
            sessions.clone(),
        );
        let present = PresentMetrics::register(&mut registry);
        let refused = Family::default();
        registry.register(
            "refused",
            "Callers that were refused: calls by the reason of their error, and TLS handshakes",
            refused.clone(),
        );
        let reloads = ReloadMetrics::register(&mut registry);
        let traces = TraceMetrics::register(&mut registry);
        let stores = StoreFamilies::register(&mut registry);
        Arc::new(Self { registry, requests, sessions, present, refused, reloads, traces, stores })
    }

    /// Counts and times the operations on these engines.
    pub fn of_requests(&self, engines: &Engines) -> RequestMetrics {
        RequestMetrics::new(&self.requests, engines)
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

    /// The text that Prometheus reads.
    pub(super) fn to_text(&self, present: Present<'_>) -> String {
        for engine in present.engines.iter() {
            // Of a store that does not know there is no line, rather than a wrong one.
            if let Some(count) = engine.count() {
                let label = OfEngine { engine: engine.name().to_owned() };
                self.sessions.get_or_create(&label).set(number(count));
            }
        }
        self.present.set(&present);
        // They are read anew for each page, and some are not known on every machine.
        let mut database = Registry::with_prefix("sessiond");
        database.register_collector(Box::new(DatabaseFigures(present.database)));
        let mut process = Registry::default();
        process.register_collector(Box::new(ProcessFigures::read()));
        let mut text = String::new();
        for registry in [&self.registry, &database, &process] {
            encode_registry(&mut text, registry).expect("writing to a string does not fail");
        }
        encode_eof(&mut text).expect("writing to a string does not fail");
        text
    }
}

fn number(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

impl PresentMetrics {
    fn register(registry: &mut Registry) -> Self {
        let gauge = |registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>| {
            let gauge = Gauge::<i64>::default();
            match unit {
                Some(unit) => registry.register_with_unit(name, help, unit, gauge.clone()),
                None => registry.register(name, help, gauge.clone()),
            }
            gauge
        };
        let counter = |registry: &mut Registry, name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        Self {
            serving: gauge(
                registry,
                "serving",
                "1 if sessions can be resolved; 0 while the store fails",
                None,
            ),
            takes_changes: gauge(
                registry,
                "store_takes_changes",
                "1 if the store also takes changes",
                None,
            ),
            connections: gauge(registry, "connections", "Open connections of gRPC clients", None),
            connections_limit: gauge(registry, "connections_limit", "limits.max_connections", None),
            held_bytes: gauge(
                registry,
                "held",
                "Bytes of limits.max_held_bytes in use",
                Some(Unit::Bytes),
            ),
            held_limit_bytes: gauge(
                registry,
                "held_limit",
                "limits.max_held_bytes",
                Some(Unit::Bytes),
            ),
            held_refusals: counter(
                registry,
                "held_refusals",
                "Calls that were refused because limits.max_held_bytes was used up",
            ),
            watchers: gauge(registry, "watchers", "Open WatchSessions streams", None),
            watchers_dropped: counter(
                registry,
                "watchers_dropped",
                "WatchSessions streams that were ended because they did not keep up",
            ),
        }
    }

    fn set(&self, present: &Present<'_>) {
        let Present { serving, memory, watchers, .. } = present;
        self.serving.set(serving.services.into());
        self.takes_changes.set(serving.whole.into());
        self.connections.set(number(present.connections));
        self.connections_limit.set(number(present.connections_limit));
        self.held_bytes.set(number(memory.used()));
        self.held_limit_bytes.set(number(memory.limit()));
        self.held_refusals.inner().store(memory.refused(), Ordering::Relaxed);
        self.watchers.set(number(watchers.count()));
        self.watchers_dropped.inner().store(watchers.dropped(), Ordering::Relaxed);
    }
}

impl StoreFamilies {
    fn register(registry: &mut Registry) -> Self {
        let families = Self::default();
        registry.register_with_unit(
            "store_duration",
            "How long the store took, by its operation; what it recalls from memory is not in it",
            Unit::Seconds,
            families.durations.clone(),
        );
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
    duration: Durations,
    errors: Counter,
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
            verbs: Verb::ALL.map(|verb| VerbMetrics::new(families, engine, verb.name())),
            outages: Outages::new(engine),
        }
    }
}

impl VerbMetrics {
    fn new(families: &StoreFamilies, engine: &str, operation: &'static str) -> Self {
        let label = OfOperation { engine: engine.to_owned(), operation };
        Self {
            duration: families.durations.get_or_create_owned(&label),
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
        self.duration.observe(started.elapsed());
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
    fn every_verb_has_a_number_of_its_own() {
        assert_eq!(Verb::ALL.map(|verb| verb as usize), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
