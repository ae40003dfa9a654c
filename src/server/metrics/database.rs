//! The metrics of what a database tells of itself.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use super::durations::encode_totals;
use crate::{
    store::database::{DiskFigures, Figures, LinkFigures},
    timing::Totals,
};

/// The figures of a database, as they are when the page is made.
#[derive(Debug)]
pub(super) struct DatabaseFigures(pub(super) Figures);

impl Collector for DatabaseFigures {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        match &self.0 {
            Figures::Nothing => Ok(()),
            Figures::Disk(disk) => encode_disk(disk, encoder),
            Figures::Links(links) => encode_links(links, encoder),
        }
    }
}

fn encode_disk(disk: &DiskFigures, mut encoder: DescriptorEncoder) -> fmt::Result {
    let DiskFigures { free_bytes, size_bytes, min_free_bytes, log_bytes, commits, syncs } = disk;
    for (name, help, bytes) in [
        (
            "sled_disk_free",
            "Free space of the file system that the data directory is on.",
            *free_bytes,
        ),
        ("sled_disk_size", "Size of that file system.", *size_bytes),
        ("sled_disk_min_free", "store.sled.min_free_bytes.", Some(*min_free_bytes)),
        ("sled_log", "Length of the log, which has all records.", *log_bytes),
    ] {
        // What is unknown has no line, rather than a wrong one.
        if let Some(bytes) = bytes {
            gauge(&mut encoder, name, help, Some(&Unit::Bytes), bytes)?;
        }
    }
    let help = "How long it took to make changes durable, a sync included if one was asked for; one \
                commit serves all who wait.";
    histogram(&mut encoder, "sled_commit_duration", help, commits)?;
    histogram(&mut encoder, "sled_sync_duration", "How long fdatasync of the log took.", syncs)
}

fn encode_links(links: &LinkFigures, mut encoder: DescriptorEncoder) -> fmt::Result {
    let LinkFigures { connected, lacking, connecting, down, lost, round_trips } = links;
    let help = "Connections to Redis by state.";
    let name = "redis_connections";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (state, count) in
        [("connected", connected), ("lacking", lacking), ("connecting", connecting), ("down", down)]
    {
        ConstGauge::new(*count).encode(family.encode_family(&[("state", state)])?)?;
    }
    let help = "Connections to Redis that broke.";
    let name = "redis_connections_lost";
    let lines = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(*lost).encode(lines)?;
    let help = "How long Redis took to answer commands, those that are sent together counted once.";
    histogram(&mut encoder, "redis_round_trip", help, round_trips)
}

fn gauge(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: u64,
) -> fmt::Result {
    let lines = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    ConstGauge::new(value).encode(lines)
}

fn histogram(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    totals: &Totals,
) -> fmt::Result {
    let unit = Some(&Unit::Seconds);
    let mut lines = encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
    encode_totals(totals, &mut lines)
}
