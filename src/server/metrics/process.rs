//! The metrics of the process, under the names that Prometheus's own client libraries use.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use crate::server::system::ProcessState;

/// The process, as it is when the page is made. `None`: the system does not tell.
#[derive(Debug)]
pub(super) struct ProcessFigures(Option<ProcessState>);

impl ProcessFigures {
    pub(super) fn read() -> Self {
        Self(ProcessState::read().ok())
    }
}

impl Collector for ProcessFigures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(state) = &self.0 else {
            return Ok(());
        };
        let mut put = |name: &str, help: &str, metric: &dyn EncodeMetric| {
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        put(
            "process_cpu_seconds",
            "CPU time, user and system mode together, in seconds.",
            &ConstCounter::new(state.cpu.as_secs_f64()),
        )?;
        put(
            "process_resident_memory_bytes",
            "Resident memory, in bytes.",
            &ConstGauge::new(state.resident_bytes),
        )?;
        put(
            "process_virtual_memory_bytes",
            "Virtual memory, in bytes.",
            &ConstGauge::new(state.virtual_bytes),
        )?;
        put(
            "process_open_fds",
            "Open file descriptors.",
            &ConstGauge::new(state.open_descriptors),
        )?;
        if let Some(most) = state.most_descriptors {
            put("process_max_fds", "File descriptors that may be open.", &ConstGauge::new(most))?;
        }
        put(
            "process_start_time_seconds",
            "When the process was started, in Unix time.",
            &ConstGauge::new(state.start.as_secs_f64()),
        )
    }
}
