//! The process: what a configuration becomes.
//!
//! [`Server::build`] opens the store and binds the listeners. Whatever can fail at start
//! fails there, and the addresses are known after it. [`Server::run`] serves until it is
//! told to stop. Time and randomness come in as arguments.
//!
//! | file | holds |
//! |---|---|
//! | [`config`] | defaults, file, environment, flags, and the rules that they must follow |
//! | [`listen`], [`unix_socket`], [`passed`] | sockets: bound, or opened by the service manager |
//! | [`gate`], [`preface`] | connections, and their protocols |
//! | [`places`] | how many connections there may be, and which one makes room |
//! | [`workers`] | the threads that serve connections |
//! | [`http2`] | a connection, from its preface to its end |
//! | [`grpc_server`] | the gRPC services of a listener |
//! | [`cleanup`], [`jitter`] | the periodic cleanup, and times with jitter |
//! | [`tls`], [`certificate`] | certificates and keys |
//! | [`reload`] | new secrets, tokens and certificates without a restart |
//! | [`refusals`] | callers that were refused, counted and logged |
//! | [`traces`] | spans for a collector |
//! | [`metrics`], [`scrape`] | the metrics, and the page that shows them |
//! | [`fitness`] | whether the stores can serve |
//! | [`status`] | how the daemon is, for operators and probes |
//! | [`phase`] | what the daemon does, for whoever supervises it |
//! | [`outages`], [`slow`] | what the log says about a store that fails, and about slow operations |
//! | [`clock`], [`time_mark`] | the clock of the sessions, and what a database keeps of it |
//! | [`peak`] | when memory is worth giving back |
//! | [`system`] | the system's clocks and randomness |
//! | [`log`] | the log |

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{
    config::{AdoptChoice, Checked, Config, ConfigError, ListenAddr, SocketAccess},
    fitness::Fitness,
    gate::{Gate, ListenerPlaces},
    grpc_server::GrpcServer,
    listen::{BindError, Listener},
    metrics::Metrics,
    passed::{PassedListeners, PassedSockets},
    peak::Peak,
    phase::{Phase, Supervisor},
    refusals::ListenerRefusals,
    reload::{ConfigSource, FirstLooks, InForce, Reloader, Replaceable, Requests, TlsInForce},
    scrape::Scraper,
    slow::SlowLog,
    status::{Probes, Pulse, Reporter},
    tls::Tls,
    traces::{Exporter, Tracing},
    workers::{Balance, RuntimeExecutors},
};
use crate::{
    grpc::{auth::Guard, health::Serving},
    service::{
        access::{Access, Role},
        engines::Engines,
        peer_memory::{FREE_BYTES, PeerMemory},
        watchers::Watchers,
    },
    session::{
        adoption::{Adoption, Application},
        clock::Clock,
        engine::Engine,
        id::Entropy,
        store::{Store, StoreError},
    },
    store::{
        database::{Database, OpenError},
        redis::ForeignRedis,
    },
};

mod certificate;
pub mod cleanup;
pub mod clock;
pub mod config;
mod fitness;
mod gate;
mod grpc_server;
mod http2;
mod jitter;
pub mod listen;
pub mod log;
pub mod metrics;
mod outages;
pub mod passed;
mod peak;
pub mod phase;
mod places;
mod preface;
mod refusals;
pub mod reload;
mod scrape;
mod slow;
mod status;
pub mod system;
pub mod time_mark;
mod tls;
mod traces;
mod unix_socket;
mod workers;

/// How often the clock looks whether somebody has set the wall clock.
const WALL_INTERVAL: Duration = Duration::from_secs(1);
/// After how many of these looks the time is marked in the database.
const LOOKS_PER_MARK: u32 = 10;
/// How often the process looks whether it keeps much memory that is free.
const TRIM_INTERVAL: Duration = Duration::from_secs(2);
/// Follows the name of an engine, for the store with the marks of what it has adopted. No
/// request can name such an engine.
const MARKS: &str = "/adopted";

/// Checks a configuration and its files as [`Server::build`] does. Binds and opens nothing.
///
/// Finds all that is wrong: at least one error, if there is any.
pub fn check(config: &Config) -> Result<Checked, Vec<ConfigError>> {
    Ok(read_all(config)?.0)
}

/// Checks a configuration, and reads all files that it names. The first error counts.
fn read(config: &Config) -> Result<(Checked, Option<Tls>), ConfigError> {
    read_all(config).map_err(|errors| errors.into_iter().next().expect("there is one"))
}

fn read_all(config: &Config) -> Result<(Checked, Option<Tls>), Vec<ConfigError>> {
    let checked = config::check_all(config);
    // Without both files there is nothing to load, and the check has said so.
    let papers = [&config.listen.tls.cert_file, &config.listen.tls.key_file];
    let loaded = match papers.iter().all(|path| !path.as_os_str().is_empty()) {
        true => tls::load(&config.listen.tls, system::unix_seconds()),
        false => Ok(None),
    };
    match (checked, loaded) {
        (Ok(mut checked), Ok(tls)) => {
            checked.warnings.extend(tls.iter().flat_map(|tls| tls.papers.warnings().to_vec()));
            Ok((checked, tls))
        }
        (Err(errors), Ok(_)) => Err(errors),
        (Ok(_), Err(error)) => Err(vec![error]),
        (Err(mut errors), Err(error)) => {
            errors.push(error);
            Err(errors)
        }
    }
}

/// Why a daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operator must change the configuration, or a file that it names.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The data directory or Redis.
    #[error("{0}")]
    Store(#[from] OpenError),
    /// An address of `listen`.
    #[error("{0}")]
    Bind(#[from] BindError),
    /// The system has no more threads.
    #[error("the threads that serve cannot start: {0}")]
    Threads(io::Error),
}

/// What a daemon takes from its surroundings.
pub struct Surroundings {
    /// Judges all deadlines. It is moved forward to what the database was written at.
    pub clock: Arc<dyn Clock>,
    /// Makes the ids. Must be unpredictable.
    pub entropy: Arc<dyn Entropy>,
    /// Listeners that are open already. They take the place of those of the configuration.
    pub sockets: PassedSockets,
}

/// A daemon whose store is open and whose listeners are bound.
pub struct Server {
    config: Config,
    advice: Vec<String>,
    access: Arc<ArcSwap<Access>>,
    in_force: InForce,
    reloads: (Reloader, Requests),
    supervisor: Supervisor,
    engines: Engines,
    watchers: Arc<Watchers>,
    database: Arc<dyn Database>,
    metrics: Arc<Metrics>,
    traces: (Tracing, Option<Exporter>),
    workers: RuntimeExecutors,
    grpc: Vec<Listener>,
    admin: Vec<Listener>,
    scrape: Option<Scraper>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

/// Where a daemon listens, with the real ports.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// In the order of the configuration.
    pub grpc: Vec<ListenAddr>,
    /// Empty: the admin service is off.
    pub admin: Vec<ListenAddr>,
    /// `None`: off.
    pub metrics: Option<ListenAddr>,
}

impl Server {
    /// Opens the store and binds the listeners.
    pub async fn build(config: Config, mut surroundings: Surroundings) -> Result<Self, StartError> {
        let looks = FirstLooks::at(&config);
        let passed = std::mem::take(&mut surroundings.sockets).listeners()?;
        let (mut checked, tls) = read(&passed.in_force(&config))?;
        let advice = std::mem::take(&mut checked.advice);
        for warning in &checked.warnings {
            tracing::warn!("{warning}");
        }
        let metrics = Metrics::new();
        let told = std::mem::take(&mut checked.warnings);
        let access = Arc::new(ArcSwap::from_pointee(std::mem::take(&mut checked.access)));
        let redis = checked.redis.clone();
        let unix = checked.unix.clone();
        let (clock, entropy) = (Arc::clone(&surroundings.clock), Arc::clone(&surroundings.entropy));
        let limits = &config.limits;
        let watchers = Watchers::new(limits.max_watchers as usize, limits.watch_queue as usize);
        let traces = match checked.traces.take() {
            None => (Tracing::default(), None),
            Some(options) => {
                let backend = config.store.backend.kind().name;
                let (tracing, exporter) = Tracing::start(options, backend, &metrics.traces);
                (tracing, Some(exporter))
            }
        };
        let made = engines(checked, &metrics, &traces.0, &watchers, surroundings).await?;
        let (engines, database) = made;
        let tls = tls.map(|Tls { config, papers }| TlsInForce {
            config: Arc::new(ArcSwap::new(config)),
            papers,
        });
        let own = Replaceable { engines: engines.clone(), access: Arc::clone(&access), tls, redis };
        let in_force = InForce::new(&config, looks, own, metrics.reloads.clone(), told);
        let PassedListeners { grpc, admin, metrics: page } = passed;
        let page = match (page, &config.listen.metrics.0) {
            (Some(passed), _) => Some(passed),
            (None, None) => None,
            (None, Some(address)) => match Listener::bind(address, &unix.grpc).await? {
                Listener::Tcp(listener) => Some(listener),
                Listener::Unix(..) => None,
            },
        };
        let scrape = page.map(Scraper::new).transpose().map_err(StartError::Threads)?;
        Ok(Self {
            advice,
            access,
            in_force,
            reloads: Reloader::channel(),
            supervisor: Arc::new(|_| {}),
            engines,
            watchers,
            database,
            metrics,
            traces,
            workers: RuntimeExecutors::start(config.runtime.threads as usize)
                .map_err(StartError::Threads)?,
            grpc: bind(grpc, &config.listen.grpc, &unix.grpc).await?,
            admin: bind(admin, &config.listen.admin, &unix.admin).await?,
            scrape,
            clock,
            entropy,
            config,
        })
    }

    /// What is good for a trial and rarely for production in the configuration, a sentence
    /// each. Other warnings are logged by [`build`](Self::build).
    pub fn advice(&self) -> &[String] {
        &self.advice
    }

    /// The same daemon, which takes the configuration of a reload from `source`. Without it, a
    /// reload reads the files of its configuration again, and no configuration.
    pub fn reloading_from(mut self, source: ConfigSource) -> Self {
        self.in_force.source = Some(Arc::new(source));
        self
    }

    /// The same daemon, which tells `supervisor` what it does. It must not wait for long.
    pub fn supervised_by(mut self, supervisor: impl Fn(Phase<'_>) + Send + Sync + 'static) -> Self {
        self.supervisor = Arc::new(supervisor);
        self.in_force.supervisor = Arc::clone(&self.supervisor);
        self
    }

    /// Asks the daemon to reload. What is asked before it runs is done then.
    pub fn reloader(&self) -> Reloader {
        self.reloads.0.clone()
    }

    /// How many sessions are stored, those of all engines together. `None`: the store does not
    /// know.
    pub fn sessions(&self) -> Option<u64> {
        self.engines.iter().map(|engine| engine.count()).sum()
    }

    /// Known from the start, because the listeners are bound already.
    pub fn addresses(&self) -> Addresses {
        let all = |listeners: &[Listener]| listeners.iter().map(Listener::address).collect();
        let scrape = self.scrape.as_ref().and_then(Scraper::address);
        Addresses {
            grpc: all(&self.grpc),
            admin: all(&self.admin),
            metrics: scrape.map(ListenAddr::Tcp),
        }
    }

    /// Serves until `stop` is done. Then it accepts no more connections, finishes the
    /// operations in flight within the grace period, and closes the database. An error
    /// means that this last sync, or an earlier one, has failed.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), StoreError> {
        // Two steps of a stop: health says so, then connections end.
        let (draining, stopping) = (CancellationToken::new(), CancellationToken::new());
        let memory = PeerMemory::new(self.config.limits.max_held_bytes.as_usize());
        let (health, serving) = watch::channel(Fitness::of(&self.engines).serving());
        let places = Arc::new([
            ListenerPlaces::new("grpc", self.config.limits.max_connections as usize),
            ListenerPlaces::new("admin", places::ADMIN_PLACES),
        ]);
        let connections = Arc::clone(&places);
        let open = move || connections.iter().map(ListenerPlaces::open).sum::<usize>();
        let reporter = Arc::new(Reporter {
            metrics: Arc::clone(&self.metrics),
            engines: self.engines.clone(),
            watchers: Arc::clone(&self.watchers),
            memory: Arc::clone(&memory),
            open: Box::new(open.clone()),
            connections_limit: self.config.limits.max_connections as usize,
            database: Arc::clone(&self.database),
            started: self.clock.now(),
            clock: Arc::clone(&self.clock),
            store: self.config.store.backend.kind().name,
            addresses: self.addresses(),
            stopping: draining.clone(),
        });
        let (reloader, requests) = self.reloads;
        let (tls, slow) = (self.in_force.tls(), self.config.log.slow.0);
        let guard = |listener, role| Guard {
            access: Arc::clone(&self.access),
            role,
            refusals: Arc::new(ListenerRefusals::new(listener, &self.metrics)),
        };
        let services = GrpcServer {
            limits: self.config.limits.clone(),
            slice: self.config.cleanup.slice as usize,
            reflection: self.config.listen.reflection,
            reloads: Arc::new(reloader),
            engines: self.engines.clone(),
            watchers: Arc::clone(&self.watchers),
            observer: Arc::new(SlowLog::new(self.metrics.of_requests(&self.engines), slow)),
            serving: serving.clone(),
            stopping: stopping.clone(),
            status: Arc::clone(&reporter) as _,
            traces: self.traces.0.calls(),
        };
        let sessions = Arc::new(services.sessions(guard("grpc", Role::Frontend)));
        let admin = Arc::new(services.admin(guard("admin", Role::Admin)));

        let exporting = CancellationToken::new();
        let exporter = self.traces.1.map(|exporter| tokio::spawn(exporter.run(exporting.clone())));
        let mut background = JoinSet::new();
        background.spawn(self.in_force.serve(requests));
        for engine in self.engines.iter() {
            let interval = self.config.cleanup.interval.0;
            let slice = self.config.cleanup.slice as usize;
            let entropy = Arc::clone(&self.entropy);
            background.spawn(cleanup::run(Arc::clone(engine), interval, slice, entropy));
        }
        let mut fitness = JoinSet::new();
        let health = Arc::new(health);
        let supervisor = Arc::clone(&self.supervisor);
        fitness.spawn(fitness::watch(self.engines.clone(), Arc::clone(&health), supervisor));
        background.spawn(keep_time(Arc::clone(&self.database), Arc::clone(&self.clock)));
        background.spawn(give_memory_back(open.clone(), Arc::clone(&memory)));
        let pulse = Pulse::new();
        background.spawn(Arc::clone(&pulse).beat());
        let probes = Probes { pulse, serving, stopping: draining.clone() };
        let scraping = self.scrape.map(|scraper| scraper.serve(move || reporter.page(), probes));

        let mut serving = JoinSet::new();
        let gate = Gate {
            memory,
            limits: self.config.limits,
            tls,
            balance: Balance::between(self.workers.runtimes().count()),
            entropy: Arc::clone(&self.entropy),
            stopping: stopping.clone(),
        };
        let handlers = [(self.grpc, sessions), (self.admin, admin)];
        for (places, (listeners, handler)) in places.iter().zip(handlers) {
            for listener in listeners {
                gate.serve(listener, places, &handler, &self.workers, &mut serving);
            }
        }

        stop.await;
        fitness.shutdown().await;
        health.send_replace(Serving::default());
        draining.cancel();
        if let Some(time) = self.config.runtime.drain.0 {
            (self.supervisor)(Phase::Draining(time));
            let span = self.config.runtime.drain;
            tracing::info!("draining: not ready any more; the listeners close after {span}");
            tokio::time::sleep(time).await;
        }
        (self.supervisor)(Phase::Stopping);
        tracing::info!("stopping: no more connections are taken, what is in flight is finished");
        stopping.cancel();
        let grace = self.config.runtime.shutdown_grace;
        let drained =
            tokio::time::timeout(grace.0, async { while serving.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!(
                open = open(),
                "connections are cut: they were still busy after {grace}"
            );
        }
        serving.shutdown().await;
        background.shutdown().await;
        // The connections that were cut end with them.
        drop((self.workers, scraping));
        exporting.cancel();
        if let Some(exporter) = exporter {
            let _ = exporter.await;
        }
        self.database.close(self.clock.mark()).await
    }
}

/// Marks the time in the database, so that the next start continues from there. Follows the
/// wall clock where somebody sets it.
async fn keep_time(database: Arc<dyn Database>, clock: Arc<dyn Clock>) {
    loop {
        for _ in 0..LOOKS_PER_MARK {
            tokio::time::sleep(WALL_INTERVAL).await;
            if clock.follow_wall() {
                break;
            }
        }
        mark_time(database.as_ref(), clock.as_ref()).await;
    }
}

async fn mark_time(database: &dyn Database, clock: &dyn Clock) {
    if let Err(error) = database.mark_time(clock.mark()).await {
        tracing::warn!("the time was not marked: {error}");
    }
}

/// Gives memory back to the system after a peak: when the resident memory has grown and grows no
/// more, and when peers hold much less than before.
async fn give_memory_back(open: impl Fn() -> usize, memory: Arc<PeerMemory>) {
    let Ok(resident) = system::resident_bytes() else {
        return;
    };
    let mut peak = Peak::new(resident);
    loop {
        tokio::time::sleep(TRIM_INTERVAL).await;
        let Ok(resident) = system::resident_bytes() else {
            return;
        };
        let held = memory.used() + open() * FREE_BYTES;
        if peak.is_over(resident, held) {
            // It may take long enough to delay who connects.
            let _ = tokio::task::spawn_blocking(system::give_back_freed_memory).await;
            peak.given_back(system::resident_bytes().unwrap_or(resident), held);
        }
    }
}

/// Binds the addresses, unless there are sockets that were passed for them.
async fn bind(
    passed: Vec<Listener>,
    addresses: &[ListenAddr],
    access: &SocketAccess,
) -> Result<Vec<Listener>, BindError> {
    if !passed.is_empty() {
        for listener in &passed {
            tracing::info!(address = %listener.address(), "a socket of the service manager is used");
        }
        return Ok(passed);
    }
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.push(Listener::bind(address, access).await?);
    }
    Ok(listeners)
}

async fn engines(
    mut checked: Checked,
    metrics: &Metrics,
    traces: &Tracing,
    watchers: &Arc<Watchers>,
    surroundings: Surroundings,
) -> Result<(Engines, Arc<dyn Database>), StartError> {
    let database = checked.store.open(Arc::clone(&surroundings.clock)).await?;
    if let Some(mark) = database.time_mark()? {
        surroundings.clock.resume(mark);
    }
    // Before the first change, so that no crash leaves changes without a mark.
    mark_time(database.as_ref(), surroundings.clock.as_ref()).await;
    let store = |name: &str| -> Result<Arc<dyn Store>, StartError> {
        let store = traces.store(name, database.store(name)?);
        Ok(Arc::new(metrics.measured(name, store)))
    };
    let mut known = BTreeSet::from_iter(database.engines());
    let mut engines = BTreeMap::new();
    for (name, policy) in checked.engines {
        let Surroundings { clock, entropy, .. } = &surroundings;
        let engine =
            Engine::new(&name, policy, store(&name)?, Arc::clone(clock), Arc::clone(entropy));
        let mut engine = engine.with_events(Arc::clone(watchers) as _);
        known.remove(&name);
        let marks = format!("{name}{MARKS}");
        let choice = checked.adoptions.remove(&name);
        // The marks of an adoption that is no longer configured are still swept.
        if known.remove(&marks) || choice.is_some() {
            let from = choice.map(|AdoptChoice { redis, reading, remember }| Application {
                source: metrics.measured_source(&marks, ForeignRedis::start(&redis, reading)),
                remember,
            });
            engine = engine.adopting(Adoption { marks: store(&marks)?, from });
        }
        engines.insert(name, Arc::new(engine));
    }
    for name in known {
        tracing::warn!(
            engine = name,
            "the store holds sessions of an engine that is not configured; they are kept"
        );
    }
    Ok((Engines::new(engines), database))
}
