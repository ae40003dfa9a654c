//! One server, with a few connections to it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, Pipeline, Value};

use super::{
    command::Command,
    connect::Connector,
    failure::Failure,
    link::Link,
    spans::{self, Origin},
    time::Timekeeper,
    wait_batcher::{Wait, WaitBatcher},
};
use crate::store::database::LinkFigures;

/// How to communicate with a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub connections: usize,
    pub wait: Option<Wait>,
    /// After this time, the sender of a command no longer waits for it.
    pub timeout: Duration,
}

pub(super) struct Server {
    links: Several<Link>,
    /// For changes, if they wait for replicas.
    batchers: Option<Several<WaitBatcher>>,
    /// For the spans of its commands.
    origin: Origin,
}

/// One or more, which take turns.
struct Several<T> {
    all: Vec<T>,
    next: AtomicUsize,
}

impl<T> Several<T> {
    fn new(count: usize, one: impl Fn() -> T) -> Self {
        Self { all: (0..count.max(1)).map(|_| one()).collect(), next: AtomicUsize::new(0) }
    }

    fn next(&self) -> &T {
        let number = match self.all.len() {
            1 => 0,
            count => self.next.fetch_add(1, Ordering::Relaxed) % count,
        };
        &self.all[number]
    }
}

impl Server {
    /// Starts to connect. Needs a tokio runtime.
    pub(super) fn start(connector: &Connector, time: &Arc<Timekeeper>, manner: Manner) -> Self {
        let Manner { connections, wait, timeout } = manner;
        let link = |held_up| Link::start(connector.clone(), Arc::clone(time), held_up);
        let batchers = |wait: Wait| {
            Several::new(connections, || WaitBatcher::start(link(wait.timeout), wait, timeout))
        };
        let links = Several::new(connections, || link(Duration::ZERO));
        let origin = Origin::of(&connector.place);
        Self { links, batchers: wait.map(batchers), origin }
    }

    /// Sends a command on a key. `asking`: the key is moving to this server.
    pub(super) async fn run(&self, command: &Command<'_>, asking: bool) -> Result<Value, Failure> {
        let outcome = self.exchange(command.to_cmd(), asking, command.durable).await;
        match (outcome, command.to_cmd_with_source()) {
            (Err(why), Some(cmd)) if why.is_refused_as(&["NOSCRIPT"]) => {
                self.exchange(cmd, asking, command.durable).await
            }
            (outcome, _) => outcome,
        }
    }

    /// Sends a command without a key.
    pub(super) async fn ask(&self, cmd: &Cmd) -> Result<Value, Failure> {
        self.links.next().send(cmd).await
    }

    /// Sends commands without a key together. Each has its own answer.
    pub(super) async fn ask_all(
        &self,
        commands: &Pipeline,
    ) -> Result<Vec<Result<Value, Failure>>, Failure> {
        self.links.next().send_all(commands).await
    }

    async fn exchange(&self, cmd: Cmd, asking: bool, durable: bool) -> Result<Value, Failure> {
        let span = self.origin.span(&cmd);
        let outcome = self.send(cmd, asking, durable).await;
        spans::end(span, &outcome);
        outcome
    }

    async fn send(&self, cmd: Cmd, asking: bool, durable: bool) -> Result<Value, Failure> {
        if let Some(batchers) = self.batchers.as_ref().filter(|_| durable) {
            return batchers.next().make(cmd, asking).await;
        }
        let link = self.links.next();
        if !asking {
            return link.send(&cmd).await;
        }
        let mut commands = redis::pipe();
        commands.cmd("ASKING").add_command(cmd);
        let mut answers = link.send_all(&commands).await?;
        answers.pop().unwrap_or(Err(Failure::Absurd))
    }

    /// Fails if the server cannot be reached, or lacks something. Does not wait.
    pub(super) fn check(&self) -> Result<(), Failure> {
        self.all().try_for_each(Link::check)
    }

    /// Fails if the server cannot be reached, or if records cannot be read. Does not wait.
    pub(super) fn check_reading(&self) -> Result<(), Failure> {
        self.links.all.iter().try_for_each(Link::check_reading)
    }

    /// Whether there are connections, whatever the server lacks. Does not wait.
    pub(super) fn is_connected(&self) -> bool {
        self.all().all(Link::is_connected)
    }

    /// Counts the connections by their state.
    pub(super) fn count_links(&self, counts: &mut LinkFigures) {
        self.all().for_each(|link| link.count(counts));
    }

    /// Waits for the outcome of the current attempts to connect.
    pub(super) async fn tried(&self) -> Result<(), Failure> {
        for link in self.all() {
            link.tried().await?;
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &Link> {
        let batchers = self.batchers.iter().flat_map(|batchers| &batchers.all);
        self.links.all.iter().chain(batchers.map(WaitBatcher::link))
    }
}
