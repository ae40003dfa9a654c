//! Reload: takes over new secrets, tokens, certificates, passwords and the level of the log, while
//! the daemon runs.
//!
//! One task makes all reloads, one after the other. It reads the configuration and every file
//! that this names, checks all of it as a start does, and compares it with what is in force. Only
//! then it takes over, and nothing of that can fail. So what was in force stays as a whole, or
//! goes as a whole.
//!
//! A file may be foreign, or written in part, and still be one that a start would take. So some
//! changes are refused here that a restart allows: cookie secrets without the one that signs,
//! tokens of which none stays, a certificate for other names.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_rustls::rustls::ServerConfig;

use self::watched::Looks;
use super::{
    config::{Backend, Checked, Config, ConfigError, LogLevel, RedisAccess, restart_keys},
    system,
    tls::{Papers, Tls},
};
use crate::{
    service::{
        access::Access,
        engines::Engines,
        reload::{Refused, Reload, Reloaded, Trigger},
    },
    session::token::Keyring,
};

pub(super) use self::figures::ReloadMetrics;

mod figures;
mod watched;

/// How long reading may take. A pipe that nobody writes to, or a disk that hangs, would let all
/// later reloads wait.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Reloads that wait for the one before.
const QUEUE: usize = 16;

/// Where a reload takes the configuration from, and what it sets outside of the server.
pub struct ConfigSource {
    /// Reads all layers of the configuration again. May wait for the disk.
    pub load: Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
    /// Sets the level of the process's log.
    pub set_log_level: Box<dyn Fn(LogLevel) + Send + Sync>,
}

/// Asks the daemon to reload. A clone asks the same daemon.
#[derive(Clone)]
pub struct Reloader(mpsc::Sender<Request>);

/// What is waiting for the task that reloads.
pub(super) type Requests = mpsc::Receiver<Request>;

pub(super) struct Request {
    trigger: Trigger,
    answer: oneshot::Sender<Result<Reloaded, Refused>>,
}

impl Reloader {
    /// The second half is for the task that reloads.
    pub(super) fn channel() -> (Self, Requests) {
        let (sender, requests) = mpsc::channel(QUEUE);
        (Self(sender), requests)
    }
}

#[async_trait]
impl Reload for Reloader {
    async fn reload(&self, trigger: Trigger) -> Result<Reloaded, Refused> {
        let stopping = || Refused("the daemon stops".to_owned());
        let (answer, answered) = oneshot::channel();
        self.0.send(Request { trigger, answer }).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }
}

/// TLS as it is in force.
pub(super) struct TlsInForce {
    /// Where the listeners take it from.
    pub config: Arc<ArcSwap<ServerConfig>>,
    pub papers: Papers,
}

/// Where all that a reload may replace is in force.
pub(super) struct Replaceable {
    /// Each has a keyring.
    pub engines: Engines,
    pub access: Arc<ArcSwap<Access>>,
    /// `None`: the daemon was started without TLS.
    pub tls: Option<TlsInForce>,
    pub redis: RedisAccess,
}

/// What is in force, and what a reload compares with it.
pub(super) struct InForce {
    /// Without one, the files of the configuration are read again, and not the configuration.
    pub source: Option<Arc<ConfigSource>>,
    /// What the daemon was started with.
    started: Config,
    /// What was taken over last.
    config: Config,
    own: Replaceable,
    metrics: ReloadMetrics,
    /// Warnings that were logged already.
    told: BTreeSet<String>,
    /// How the files were when they were read.
    looks: Looks,
    /// How they were when the watch looked last.
    last_looks: Looks,
}

/// What a reload has read.
struct Found {
    config: Config,
    looks: Looks,
    checked: Checked,
    tls: Option<Tls>,
}

/// What a reload will take over. All of it was checked.
#[derive(Default)]
struct Plan {
    /// The keyring of each engine, and the one whose secrets it takes.
    keyrings: Vec<(Keyring, Keyring)>,
    access: Option<Access>,
    tls: Option<Tls>,
    redis: bool,
    log_level: Option<LogLevel>,
    /// What an operator should know.
    warnings: Vec<String>,
    done: Reloaded,
}

impl InForce {
    /// What a daemon has in force that was started with `config`. `looks` is how its files were
    /// before they were read, `told` what it has warned of.
    pub(super) fn new(
        config: &Config,
        FirstLooks(looks): FirstLooks,
        own: Replaceable,
        metrics: ReloadMetrics,
        told: Vec<String>,
    ) -> Self {
        let in_force = Self {
            source: None,
            started: config.clone(),
            config: config.clone(),
            own,
            metrics,
            told: told.into_iter().collect(),
            last_looks: looks.clone(),
            looks,
        };
        in_force.count();
        in_force
    }

    /// What listeners are served with.
    pub(super) fn tls(&self) -> Option<Arc<ArcSwap<ServerConfig>>> {
        self.own.tls.as_ref().map(|tls| Arc::clone(&tls.config))
    }

    /// Sets the metrics of what is in force.
    fn count(&self) {
        let ends = self.own.tls.as_ref().map_or(&[][..], |tls| &tls.papers.ends);
        self.metrics.in_force(system::unix_seconds(), ends);
    }

    /// Reloads when it is asked to, and when a watched file has changed, until it is dropped.
    pub(super) async fn serve(mut self, mut requests: Requests) {
        loop {
            let watch = self.config.reload.watch.0;
            let look = async {
                match watch {
                    Some(interval) => sleep(interval).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                request = requests.recv() => {
                    let Some(Request { trigger, answer }) = request else { return };
                    // Whoever asked may have gone.
                    let _ = answer.send(self.reload(trigger).await);
                }
                () = look => self.look().await,
            }
        }
    }

    /// Reloads if files have changed. A change counts when it is as old as the time between two
    /// looks: until then more of it may come.
    async fn look(&mut self) {
        let config = self.config.clone();
        let looking = tokio::task::spawn_blocking(move || Looks::at(&config));
        let Ok(Ok(now)) = timeout(READ_TIMEOUT, looking).await else { return };
        if now != self.looks && now == self.last_looks {
            // Also if they are refused, so that this is told once.
            self.looks = now.clone();
            let _ = self.reload(Trigger::Watch).await;
        }
        self.last_looks = now;
    }

    async fn reload(&mut self, trigger: Trigger) -> Result<Reloaded, Refused> {
        let taken_over = match self.read(trigger).await {
            Ok(found) => self.take_over(found),
            Err(problem) => Err(problem),
        };
        let trigger = trigger.name();
        let done = taken_over.map_err(|problem| {
            self.metrics.refused();
            let refused = Refused(problem);
            tracing::error!(trigger, "{refused}");
            refused
        })?;
        self.metrics.applied();
        let changed = match done.changed.is_empty() {
            true => "nothing has changed".to_owned(),
            false => done.changed.join("; "),
        };
        tracing::info!(trigger, "reloaded: {changed}");
        if !done.restart_keys.is_empty() {
            let keys = done.restart_keys.join(", ");
            tracing::warn!(trigger, "these keys have changed and need a restart: {keys}");
        }
        Ok(done)
    }

    /// Reads the configuration and its files, and checks them as a start does.
    async fn read(&self, trigger: Trigger) -> Result<Found, String> {
        let (source, own) = (self.source.clone(), self.config.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let config = match source {
                // Only files are watched. The configuration may be half of what it will be.
                Some(source) if trigger != Trigger::Watch => (source.load)()?,
                _ => own,
            };
            let looks = Looks::at(&config);
            let (checked, tls) = super::read(&config)?;
            Ok::<_, ConfigError>(Found { config, looks, checked, tls })
        });
        match timeout(READ_TIMEOUT, reading).await {
            Ok(Ok(found)) => found.map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(format!("reading the configuration failed: {error}")),
            Err(_) => Err(format!(
                "the configuration and its files were not read within {} s; one may be a pipe \
                 that nobody writes to, or on a disk that does not answer",
                READ_TIMEOUT.as_secs()
            )),
        }
    }

    fn take_over(&mut self, found: Found) -> Result<Reloaded, String> {
        let Found { config, looks, checked, tls } = found;
        let plan = self.plan(&config, &checked, tls).map_err(|error| error.to_string())?;
        // From here on nothing fails.
        for (keyring, next) in &plan.keyrings {
            keyring.replace(next);
        }
        if let Some(access) = plan.access {
            self.own.access.store(Arc::new(access));
        }
        if let (Some(own), Some(next)) = (&mut self.own.tls, plan.tls) {
            own.config.store(next.config);
            own.papers = next.papers;
        }
        if plan.redis {
            self.own.redis.replace(&checked.redis);
        }
        if let (Some(level), Some(source)) = (plan.log_level, &self.source) {
            (source.set_log_level)(level);
        }
        (self.last_looks, self.looks) = (looks.clone(), looks);
        self.config = config;
        self.count();
        for warning in plan.warnings {
            if self.told.insert(warning.clone()) {
                tracing::warn!("{warning}");
            }
        }
        Ok(plan.done)
    }

    /// Compares what was read with what is in force. Changes nothing.
    fn plan(
        &self,
        config: &Config,
        checked: &Checked,
        tls: Option<Tls>,
    ) -> Result<Plan, ConfigError> {
        let mut plan = Plan { warnings: checked.warnings.clone(), ..Plan::default() };
        plan.done.restart_keys = restart_keys(&self.started, config);
        self.plan_secrets(checked, &mut plan)?;
        self.plan_tls(tls, &mut plan)?;
        self.plan_access(&checked.access, &mut plan)?;
        let changed = self.own.redis.changed(&checked.redis);
        plan.redis = !changed.is_empty();
        let connections = |table: String| format!("{table}: the login, for new connections");
        plan.done.changed.extend(changed.into_iter().map(connections));
        if config.log.level != self.config.log.level {
            plan.log_level = Some(config.log.level);
            plan.done.changed.push(format!("log.level: {}", config.log.level.name()));
        }
        if config.reload != self.config.reload {
            plan.done.changed.push(format!("reload.watch: {}", config.reload.watch));
        }
        plan.done.restart_keys.sort();
        plan.done.restart_keys.dedup();
        Ok(plan)
    }

    fn plan_secrets(&self, checked: &Checked, plan: &mut Plan) -> Result<(), ConfigError> {
        for engine in self.own.engines.iter() {
            let name = engine.name();
            // An engine that is gone from the configuration goes on until the restart.
            let Some(policy) = checked.engines.get(name) else { continue };
            let own = &engine.policy().keyring;
            let succession = own.succession(&policy.keyring).map_err(|error| {
                ConfigError::new(format!("engine.{name}.cookie.secret_file"), error.to_string())
            })?;
            let Some(succession) = succession else { continue };
            plan.keyrings.push((own.clone(), policy.keyring.clone()));
            let said = format!("engine.{name}: ");
            plan.done
                .changed
                .extend(checked.secrets.iter().filter(|line| line.starts_with(&said)).cloned());
            // Only a store that daemons share lets one see the cookies of another.
            if succession.signs_unverified && self.started.store.backend == Backend::Redis {
                plan.warnings.push(format!(
                    "engine.{name}: a secret signs that this daemon did not verify before; daemons \
                     of the same Redis that do not know it take its cookies for INVALID; add a \
                     secret below the one that signs, reload all, and then put it first"
                ));
            }
        }
        Ok(())
    }

    fn plan_access(&self, next: &Access, plan: &mut Plan) -> Result<(), ConfigError> {
        let own = self.own.access.load();
        // What was closed is opened by a restart only: that is rarely meant, and a reload does
        // not change the other half of the rule for addresses, which is TLS.
        if !own.tokens.is_empty() && next.tokens.is_empty() {
            plan.done.restart_keys.push("listen.auth.token_file".to_owned());
            return Ok(());
        }
        if !own.is_open() && next.is_open() {
            plan.done.restart_keys.push("listen.auth.subjects".to_owned());
            return Ok(());
        }
        let tls = plan.tls.as_ref().map(|tls| &tls.papers);
        let tls = tls.or(self.own.tls.as_ref().map(|tls| &tls.papers));
        if own.subjects != next.subjects
            && !next.subjects.is_empty()
            && !tls.is_some_and(|tls| tls.asks_clients)
        {
            // No caller would have a certificate before the restart.
            plan.done.restart_keys.push("listen.auth.subjects".to_owned());
            return Ok(());
        }
        own.check_succession(next)
            .map_err(|error| ConfigError::new("listen.auth.token_file", error.to_string()))?;
        if **own != *next {
            let count = |count: usize, one: &str| {
                format!("{count} {one}{}", if count == 1 { "" } else { "s" })
            };
            plan.done.changed.push(format!(
                "listen.auth: {}, {}",
                count(next.tokens.len(), "token"),
                count(next.subjects.len(), "subject")
            ));
            plan.access = Some(next.clone());
        }
        Ok(())
    }

    fn plan_tls(&self, next: Option<Tls>, plan: &mut Plan) -> Result<(), ConfigError> {
        // TLS that is turned on or off is a key of `restart_keys` already.
        let (Some(own), Some(next)) = (&self.own.tls, next) else { return Ok(()) };
        if own.papers.asks_clients && !next.papers.asks_clients {
            plan.done.restart_keys.push("listen.tls.client_ca_file".to_owned());
            return Ok(());
        }
        if own.papers.is_same(&next.papers) {
            return Ok(());
        }
        own.papers.check_succession(&next.papers)?;
        plan.done.changed.push(next.papers.describe());
        plan.tls = Some(next);
        Ok(())
    }
}

/// How the files are before they are read for the first time.
pub(super) struct FirstLooks(Looks);

impl FirstLooks {
    /// May wait for the disk.
    pub(super) fn at(config: &Config) -> Self {
        Self(Looks::at(config))
    }
}
