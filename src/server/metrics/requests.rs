//! The metrics of operations. All of this is done for each operation, so it has to be cheap.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::durations::Durations;
use crate::{
    service::{
        engines::Engines,
        fault::Reason,
        observer::{Observer, OperationKind, Outcome, Subject},
    },
    session::engine::Engine,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcState {
    engine: String,
    rpc: &'static str,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRpc {
    engine: String,
    rpc: &'static str,
}

/// What is on the page.
pub(super) struct Families {
    requests: Family<RpcState, Counter>,
    durations: Family<OfRpc, Durations, fn() -> Durations>,
    in_flight: Family<OfRpc, Gauge>,
}

impl Families {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let families = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(Durations::striped),
            in_flight: Family::default(),
        };
        registry.register(
            "requests",
            "Operations by engine, by RPC and by the state they ended in; those of a pipeline included",
            families.requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "How long an operation took from its message to its answer, without the network",
            Unit::Seconds,
            families.durations.clone(),
        );
        registry.register(
            "requests_in_flight",
            "Operations that wait for the store; what is answered from memory is not among them",
            families.in_flight.clone(),
        );
        families
    }
}

/// Counts and times operations.
pub struct RequestMetrics {
    /// Found by their addresses: there are few, and comparing names would cost more.
    engines: Vec<Arc<Engine>>,
    /// Of each engine, in the same order.
    of_engines: Vec<[RpcMetrics; OperationKind::ALL.len()]>,
    requests: Family<RpcState, Counter>,
}

struct RpcMetrics {
    // An operation finds its counter by number; the family is asked once.
    by_outcome: [OnceLock<Counter>; OUTCOMES],
    duration: Durations,
    in_flight: Gauge,
}

impl RequestMetrics {
    pub(super) fn new(families: &Families, engines: &Engines) -> Self {
        let of_engine = |engine: &Arc<Engine>| {
            OperationKind::ALL.map(|kind| {
                let label = OfRpc { engine: engine.name().to_owned(), rpc: kind.name() };
                RpcMetrics {
                    by_outcome: [const { OnceLock::new() }; OUTCOMES],
                    duration: families.durations.get_or_create_owned(&label),
                    in_flight: families.in_flight.get_or_create_owned(&label),
                }
            })
        };
        Self {
            engines: engines.iter().cloned().collect(),
            of_engines: engines.iter().map(of_engine).collect(),
            requests: families.requests.clone(),
        }
    }

    /// `None`: the operation was about no engine that there is.
    fn of(&self, Subject { kind, engine }: Subject<'_>) -> Option<&RpcMetrics> {
        let engine = engine?;
        let number = self.engines.iter().position(|known| std::ptr::eq(Arc::as_ptr(known), engine));
        Some(&self.of_engines[number?][kind as usize])
    }

    fn counter(&self, Subject { kind, engine }: Subject<'_>, outcome: Outcome) -> Counter {
        let engine = engine.map_or("", Engine::name).to_owned();
        let labels = RpcState { engine, rpc: kind.name(), state: outcome.name() };
        self.requests.get_or_create_owned(&labels)
    }
}

impl Observer for RequestMetrics {
    fn finished(&self, subject: Subject<'_>, outcome: Outcome, elapsed: Duration) {
        let Some(metrics) = self.of(subject) else {
            self.counter(subject, outcome).inc();
            return;
        };
        let counter = &metrics.by_outcome[outcome_number(outcome)];
        counter.get_or_init(|| self.counter(subject, outcome)).inc();
        metrics.duration.observe(elapsed);
    }

    fn begun(&self, subject: Subject<'_>) {
        if let Some(metrics) = self.of(subject) {
            metrics.in_flight.inc();
        }
    }

    fn ended(&self, subject: Subject<'_>) {
        if let Some(metrics) = self.of(subject) {
            metrics.in_flight.dec();
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::credential::Absence;

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
    }
}
