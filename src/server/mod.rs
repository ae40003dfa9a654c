//! The process: what a configuration becomes.
//!
//! [`Server::build`] opens the store and binds the listeners. Whatever can fail at start
//! fails there, and the addresses are known after it. [`Server::run`] serves until it is
//! told to stop. Time and randomness come in as arguments.
//!
//! | file | holds |
//! |---|---|
//! | [`config`] | defaults, file, environment, flags, and the rules that they must follow |
//! | [`listen`], [`gate`] | sockets, the limit of connections, and their protocols |
//! | [`workers`] | the threads that serve connections |
//! | [`grpc_server`] | the gRPC services of a listener |
//! | [`cleanup`], [`jitter`] | the periodic cleanup, and times with jitter |
//! | [`tls`] | certificates and keys |
//! | [`metrics`], [`scrape`] | the metrics, and the page that shows them |
//! | [`outages`] | what the log says about a store that fails |
//! | [`clock`], [`time_mark`] | the clock of the sessions, and what a database keeps of it |
//! | [`system`] | the system's clocks and randomness |
//! | [`log`] | the log |

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use self::{
    config::{AdoptChoice, Checked, Config, ConfigError, ListenAddr},
    gate::Gate,
    grpc_server::GrpcServer,
    listen::{BindError, ConnectionLimit, Listener},
    metrics::Metrics,
    workers::{Balance, RuntimeExecutors},
};
use crate::{
    grpc::auth::BearerAuth,
    service::{engines::Engines, watchers::Watchers},
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

pub mod cleanup;
pub mod clock;
pub mod config;
mod gate;
mod grpc_server;
mod jitter;
pub mod listen;
pub mod log;
pub mod metrics;
mod outages;
pub mod scrape;
pub mod system;
pub mod time_mark;
mod tls;
mod workers;

/// How often the clock looks whether somebody has set the wall clock.
const WALL_INTERVAL: Duration = Duration::from_secs(1);
/// After how many of these looks the time is marked in the database.
const LOOKS_PER_MARK: u32 = 10;
/// How often the stores are asked whether they can serve.
const FITNESS_INTERVAL: Duration = Duration::from_secs(1);
/// Follows the name of an engine, for the store with the marks of what it has adopted. No
/// request can name such an engine.
const MARKS: &str = "/adopted";

/// Checks a configuration and its files as [`Server::build`] does. Binds and opens nothing.
pub fn check(config: &Config) -> Result<Checked, ConfigError> {
    tls::load(&config.listen.tls)?;
    config::check(config)
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
}

/// A daemon whose store is open and whose listeners are bound.
pub struct Server {
    config: Config,
    advice: Vec<String>,
    tls: Option<TlsAcceptor>,
    auth: Option<BearerAuth>,
    engines: Engines,
    watchers: Arc<Watchers>,
    database: Arc<dyn Database>,
    metrics: Arc<Metrics>,
    workers: RuntimeExecutors,
    connections: ConnectionLimit,
    grpc: Vec<Listener>,
    admin: Vec<Listener>,
    scrape: Option<TcpListener>,
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
    pub async fn build(config: Config, surroundings: Surroundings) -> Result<Self, StartError> {
        let mut checked = config::check(&config)?;
        let advice = std::mem::take(&mut checked.advice);
        for warning in &checked.warnings {
            tracing::warn!("{warning}");
        }
        let tls = tls::load(&config.listen.tls)?;
        let metrics = Metrics::new();
        let auth = (!checked.tokens.is_empty())
            .then(|| BearerAuth::new(checked.tokens.iter().map(|token| token.as_bytes())));
        let (clock, entropy) = (Arc::clone(&surroundings.clock), Arc::clone(&surroundings.entropy));
        let limits = &config.limits;
        let watchers = Watchers::new(limits.max_watchers as usize, limits.watch_queue as usize);
        let (engines, database) = engines(checked, &metrics, &watchers, surroundings).await?;
        let scrape = match config.listen.metrics.0 {
            None => None,
            Some(address) => match Listener::bind(&ListenAddr::Tcp(address)).await? {
                Listener::Tcp(listener) => Some(listener),
                Listener::Unix(..) => None,
            },
        };
        Ok(Self {
            advice,
            tls,
            auth,
            engines,
            watchers,
            database,
            metrics,
            workers: RuntimeExecutors::start(config.runtime.threads as usize)
                .map_err(StartError::Threads)?,
            connections: ConnectionLimit::new(config.limits.max_connections as usize),
            grpc: bind(&config.listen.grpc).await?,
            admin: bind(&config.listen.admin).await?,
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

    /// Known from the start, because the listeners are bound already.
    pub fn addresses(&self) -> Addresses {
        let all = |listeners: &[Listener]| listeners.iter().map(Listener::address).collect();
        let scrape = self.scrape.as_ref().and_then(|listener| listener.local_addr().ok());
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
        let stopping = CancellationToken::new();
        let mut health = HealthReporter::new();
        let services = GrpcServer {
            limits: self.config.limits.clone(),
            slice: self.config.cleanup.slice as usize,
            reflection: self.config.listen.reflection,
            auth: self.auth,
            engines: self.engines.clone(),
            watchers: Arc::clone(&self.watchers),
            observer: Arc::clone(&self.metrics) as _,
            health: health.clone(),
            stopping: stopping.clone(),
        };
        let (sessions, admin) = (Arc::new(services.sessions()), Arc::new(services.admin()));
        set_health(&health, status(&self.engines)).await;

        let mut background = JoinSet::new();
        for engine in self.engines.iter() {
            let interval = self.config.cleanup.interval.0;
            let slice = self.config.cleanup.slice as usize;
            let entropy = Arc::clone(&self.entropy);
            background.spawn(cleanup::run(Arc::clone(engine), interval, slice, entropy));
        }
        let mut fitness = JoinSet::new();
        fitness.spawn(watch_fitness(self.engines.clone(), health.clone()));
        background.spawn(keep_time(Arc::clone(&self.database), Arc::clone(&self.clock)));
        if let Some(listener) = self.scrape {
            let (metrics, engines) = (self.metrics, self.engines.clone());
            let connections = self.connections.clone();
            let watchers = self.watchers;
            let page = Arc::new(move || metrics.to_text(&engines, &connections, &watchers));
            background.spawn(scrape::serve(listener, page));
        }

        let mut serving = JoinSet::new();
        let gate = Gate {
            limits: self.config.limits,
            tls: self.tls,
            connections: self.connections.clone(),
            balance: Balance::between(self.workers.runtimes().count()),
            entropy: Arc::clone(&self.entropy),
            stopping: stopping.clone(),
        };
        for (listeners, handler) in [(self.grpc, sessions), (self.admin, admin)] {
            for listener in listeners {
                gate.serve(listener, &handler, &self.workers, &mut serving);
            }
        }

        stop.await;
        tracing::info!("stopping: no more connections are taken, what is in flight is finished");
        fitness.shutdown().await;
        set_health(&health, ServingStatus::NotServing).await;
        stopping.cancel();
        // Ends the streams that watch health, which would delay the stop.
        for service in HEALTH_NAMES {
            health.clear_service_status(service).await;
        }
        let grace = self.config.runtime.shutdown_grace;
        let drained =
            tokio::time::timeout(grace.0, async { while serving.join_next().await.is_some() {} });
        if drained.await.is_err() {
            let open = self.connections.open();
            tracing::warn!(open, "connections are cut: they were still busy after {grace}");
        }
        serving.shutdown().await;
        background.shutdown().await;
        // The connections that were cut end with them.
        drop(self.workers);
        self.database.close(self.clock.mark()).await
    }
}

/// The names that gRPC health answers to. The empty one is the daemon as a whole.
const HEALTH_NAMES: [&str; 3] =
    ["", "sessiond.v1.SessionService", "sessiond.v1.SessionAdminService"];

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    for service in HEALTH_NAMES {
        health.set_service_status(service, status).await;
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

/// Keeps health as the stores report it: NOT_SERVING while a store cannot serve. If a
/// store can no longer keep its promises, that is permanent.
async fn watch_fitness(engines: Engines, health: HealthReporter) {
    let mut fit = true;
    loop {
        match unfit(&engines) {
            Some(error) if fit => tracing::error!("not serving from now on: {error}"),
            None if !fit => tracing::info!("serving again"),
            _ => {}
        }
        fit = unfit(&engines).is_none();
        set_health(&health, status(&engines)).await;
        tokio::time::sleep(FITNESS_INTERVAL).await;
    }
}

fn unfit(engines: &Engines) -> Option<crate::session::error::Error> {
    engines.iter().find_map(|engine| engine.check().err())
}

fn status(engines: &Engines) -> ServingStatus {
    match unfit(engines) {
        None => ServingStatus::Serving,
        Some(_) => ServingStatus::NotServing,
    }
}

async fn bind(addresses: &[ListenAddr]) -> Result<Vec<Listener>, BindError> {
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.push(Listener::bind(address).await?);
    }
    Ok(listeners)
}

async fn engines(
    mut checked: Checked,
    metrics: &Metrics,
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
        Ok(Arc::new(metrics.measured(name, database.store(name)?)))
    };
    let mut known = BTreeSet::from_iter(database.engines());
    let mut engines = BTreeMap::new();
    for (name, policy) in checked.engines {
        let Surroundings { clock, entropy } = &surroundings;
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
