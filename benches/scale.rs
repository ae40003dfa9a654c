//! Behaviour with many sessions: `cargo bench --bench scale -- --sessions 1000000`
//!
//! It fills two data directories through the library: one with this many live sessions, one
//! with only the hot set. Then the real binary serves them, and the figures of the first are
//! compared with those of the second: the time until it serves, the memory and disk space, the
//! slowest calls (at rest, during flushes and during a cleanup), and the cost of a cleanup.

use std::{
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Parser;
use futures_util::{StreamExt, TryStreamExt, stream};
use sessiond::{
    server::{clock::SystemClock, system::SystemEntropy},
    session::{
        clock::{Clock, Moment},
        data::Data,
        id::SessionId,
        record::Record,
        store::Store,
    },
    store::sled::{Durability, SledDatabase, SledOptions},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

#[path = "support/mod.rs"]
mod support;

use support::{
    Problem,
    daemon::{self, Daemon},
    engine::{COOKIE, keyring},
    generator::{Generated, Generator, Latencies, Load},
    machine,
    numbers::{Spread, Table},
    scratch,
};

const DATA_BYTES: usize = 400;
/// Sessions that are resolved again and again.
const HOT: usize = 10_000;
/// Sessions that one cleanup removes.
const EXPIRED: usize = 100_000;
/// How many creations run at once while a directory is filled.
const FILLING: usize = 256;
/// Enough to keep the daemon busy, but few enough that calls rarely wait for each other.
const IN_FLIGHT: usize = 4;
/// Longer than a run of the benchmark.
const SITE_LIFE: Duration = Duration::from_secs(12 * 60 * 60);
const MIB: f64 = (1 << 20) as f64;

/// Measures the daemon with many sessions on the embedded store.
#[derive(Parser)]
struct Args {
    /// How many live sessions to store
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(10_000..=20_000_000))]
    sessions: u64,
    /// How many times latencies are measured, alternating between the directories
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each measurement of latencies takes
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    seconds: f64,
    /// The memory in the configuration: store.sled.cache_bytes, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    cache: u64,
    /// Store the data in a new directory below this one
    #[arg(long, value_name = "PATH")]
    directory: Option<PathBuf>,
    /// Measure this binary; otherwise `cargo build --profile dist` makes one
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// Load it with this binary's `sessiond bench`; otherwise with the one of this build
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_sessiond"))]
    generator: PathBuf,
    /// Print Markdown
    #[arg(long)]
    markdown: bool,
    /// Passed by `cargo bench`; ignored
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match scale(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("scale: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn scale(args: &Args) -> Result<(), Problem> {
    let rig = Rig::new(args)?;
    let mut found = Findings::default();

    eprintln!("filling");
    let filling = Instant::now();
    let many = rig.fill("many", args.sessions as usize)?;
    let filled = filling.elapsed();
    let few = rig.fill("few", HOT)?;
    let raw = args.sessions as f64 * DATA_BYTES as f64;
    found.add("disk / raw data, after filling", disk_bytes(&many.data())? / raw, 3.0, "");

    let at_start = serving(&rig, &many, &few, &mut found)?;
    let at_most = sweeping(&rig, &many, &few, &mut found)?.max(at_start);

    let memory = format!("{:.0} MiB at start, {:.0} at most", at_start / MIB, at_most / MIB);
    let cache = args.cache as f64 * MIB;
    found.add("resident memory / store.sled.cache_bytes", at_most / cache, 1.5, memory);
    let told = told_bytes(cache, args.sessions as f64);
    let what = "resident memory / what docs/operations.md says";
    found.add(what, at_most / told, 1.5, format!("{:.0} MiB", told / MIB));
    found.add("disk / raw data, at the end", disk_bytes(&many.data())? / raw, 3.0, "");
    let note = format!(
        "{}; {} live sessions of {DATA_BYTES} bytes, filled in {:.0} s, {} MiB of cache; \
         {} rounds of {} s, {IN_FLIGHT} in flight, the daemon on all cores",
        machine::in_words(),
        args.sessions,
        filled.as_secs_f64(),
        args.cache,
        args.rounds,
        args.seconds,
    );
    found.print(&note, args.markdown)
}

/// The memory that the process needs according to docs/operations.md (Memory).
fn told_bytes(cache: f64, sessions: f64) -> f64 {
    let late = sessions.min(100_000.0) * (DATA_BYTES + 150) as f64;
    20.0 * MIB + cache + sessions * 100.0 + late
}

/// The time until it serves, and the latencies at rest and during flushes. Returns the resident
/// memory when it begins to serve.
fn serving(rig: &Rig, many: &Site, few: &Site, found: &mut Findings) -> Result<f64, Problem> {
    eprintln!("opening");
    let (daemon, took) = rig.serve(many)?;
    found.add("open to serving after the filling and a clean stop, s", took, 2.0, "");
    let resident = daemon.process.resident_bytes()? as f64;

    eprintln!("latencies at rest and during flushes");
    let (other, _) = rig.serve(few)?;
    rig.warm_up(&other, few)?;
    rig.warm_up(&daemon, many)?;
    let (mut alone, mut among, mut flushing) = Default::default();
    for _ in 0..rig.rounds {
        rig.resolves(&other, few, &mut alone, || Ok(()))?;
        rig.resolves(&daemon, many, &mut among, || Ok(()))?;
        let writes = || rig.writes(&daemon, many, rig.seconds);
        rig.resolves(&daemon, many, &mut flushing, writes)?;
    }
    let what = "p99 of Resolve on a hot set of 10,000 / without the others";
    found.compare(what, &among, &alone, |latencies| latencies.p99_us, 1.5);
    let what = "p99.9 of Resolve during flushes / at rest";
    found.compare(what, &flushing, &among, |latencies| latencies.p999_us, 3.0);

    eprintln!("kill -9 after writes");
    rig.writes(&daemon, many, Duration::from_secs(1))?;
    drop(daemon);
    let (daemon, took) = rig.serve(many)?;
    found.add("open to serving after kill -9, s", took, 2.0, "");
    daemon.stop()?;
    other.stop()?;
    Ok(resident)
}

/// The cost of cleanups, and the latencies meanwhile. Returns the maximum of the resident
/// memory.
fn sweeping(rig: &Rig, many: &Site, few: &Site, found: &mut Findings) -> Result<f64, Problem> {
    eprintln!("sweeps");
    let mut resident = 0.0;
    let (mut quiet, mut during, mut times) = (Vec::new(), Vec::new(), Vec::new());
    let (mut among_many, mut among_few) = (Vec::new(), Vec::new());
    for _ in 0..rig.rounds {
        for (site, costs) in [(many, &mut among_many), (few, &mut among_few)] {
            rig.expire(site)?;
            let (daemon, _) = rig.serve(site)?;
            costs.push(rig.sweep(&daemon)?.cpu_us);
            daemon.stop()?;
        }
        rig.expire(many)?;
        let (daemon, _) = rig.serve(many)?;
        rig.warm_up(&daemon, many)?;
        rig.resolves(&daemon, many, &mut quiet, || Ok(()))?;
        let swept = rig.resolves(&daemon, many, &mut during, || rig.sweep(&daemon))?;
        times.push(swept.seconds);
        resident = f64::max(resident, daemon.process.resident_bytes()? as f64);
        daemon.stop()?;
    }
    let what = "p99.9 of Resolve during a sweep of 100,000 / at rest";
    found.compare(what, &during, &quiet, |latencies| latencies.p999_us, 3.0);
    let took = median(times);
    let ratio = median(among_many.iter().zip(&among_few).map(|(many, few)| many / few));
    let of = format!(
        "{:.1} / {:.1} µs; under load a sweep took {took:.1} s",
        median(among_many),
        median(among_few)
    );
    found.add("CPU of a sweep per expired session / with 10,000 live", ratio, 1.2, of);
    Ok(resident)
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    Spread::of(values).expect("there is a round").median
}

/// The figures, each with its target.
#[derive(Default)]
struct Findings(Vec<Vec<String>>);

impl Findings {
    fn add(&mut self, what: &str, found: f64, at_most: f64, of: impl Into<String>) {
        eprintln!("  {what}: {found:.2}");
        self.0.push(vec![
            what.to_owned(),
            format!("{found:.2}"),
            format!("{at_most:.1}"),
            of.into(),
        ]);
    }

    /// Compares latencies that were measured in turn.
    fn compare(
        &mut self,
        what: &str,
        over: &[Latencies],
        under: &[Latencies],
        quantile: fn(&Latencies) -> u64,
        at_most: f64,
    ) {
        let of = |latencies: &Latencies| quantile(latencies) as f64;
        let ratio = median(over.iter().zip(under).map(|(over, under)| of(over) / of(under)));
        let told = |latencies: &[Latencies]| {
            let Spread { median, min, max } =
                Spread::of(latencies.iter().map(of)).expect("there is a round");
            format!("{median:.0} ({min:.0}..{max:.0})")
        };
        self.add(what, ratio, at_most, format!("{} / {} µs", told(over), told(under)));
    }

    fn print(self, note: &str, markdown: bool) -> Result<(), Problem> {
        let mut table = Table::new(&["what", "found", "at most", "of"]);
        table.lines = self.0;
        let text = if markdown { table.markdown() } else { table.plain() };
        let mut out = std::io::stdout().lock();
        let written = write!(out, "{note}\n\n{text}").and_then(|()| out.flush());
        written.map_err(|error| format!("cannot write to standard output: {error}"))
    }
}

/// The cost of a cleanup for each session that it removed, and how long it took.
struct Sweep {
    cpu_us: f64,
    seconds: f64,
}

/// A data directory, and the cookies of its hot set.
struct Site {
    directory: PathBuf,
}

impl Site {
    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn cookies(&self) -> PathBuf {
        self.directory.join("cookies")
    }
}

struct Rig {
    server: PathBuf,
    generator: Generator,
    runtime: Runtime,
    rounds: u32,
    seconds: Duration,
    cache_bytes: u64,
    directory: TempDir,
}

impl Rig {
    fn new(args: &Args) -> Result<Self, Problem> {
        let directory = match &args.directory {
            None => scratch()?,
            Some(path) => tempfile::tempdir_in(path)
                .map_err(|error| format!("{}: cannot make a directory: {error}", path.display()))?,
        };
        let seconds = Duration::try_from_secs_f64(args.seconds);
        Ok(Self {
            server: args.server.clone().map_or_else(daemon::shipped, Ok)?,
            generator: Generator { binary: args.generator.clone(), cores: Vec::new() },
            runtime: Runtime::new().map_err(|error| error.to_string())?,
            rounds: args.rounds,
            seconds: seconds.map_err(|_| "--seconds: expected a number such as 3 or 0.5")?,
            cache_bytes: args.cache << 20,
            directory,
        })
    }

    /// Makes a directory with this many live sessions. The hot set is scattered among them.
    fn fill(&self, name: &str, live: usize) -> Result<Site, Problem> {
        let site = Site { directory: self.directory.path().join(name) };
        fs::create_dir(&site.directory).map_err(|error| error.to_string())?;
        let keyring = keyring();
        let mut cookies = Vec::with_capacity(HOT);
        let now = SystemClock::start().now();
        let every = live / HOT;
        let sessions = (0..live).map(|number| {
            let id = SessionId::generate(&SystemEntropy);
            if number % every == 0 && cookies.len() < HOT {
                cookies.push(format!("{COOKIE}={}", keyring.sign(&id).expose()));
            }
            (id, now)
        });
        self.create(&site, sessions)?;
        let written = fs::write(site.cookies(), cookies.join("\n"));
        written.map_err(|error| error.to_string())?;
        Ok(site)
    }

    /// Adds expired sessions.
    fn expire(&self, site: &Site) -> Result<(), Problem> {
        let now = SystemClock::start().now().unix_millis();
        let life = 3 * SITE_LIFE.as_millis() as u64;
        let sessions = (0..EXPIRED as u64).map(|number| {
            let created = Moment::from_unix_millis(now - life - number % 10_000);
            (SessionId::generate(&SystemEntropy), created)
        });
        self.create(site, sessions)
    }

    /// Stores sessions with these create times, without gRPC.
    fn create(
        &self,
        site: &Site,
        sessions: impl Iterator<Item = (SessionId, Moment)>,
    ) -> Result<(), Problem> {
        let database = SledDatabase::open(SledOptions {
            path: site.data(),
            cache_bytes: self.cache_bytes,
            flush_interval: Duration::from_millis(100),
            threads: 2,
            max_pending: 4096,
            on_damage: sessiond::store::sled::OnDamage::Refuse,
            min_free_bytes: 64 << 20,
            write: Durability::Buffered,
            destroy: Durability::Buffered,
            roll: Durability::Buffered,
        })
        .map_err(|error| error.to_string())?;
        let store = database.store("default").map_err(|error| error.to_string())?;
        let store = Arc::new(store);
        let data = Data::parse(Bytes::from(daemon::data(DATA_BYTES))).expect("JSON");
        let creates = sessions.map(|(id, created)| {
            let record = Record {
                verifier: id.verifier_hash(),
                version: 1,
                create_time: created,
                deadline: created + 2 * SITE_LIFE,
                duration: None,
                principal: Default::default(),
                data: data.clone(),
                extension: Default::default(),
            };
            let store = Arc::clone(&store);
            async move {
                let created = store.create(id.public(), record).await;
                let created = created.map_err(|error| error.to_string())?;
                created.map(drop).ok_or_else(|| "an id exists already".to_owned())
            }
        });
        self.runtime.block_on(async {
            let done = stream::iter(creates).buffer_unordered(FILLING).try_collect::<()>();
            done.await?;
            database.sync().await.map_err(|error| error.to_string())
        })
    }

    /// Serves a directory. Returns the seconds from the start of the process until its ready
    /// line.
    fn serve(&self, site: &Site) -> Result<(Daemon, f64), Problem> {
        let cache = format!("{}B", self.cache_bytes);
        let life = format!("{}s", SITE_LIFE.as_secs());
        let settings = [
            ("store.sled.cache_bytes", cache.as_str()),
            // So long that no deadline has to move. Otherwise all of them would move at the
            // same time.
            ("engine.default.duration", &life),
            ("engine.default.touch_granularity", &life),
            ("cleanup.interval", "1d"),
        ];
        let started = Instant::now();
        let daemon = Daemon::start(&self.server, &[], &site.directory, &settings)?;
        Ok((daemon, started.elapsed().as_secs_f64()))
    }

    /// Resolves the hot set until it is in memory.
    fn warm_up(&self, daemon: &Daemon, site: &Site) -> Result<(), Problem> {
        let (little, much) = (Duration::from_millis(1), Duration::from_secs(4));
        self.load(daemon, &site.cookies(), "resolve", little, much).map(drop)
    }

    /// Resolves the hot set while `meanwhile` runs.
    fn resolves<T: Send>(
        &self,
        daemon: &Daemon,
        site: &Site,
        measured: &mut Vec<Latencies>,
        meanwhile: impl FnOnce() -> Result<T, Problem> + Send,
    ) -> Result<T, Problem> {
        let warm_up = Duration::from_secs(1);
        let (generated, done) = std::thread::scope(|scope| {
            let meanwhile = scope.spawn(|| {
                // So that it begins together with the measurement.
                std::thread::sleep(warm_up);
                meanwhile()
            });
            let load = self.load(daemon, &site.cookies(), "resolve", warm_up, self.seconds);
            (load, meanwhile.join().expect("it does not panic"))
        });
        let latencies = generated?.operations.pop().ok_or("no operation was measured")?;
        measured.push(latencies);
        done
    }

    /// Makes writes one after the other, each of them flushed.
    fn writes(&self, daemon: &Daemon, site: &Site, during: Duration) -> Result<(), Problem> {
        let little = Duration::from_millis(1);
        self.load(daemon, &site.cookies(), "write", little, during).map(drop)
    }

    fn load(
        &self,
        daemon: &Daemon,
        cookies: &Path,
        mix: &str,
        warm_up: Duration,
        duration: Duration,
    ) -> Result<Generated, Problem> {
        self.generator.run(&Load {
            address: &daemon.tcp,
            pid: daemon.process.id(),
            cookies,
            mix,
            pipeline: false,
            connections: 1,
            in_flight: if mix == "write" { 1 } else { IN_FLIGHT },
            data_bytes: DATA_BYTES,
            warm_up,
            duration,
        })
    }

    /// Runs a cleanup of the expired sessions.
    fn sweep(&self, daemon: &Daemon) -> Result<Sweep, Problem> {
        let (before, started) = (daemon.process.cpu_time()?, Instant::now());
        let removed = self.runtime.block_on(daemon.sweep())?;
        let cpu = daemon.process.cpu_time()?.saturating_sub(before);
        if removed != EXPIRED as u64 {
            return Err(format!("expected a sweep to remove {EXPIRED} sessions, found {removed}"));
        }
        let cpu_us = cpu.as_secs_f64() * 1e6 / removed as f64;
        Ok(Sweep { cpu_us, seconds: started.elapsed().as_secs_f64() })
    }
}

/// The disk space that the files of a directory use.
fn disk_bytes(directory: &Path) -> Result<f64, Problem> {
    let mut blocks = 0;
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        let entries = fs::read_dir(&path).map_err(|error| error.to_string())?;
        for entry in entries {
            let entry = entry.map_err(|error| error.to_string())?;
            let metadata = entry.metadata().map_err(|error| error.to_string())?;
            match metadata.is_dir() {
                true => left.push(entry.path()),
                false => blocks += metadata.blocks(),
            }
        }
    }
    // stat(2): the unit is 512 bytes on every file system.
    Ok(blocks as f64 * 512.0)
}
