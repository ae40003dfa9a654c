//! The metrics of what is exported.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

/// What has become of the spans.
#[derive(Clone)]
pub(in crate::server) struct TraceMetrics {
    pub(super) exported: Counter,
    /// The queue was full.
    pub(super) overflowed: Counter,
    /// The collector does not want them.
    pub(super) refused: Counter,
    /// The daemon stopped before the collector had them.
    pub(super) left: Counter,
}

impl TraceMetrics {
    pub(in crate::server) fn register(registry: &mut Registry) -> Self {
        let exported = Counter::default();
        registry.register("spans_exported", "Spans that the collector has taken", exported.clone());
        let dropped = Family::<OfReason, Counter>::default();
        registry.register("spans_dropped", "Spans that were recorded and lost", dropped.clone());
        let of = |reason| dropped.get_or_create_owned(&OfReason { reason });
        Self { exported, overflowed: of("queue_full"), refused: of("refused"), left: of("stopped") }
    }
}
