//! Traces: spans go to a collector, over OTLP and gRPC.
//!
//! | file | holds |
//! |---|---|
//! | this one | what is configured, and how it is started |
//! | [`export`] | the queue, and the task that empties it |
//! | [`otlp`] | the messages |
//! | [`store`] | the spans of a store |
//! | [`figures`] | the metrics |

mod export;
mod figures;
mod otlp;
mod store;

use std::sync::Arc;

use tonic::{metadata::MetadataMap, transport::Endpoint};

pub(super) use self::{export::Exporter, figures::TraceMetrics};
use self::{otlp::Resource, store::TracedStore};
use super::system;
use crate::{grpc::spans::Traces, session::store::Store, trace::Tracer};

/// Where traces go, and which.
#[derive(Clone)]
pub(super) struct TraceOptions {
    /// The collector.
    pub endpoint: Endpoint,
    /// As it is configured, for the log.
    pub name: String,
    /// Go with each export, such as a token.
    pub headers: MetadataMap,
    /// The share of the traces that begin here.
    pub ratio: f64,
    /// What the collector is told of this process.
    pub attributes: Vec<(String, String)>,
}

/// Prints no header, which may be a secret.
impl std::fmt::Debug for TraceOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TraceOptions").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Whether this daemon traces. A clone is the same.
#[derive(Clone, Default)]
pub(super) struct Tracing {
    tracer: Option<Arc<Tracer>>,
    /// As in `store.backend`.
    backend: &'static str,
}

impl Tracing {
    /// Spans go into the queue of the exporter, which is to be run.
    pub(super) fn start(
        options: TraceOptions,
        backend: &'static str,
        metrics: &TraceMetrics,
    ) -> (Self, Exporter) {
        let resource = Resource {
            attributes: options
                .attributes
                .iter()
                .map(|(key, value)| otlp::text(key, value))
                .collect(),
        };
        let ratio = options.ratio;
        let (queue, exporter) = export::queue(options, resource, metrics.clone());
        let tracer = Some(Tracer::new(ratio, system::unix_time, queue));
        (Self { tracer, backend }, exporter)
    }

    /// For the calls of a listener.
    pub(super) fn calls(&self) -> Traces {
        self.tracer.clone().map(Traces::by).unwrap_or_default()
    }

    /// The same store, with spans.
    pub(super) fn store(&self, engine: &str, store: Arc<dyn Store>) -> Arc<dyn Store> {
        let (engine, backend) = (engine.to_owned(), self.backend);
        match self.tracer {
            None => store,
            Some(_) => Arc::new(TracedStore { store, engine, backend }),
        }
    }
}
