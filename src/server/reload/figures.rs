//! The metrics of reloads and certificates.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFile {
    file: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

/// What reloads did, and the certificates in force.
#[derive(Clone)]
pub(in crate::server) struct ReloadMetrics {
    applied: Counter,
    refused: Counter,
    last_success: Gauge,
    last_time: Gauge<f64, AtomicU64>,
    expiry: Family<OfFile, Gauge<f64, AtomicU64>>,
}

impl ReloadMetrics {
    pub(in crate::server) fn register(registry: &mut Registry) -> Self {
        let reloads = Family::<OfOutcome, Counter>::default();
        registry.register("reloads", "Reloads, whoever asked for them", reloads.clone());
        let last_success = Gauge::default();
        registry.register(
            "last_reload_success",
            "1 if the last reload was applied, or there was none; 0 if it was refused",
            last_success.clone(),
        );
        last_success.set(1);
        let last_time = Gauge::default();
        registry.register_with_unit(
            "last_reload_success_timestamp",
            "When what is in force was taken over, by a reload or at the start, in Unix time",
            Unit::Seconds,
            last_time.clone(),
        );
        let expiry = Family::default();
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When the first certificate of this file of listen.tls expires, in Unix time",
            Unit::Seconds,
            expiry.clone(),
        );
        let of = |outcome| reloads.get_or_create_owned(&OfOutcome { outcome });
        Self { applied: of("applied"), refused: of("refused"), last_success, last_time, expiry }
    }

    /// Something else is in force since `now`, in seconds of Unix time. `ends`: when the
    /// certificates end, by the keys of their files.
    pub(in crate::server) fn in_force(&self, now: i64, ends: &[(&'static str, i64)]) {
        self.last_time.set(now as f64);
        self.expiry.clear();
        for &(file, end) in ends {
            self.expiry.get_or_create(&OfFile { file }).set(end as f64);
        }
    }

    pub(super) fn applied(&self) {
        self.applied.inc();
        self.last_success.set(1);
    }

    pub(super) fn refused(&self) {
        self.refused.inc();
        self.last_success.set(0);
    }
}
