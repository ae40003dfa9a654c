//! Histograms on the page of metrics.

use std::{fmt, ops::Deref, sync::Arc};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};

use crate::timing::{BOUNDS_NANOS, Timings, Totals};

/// Durations of one kind. A clone is another handle.
#[derive(Debug, Clone, Default)]
pub(super) struct Durations(Arc<Timings>);

impl Durations {
    /// For what all threads do all the time.
    pub(super) fn striped() -> Self {
        Self(Arc::new(Timings::striped()))
    }
}

impl Deref for Durations {
    type Target = Timings;

    fn deref(&self) -> &Timings {
        &self.0
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        encode_totals(&self.totals(), &mut encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Writes the lines of a histogram in seconds.
pub(super) fn encode_totals(totals: &Totals, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
    let Totals { counts, sum_nanos } = totals;
    let bounds = BOUNDS_NANOS.iter().map(|nanos| seconds(*nanos)).chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(counts.iter().copied()).collect();
    encoder.encode_histogram::<NoLabelSet>(seconds(*sum_nanos), counts.iter().sum(), &buckets, None)
}

/// Divided, because a product with 1e-9 has digits that nobody meant.
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
