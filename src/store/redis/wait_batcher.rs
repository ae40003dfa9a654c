//! Changes that wait for replicas, in batches that share one WAIT.
//!
//! WAIT delays every later command of its connection, and confirms every
//! earlier one. It therefore has its own connection, which carries one batch at
//! a time: the changes that were requested during the previous batch, and then
//! one WAIT. If no replica confirms, the changes are still made, many at a
//! time, and reported as unconfirmed.

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
    /// 0: a change is acknowledged without waiting.
    pub replicas: u32,
    /// The most time for one WAIT. A change may have to wait for two.
    pub timeout: Duration,
}

/// The most changes in one batch.
const MOST_IN_A_BATCH: usize = 128;

/// A connection for such changes. Dropping it ends its task.
pub(super) struct WaitBatcher {
    link: Arc<Link>,
    changes: mpsc::UnboundedSender<Change>,
    task: AbortHandle,
}

struct Change {
    cmd: Cmd,
    /// Its key is moving to this server.
    asking: bool,
    told: oneshot::Sender<Result<Value, Failure>>,
}

impl Drop for WaitBatcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl WaitBatcher {
    /// `limit`: after this time, the callers no longer wait for their changes.
    /// Needs a tokio runtime.
    pub(super) fn start(link: Link, wait: Wait, limit: Duration) -> Self {
        let link = Arc::new(link);
        let (changes, asked_for) = mpsc::unbounded_channel();
        let task = tokio::spawn(make_all(Arc::clone(&link), wait, limit, asked_for));
        Self { link, changes, task: task.abort_handle() }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Makes a change, and waits until it is confirmed. If the caller is
    /// cancelled before its batch begins, the change is not made.
    pub(super) async fn make(&self, cmd: Cmd, asking: bool) -> Result<Value, Failure> {
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
    let mut batch = Vec::new();
    while asked_for.recv_many(&mut batch, MOST_IN_A_BATCH).await > 0 {
        batch.retain(|change| !change.told.is_closed());
        if !batch.is_empty() {
            // After this time, no caller waits any more.
            let _ = timeout(limit, make_batch(&link, wait, &mut batch)).await;
            batch.clear();
        }
    }
}

async fn make_batch(link: &Link, wait: Wait, batch: &mut Vec<Change>) {
    let Wait { replicas: wanted, timeout } = wait;
    let mut commands = redis::pipe();
    for Change { cmd, asking, .. } in batch.iter() {
        if *asking {
            commands.cmd("ASKING");
        }
        commands.add_command(cmd.clone());
    }
    commands.cmd("WAIT").arg(wanted).arg(timeout.as_millis() as u64);
    let mut answers = match link.send_all(&commands).await {
        Ok(answers) => answers,
        Err(why) => return tell_all(batch, |_| Err(why.clone())),
    };
    let confirmed = match answers.pop().unwrap_or(Err(Failure::Absurd)) {
        Ok(Value::Int(replicas)) if replicas >= wanted.into() => Ok(()),
        Ok(Value::Int(replicas)) => Err(Failure::Unreplicated { replicas, wanted }),
        Ok(_) => Err(Failure::Absurd),
        Err(why) => Err(why),
    };
    let mut answers = answers.into_iter();
    tell_all(batch, |asking| {
        let answer = answers.nth(asking.into()).unwrap_or(Err(Failure::Absurd))?;
        confirmed.clone().map(|()| answer)
    });
}

/// Calls `outcome` in the order of the changes, with whether ASKING came before
/// the change.
fn tell_all(batch: &mut Vec<Change>, mut outcome: impl FnMut(bool) -> Result<Value, Failure>) {
    for Change { asking, told, .. } in batch.drain(..) {
        // Nobody listens if the call was cancelled.
        let _ = told.send(outcome(asking));
    }
}
