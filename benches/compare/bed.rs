//! The servers, and the load on them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    Args,
    echo::Echo,
    redis::Redis,
    rows::{Operation, Row, Sample},
    support::{
        Problem,
        daemon::{self, Daemon},
        generator::{Generated, Generator, Load},
        machine, scratch,
    },
};

pub(crate) const DATA_BYTES: usize = 400;
pub(crate) const IN_FLIGHT: usize = 64;
const WARM_UP: Duration = Duration::from_millis(700);
/// The connections of each of the two generators when the daemon shares its cores with them.
const CONNECTIONS: usize = 8;
/// If the cores are idle for more than this part of the time, they do not limit the throughput.
const IDLE_AT_MOST: f64 = 0.05;

/// A daemon with sessions, and the file with their cookies.
struct Loaded {
    daemon: Daemon,
    cookies: PathBuf,
    _directory: TempDir,
}

pub(crate) struct Bed {
    server: PathBuf,
    generator: Generator,
    seconds: Duration,
    runtime: Runtime,
    server_cores: Vec<usize>,
    sessions: usize,
    /// For Resolve and Touch.
    reads: Option<Loaded>,
    /// For Write. It leaves garbage that the store collects later.
    writes: Option<Loaded>,
    /// On one core and on two, which the generators share.
    shared: Vec<Loaded>,
    echo: Option<Echo>,
    /// Declared before the Redis that it uses, because fields are dropped in order.
    over_redis: Option<Loaded>,
    redis: Option<Redis>,
    directory: TempDir,
    notes: Vec<String>,
}

impl Bed {
    /// For these rows, with daemons of the binary `server`.
    pub(crate) fn new(
        args: &Args,
        server: PathBuf,
        rows: &[Row],
        seconds: Duration,
    ) -> Result<Self, Problem> {
        let cores = machine::cores();
        let (server_cores, generator_cores) = match cores[..] {
            [first, second, ..] => (vec![first], vec![second]),
            _ => (Vec::new(), Vec::new()),
        };
        let mut bed = Self {
            server,
            generator: Generator { binary: args.generator.clone(), cores: generator_cores },
            seconds,
            runtime: Runtime::new().map_err(|error| error.to_string())?,
            server_cores,
            sessions: args.sessions as usize,
            reads: None,
            writes: None,
            shared: Vec::new(),
            echo: None,
            redis: None,
            over_redis: None,
            directory: scratch()?,
            notes: Vec::new(),
        };
        bed.notes.push(match (&bed.server_cores[..], &bed.generator.cores[..]) {
            ([server], [generator]) => {
                format!("servers on core {server}, their generator on core {generator}")
            }
            _ => "NOT PINNED: there is one core only, which server and generator share".to_owned(),
        });
        let any = |wanted: fn(&Row) -> bool| rows.iter().any(wanted);
        let writes = |row: &Row| matches!(row, Row::Sessiond { operation: Operation::Write, .. });
        bed.reads = Some(bed.loaded(&bed.server_cores, &[])?);
        if any(writes) {
            bed.writes = Some(bed.loaded(&bed.server_cores, &[])?);
        }
        if any(|row| matches!(row, Row::Shared { .. })) {
            let [first, second, ..] = cores[..] else {
                return Err("--only: rows with two cores need a machine with two cores".to_owned());
            };
            bed.shared = vec![bed.loaded(&[first], &[])?, bed.loaded(&[first, second], &[])?];
        }
        if any(|row| matches!(row, Row::Echo { .. })) {
            bed.echo = Some(bed.start_echo()?);
        }
        if any(Row::needs_redis) {
            let data = daemon::data(DATA_BYTES);
            let mut redis =
                Redis::start(&bed.server_cores, bed.directory.path(), bed.sessions, &data)?;
            bed.notes.push(format!("Redis {}", redis.version()?));
            if any(|row| matches!(row, Row::OverRedis { .. })) {
                let store = [("store.backend", "redis"), ("store.redis.url", &redis.url())];
                bed.over_redis = Some(bed.loaded(&bed.server_cores, &store)?);
            }
            bed.redis = Some(redis);
        }
        Ok(bed)
    }

    pub(crate) fn notes(&self) -> impl Iterator<Item = String> {
        self.notes.clone().into_iter()
    }

    pub(crate) fn measure(&mut self, row: Row) -> Result<Sample, Problem> {
        match row {
            Row::Echo { pipeline } => {
                let echo = self.echo.as_ref().expect("it was started for its rows");
                let reads = self.reads.as_ref().expect("it was started");
                let (pid, cookies) = (echo.process.id(), &reads.cookies);
                self.load(&echo.tcp, pid, cookies, Operation::Resolve, pipeline)
            }
            Row::Redis { command, pipelined } => {
                let redis = self.redis.as_mut().expect("it was started for its rows");
                redis.measure(command, pipelined, self.seconds, &self.generator.cores)
            }
            Row::OverRedis { pipeline } => {
                let loaded = self.over_redis.as_ref().expect("it was started for its rows");
                let Loaded { daemon, cookies, .. } = loaded;
                let pid = daemon.process.id();
                self.load(&daemon.tcp, pid, cookies, Operation::Resolve, pipeline)
            }
            Row::Shared { cores } => self.shared(cores),
            Row::Sessiond { operation, pipeline, unix } => {
                // Its sessions would change what the next row measures.
                let fresh;
                let loaded = match operation {
                    Operation::Resolve | Operation::Touch => self.reads.as_ref(),
                    Operation::Write => self.writes.as_ref(),
                    Operation::Create => {
                        fresh = self.loaded(&self.server_cores, &[])?;
                        Some(&fresh)
                    }
                };
                let Loaded { daemon, cookies, .. } = loaded.expect("it was started for its rows");
                let address = if unix { &daemon.unix } else { &daemon.tcp };
                self.load(address, daemon.process.id(), cookies, operation, pipeline)
            }
        }
    }

    /// A daemon on these cores, with one thread for each, on the embedded store unless `store`
    /// selects another one.
    fn loaded(&self, cores: &[usize], store: &[(&str, &str)]) -> Result<Loaded, Problem> {
        let directory = scratch()?;
        let threads = cores.len().max(1).to_string();
        // Two kinds of work are rare and would fall into one measurement and not into the next:
        // sweeps, which `benches/scale.rs` measures, and moves of deadlines (a busy session has
        // one every 28 s), which `benches/parts.rs` measures.
        let settings = [
            ("runtime.threads", threads.as_str()),
            ("cleanup.interval", "1d"),
            ("engine.default.touch_granularity", "30m"),
        ];
        let settings = [&settings[..], store].concat();
        let daemon = Daemon::start(&self.server, cores, directory.path(), &settings)?;
        let cookies = self
            .runtime
            .block_on(daemon.create_sessions(self.sessions, &daemon::data(DATA_BYTES)))?;
        let file = directory.path().join("cookies");
        let written = fs::write(&file, cookies.join("\n"));
        written.map_err(|error| format!("{} cannot be written: {error}", file.display()))?;
        Ok(Loaded { daemon, cookies: file, _directory: directory })
    }

    /// An echo that answers with the same message as the daemon.
    fn start_echo(&self) -> Result<Echo, Problem> {
        let reads = self.reads.as_ref().expect("it was started above");
        let cookies = fs::read_to_string(&reads.cookies).map_err(|error| error.to_string())?;
        let cookie = cookies.lines().next().expect("there is a session");
        let answer = self.runtime.block_on(reads.daemon.answer(cookie))?;
        if answer.session.is_none() || !answer.set_cookie.is_empty() {
            return Err("expected a live session, and no Set-Cookie in the answer".to_owned());
        }
        Echo::start(&self.server_cores, self.directory.path(), &answer)
    }

    /// Loads one connection.
    fn load(
        &self,
        address: &str,
        pid: u32,
        cookies: &Path,
        operation: Operation,
        pipeline: bool,
    ) -> Result<Sample, Problem> {
        let mix = operation.name();
        let load = Load { pipeline, ..self.unary(address, pid, cookies, mix) };
        let generated = self.generator.run(&load)?;
        let cpu = Duration::from_secs_f64(generated.cost.cpu_seconds);
        Ok(Sample::new(generated.cost.operations, cpu, generated.seconds))
    }

    fn unary<'a>(&self, address: &'a str, pid: u32, cookies: &'a Path, mix: &'a str) -> Load<'a> {
        Load {
            address,
            pid,
            cookies,
            mix,
            pipeline: false,
            connections: 1,
            in_flight: IN_FLIGHT,
            data_bytes: DATA_BYTES,
            warm_up: WARM_UP,
            duration: self.seconds,
        }
    }

    /// Compares one core with two. The daemon and its two generators have these cores only. So
    /// CPU limits each case, and the generators disturb the daemon equally in both.
    fn shared(&self, cores: usize) -> Result<Sample, Problem> {
        let Loaded { daemon, cookies, .. } = &self.shared[cores - 1];
        let own = machine::cores()[..cores].to_vec();
        let generator = Generator { binary: self.generator.binary.clone(), cores: own.clone() };
        let load = Load {
            connections: CONNECTIONS,
            ..self.unary(&daemon.tcp, daemon.process.id(), cookies, "resolve")
        };
        let (started, idle) = (Instant::now(), machine::idle_time(&own)?);
        let (this, other) = std::thread::scope(|scope| {
            let other = scope.spawn(|| generator.run(&load));
            (generator.run(&load), other.join().expect("it does not panic"))
        });
        let (this, other) = (this?, other?);
        let idle = machine::idle_time(&own)?.saturating_sub(idle).as_secs_f64();
        let idle = idle / started.elapsed().as_secs_f64() / cores as f64;
        if idle > IDLE_AT_MOST {
            let percent = idle * 100.0;
            eprintln!(
                "  {cores} cores were idle for {percent:.0} % of the time: CPU did not limit the throughput"
            );
        }
        let rate = |generated: &Generated| generated.cost.operations as f64 / generated.seconds;
        let busy = |generated: &Generated| generated.cost.cpu_seconds / generated.seconds;
        let per_second = rate(&this) + rate(&other);
        // Both generators read the same CPU time, each during its own measurement.
        let busy = (busy(&this) + busy(&other)) / 2.0;
        Ok(Sample { cpu_us: busy * 1e6 / per_second, per_second, busy, cores })
    }
}
