//! The load: runs `sessiond bench` and reads its report.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde::Deserialize;

use super::{Problem, machine::on_cores};

/// The generator, and the cores that it may use.
pub(crate) struct Generator {
    pub binary: PathBuf,
    pub cores: Vec<usize>,
}

/// What the generator is to do.
pub(crate) struct Load<'a> {
    pub address: &'a str,
    /// The process id of the server, whose CPU time the generator reads.
    pub pid: u32,
    /// Cookie headers, one per line.
    pub cookies: &'a Path,
    pub mix: &'a str,
    pub pipeline: bool,
    pub connections: usize,
    pub in_flight: usize,
    pub data_bytes: usize,
    pub warm_up: Duration,
    pub duration: Duration,
}

/// The parts of the report of `sessiond bench --json` that are used.
#[derive(Debug, Deserialize)]
pub(crate) struct Generated {
    pub seconds: f64,
    pub operations: Vec<Latencies>,
    pub cost: Cost,
    first_error: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Latencies {
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

/// Measured between the first and the last instant of the measurement.
#[derive(Debug, Deserialize)]
pub(crate) struct Cost {
    pub operations: u64,
    pub cpu_seconds: f64,
}

impl Generator {
    /// Runs the generator. Fails if an operation failed.
    pub(crate) fn run(&self, load: &Load<'_>) -> Result<Generated, Problem> {
        let mut bench = Command::new(&self.binary);
        bench.args(["bench", "--json", "--address", load.address, "--mix", load.mix]);
        bench.arg("--cookies").arg(load.cookies);
        for (name, value) in [
            ("--connections", load.connections.to_string()),
            ("--in-flight", load.in_flight.to_string()),
            ("--data-bytes", load.data_bytes.to_string()),
            ("--cpu-of", load.pid.to_string()),
            ("--warm-up", millis(load.warm_up)),
            ("--duration", millis(load.duration)),
        ] {
            bench.arg(name).arg(value);
        }
        if load.pipeline {
            bench.arg("--pipeline");
        }
        bench.stdin(Stdio::null()).stderr(Stdio::piped());
        let output = on_cores(&self.cores, || bench.output())?;
        let output = output.map_err(|error| format!("the generator cannot be run: {error}"))?;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            return Err(format!("the generator ended with {}: {told}", output.status));
        }
        let generated: Generated = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("cannot read the generator's report: {error}"))?;
        match generated.first_error {
            Some(error) => Err(format!("an operation failed: {error}")),
            None => Ok(generated),
        }
    }
}

fn millis(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}
