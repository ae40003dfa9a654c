//! Changes that wait for replicas, in rounds that share one WAIT.
//!
//! WAIT holds up whatever comes after it on its connection, and confirms whatever came
//! before. So it has a connection of its own, which carries one round at a time: the
//! changes that were asked for during the last one, and a WAIT after them. While no
//! replica confirms, changes are made all the same, many at a time, and told to be
//! unconfirmed.

use std::{sync::Arc, time::Duration};

use redis::{Cmd, Value};
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::timeout,
};

use super::{failure::Failure, link::Link};

/// How many replicas must have confirmed a change before it is acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    pub replicas: u32,
    pub timeout: Duration,
}

/// More changes than this are not sent in one round.
const MOST_IN_A_ROUND: usize = 128;

/// A connection for such changes. Its task ends with it.
pub struct Rounds {
    link: Arc<Link>,
    changes: mpsc::UnboundedSender<Change>,
    task: AbortHandle,
}

struct Change {
    cmd: Cmd,
    /// Its key is on its way to this server.
    asking: bool,
    told: oneshot::Sender<Result<Value, Failure>>,
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Rounds {
    /// Whoever asks for a change has gone after `limit`. Needs a tokio runtime.
    pub fn start(link: Link, wait: Wait, limit: Duration) -> Self {
        let link = Arc::new(link);
        let (changes, asked_for) = mpsc::unbounded_channel();
        let task = tokio::spawn(make_all(Arc::clone(&link), wait, limit, asked_for));
        Self { link, changes, task: task.abort_handle() }
    }

    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Makes a change, and waits until it is confirmed. One whose caller has gone
    /// before its round began is not made.
    pub async fn make(&self, cmd: Cmd, asking: bool) -> Result<Value, Failure> {
        let (told, outcome) = oneshot::channel();
        let _ = self.changes.send(Change { cmd, asking, told });
        let ended = |_| Err(Failure::Lost("the task of its connection has ended".to_owned()));
        outcome.await.unwrap_or_else(ended)
    }
}

async fn make_all(
    link: Arc<Link>,
    wait: Wait,
    limit: Duration,
    mut asked_for: mpsc::UnboundedReceiver<Change>,
) {
    let mut round = Vec::new();
    while asked_for.recv_many(&mut round, MOST_IN_A_ROUND).await > 0 {
        round.retain(|change| !change.told.is_closed());
        if !round.is_empty() {
            // When that is over they have all gone.
            let _ = timeout(limit, make_a_round(&link, wait, &mut round)).await;
            round.clear();
        }
    }
}

async fn make_a_round(link: &Link, wait: Wait, round: &mut Vec<Change>) {
    let Wait { replicas: wanted, timeout } = wait;
    let mut commands = redis::pipe();
    for Change { cmd, asking, .. } in round.iter() {
        if *asking {
            commands.cmd("ASKING");
        }
        commands.add_command(cmd.clone());
    }
    commands.cmd("WAIT").arg(wanted).arg(timeout.as_millis() as u64);
    let mut answers = match link.send_all(&commands).await {
        Ok(answers) => answers,
        Err(why) => return tell_all(round, |_| Err(why.clone())),
    };
    let confirmed = match answers.pop().unwrap_or(Err(Failure::Absurd)) {
        Ok(Value::Int(replicas)) if replicas >= wanted.into() => Ok(()),
        Ok(Value::Int(replicas)) => Err(Failure::Unreplicated { replicas, wanted }),
        Ok(_) => Err(Failure::Absurd),
        Err(why) => Err(why),
    };
    let mut answers = answers.into_iter();
    tell_all(round, |asking| {
        let answer = answers.nth(asking.into()).unwrap_or(Err(Failure::Absurd))?;
        confirmed.clone().map(|()| answer)
    });
}

/// `outcome` is asked for in the order of the changes; whether ASKING came before it.
fn tell_all(round: &mut Vec<Change>, mut outcome: impl FnMut(bool) -> Result<Value, Failure>) {
    for Change { asking, told, .. } in round.drain(..) {
        // Nobody listens any more when the call was given up.
        let _ = told.send(outcome(asking));
    }
}
