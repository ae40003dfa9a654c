//! One server, with a few connections to it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, Pipeline, Value};

use super::{command::Command, connect::Connector, failure::Failure, link::Link, time::Timekeeper};

/// How many replicas must have confirmed a change before it is acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    pub replicas: u32,
    pub timeout: Duration,
}

/// How a server is talked to.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    pub connections: usize,
    pub wait: Option<Wait>,
}

pub struct Server {
    links: Links,
    /// WAIT holds up whatever comes after it on its connection, so changes that
    /// wait for replicas have connections of their own.
    waiting: Option<(Links, Wait)>,
}

struct Links {
    links: Vec<Link>,
    next: AtomicUsize,
}

impl Links {
    fn start(connector: &Connector, time: &Arc<Timekeeper>, count: usize) -> Self {
        let link = |_| Link::start(connector.clone(), Arc::clone(time));
        Self { links: (0..count.max(1)).map(link).collect(), next: AtomicUsize::new(0) }
    }

    /// In turn.
    fn next(&self) -> &Link {
        let number = match self.links.len() {
            1 => 0,
            count => self.next.fetch_add(1, Ordering::Relaxed) % count,
        };
        &self.links[number]
    }
}

impl Server {
    /// Starts to connect. Needs a tokio runtime.
    pub fn start(connector: &Connector, time: &Arc<Timekeeper>, manner: Manner) -> Self {
        let links = || Links::start(connector, time, manner.connections);
        Self { links: links(), waiting: manner.wait.map(|wait| (links(), wait)) }
    }

    /// Sends a command on a key. `asking`: the key is on its way to this server.
    pub async fn run(&self, command: &Command<'_>, asking: bool) -> Result<Value, Failure> {
        let outcome = self.exchange(command.to_cmd(), asking, command.durable).await;
        match (outcome, command.to_cmd_with_source()) {
            (Err(why), Some(cmd)) if why.is_refused_as(&["NOSCRIPT"]) => {
                self.exchange(cmd, asking, command.durable).await
            }
            (outcome, _) => outcome,
        }
    }

    /// Sends a command on no key.
    pub async fn ask(&self, cmd: &Cmd) -> Result<Value, Failure> {
        self.links.next().send(cmd).await
    }

    /// Sends commands on no key in one go. Each has its answer.
    pub async fn ask_all(
        &self,
        commands: &Pipeline,
    ) -> Result<Vec<Result<Value, Failure>>, Failure> {
        self.links.next().send_all(commands).await
    }

    async fn exchange(&self, cmd: Cmd, asking: bool, durable: bool) -> Result<Value, Failure> {
        let (links, wait) = match &self.waiting {
            Some((links, wait)) if durable => (links, Some(*wait)),
            _ => (&self.links, None),
        };
        let link = links.next();
        if !asking && wait.is_none() {
            return link.send(&cmd).await;
        }
        let mut commands = redis::pipe();
        if asking {
            commands.cmd("ASKING");
        }
        commands.add_command(cmd);
        if let Some(wait) = wait {
            commands.cmd("WAIT").arg(wait.replicas).arg(wait.timeout.as_millis() as u64);
        }
        let mut answers = link.send_all(&commands).await?.into_iter().skip(asking.into());
        let answer = answers.next().unwrap_or(Err(Failure::Absurd))?;
        if let Some(Wait { replicas: wanted, .. }) = wait {
            match answers.next().unwrap_or(Err(Failure::Absurd))? {
                Value::Int(replicas) if replicas >= wanted.into() => {}
                Value::Int(replicas) => return Err(Failure::Unreplicated { replicas, wanted }),
                _ => return Err(Failure::Absurd),
            }
        }
        Ok(answer)
    }

    /// An error when it can not be reached. Does not wait.
    pub fn check(&self) -> Result<(), Failure> {
        self.all().try_for_each(Link::check)
    }

    /// Waits for the outcome of the tries to connect that are under way.
    pub async fn tried(&self) -> Result<(), Failure> {
        for link in self.all() {
            link.tried().await?;
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &Link> {
        let waiting = self.waiting.iter().flat_map(|(links, _)| &links.links);
        self.links.links.iter().chain(waiting)
    }
}
