//! A connection to one Redis server that is kept alive.
//!
//! A task makes the connection and asks for the server's time once a second. It
//! reconnects if the connection is lost, if the answer does not come, or if
//! another server has become the primary. As often it tries out whether the server
//! still takes changes; see [`needs`](super::needs). When one link learns of a new
//! primary, all links follow it at once. Commands of different requests share
//! the connection and its round trips.
//!
//! A command is never sent twice. If it is lost, it is unknown whether it took
//! effect, and the caller gets that error.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use redis::{
    Cmd, Pipeline, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    connect::{Connected, Connector},
    failure::{Failure, answer},
    needs::{Lack, Told},
    time::Timekeeper,
    url::Endpoint,
};
use crate::store::database::LinkFigures;

/// How often the server is asked for its time, and whether it takes changes.
const BEAT: Duration = Duration::from_secs(1);
/// The shortest pause between two beats. The next one comes early after a refusal.
const SHORTEST_BEAT: Duration = Duration::from_millis(50);
/// How often everything is tried out that is needed.
const TRIAL: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// What lives for longer than this was a connection.
const HELD: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A handle to the connection. Dropping it ends its task.
pub(super) struct Link {
    connector: Connector,
    state: watch::Receiver<State>,
    /// The number of the latest connection that was found broken.
    broken: watch::Sender<u64>,
    task: AbortHandle,
}

#[derive(Clone)]
enum State {
    /// The first attempt after the start or after a loss: callers wait for it.
    Connecting,
    Up(Up),
    /// The last attempt has failed.
    Down(Failure),
}

#[derive(Clone)]
struct Up {
    connection: MultiplexedConnection,
    number: u64,
    naming: u64,
    lack: Option<Lack>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Starts to connect. `held_up`: how long the previous command may delay an
    /// answer. Needs a tokio runtime.
    pub(super) fn start(connector: Connector, time: Arc<Timekeeper>, held_up: Duration) -> Self {
        let (state, receiver) = watch::channel(State::Connecting);
        let (broken, found_broken) = watch::channel(0);
        let needs = connector.needed();
        let keeper = Keeper {
            connector: connector.clone(),
            time,
            held_up,
            state,
            broken: found_broken,
            refusals: needs.map(|needs| needs.refusals()),
            told: needs.cloned().map(Told::nothing),
        };
        let task = tokio::spawn(keeper.run()).abort_handle();
        Self { connector, state: receiver, broken, task }
    }

    /// Sends one command and waits for its answer.
    pub(super) async fn send(&self, command: &Cmd) -> Result<Value, Failure> {
        let Up { mut connection, number, .. } = self.up().await?;
        let sent = Instant::now();
        let answered = connection.send_packed_command(command).await;
        self.connector.access.traffic.round_trips.observe(sent.elapsed());
        self.heed(number, answered.map_err(Failure::from).and_then(answer))
    }

    /// Sends several commands together. Each has its own answer.
    pub(super) async fn send_all(
        &self,
        commands: &Pipeline,
    ) -> Result<Vec<Result<Value, Failure>>, Failure> {
        let Up { mut connection, number, .. } = self.up().await?;
        let count = commands.len();
        let mut state = self.state.clone();
        let gone = async {
            let is_another = |state: &State| !matches!(state, State::Up(up) if up.number == number);
            let _ = state.wait_for(is_another).await;
        };
        let sent = Instant::now();
        let answered = tokio::select! {
            answered = connection.req_packed_commands(commands, 0, count) => answered,
            // A connection that hangs would otherwise hold them forever.
            () = gone => return Err(Failure::Lost("the connection was abandoned".to_owned())),
        };
        self.connector.access.traffic.round_trips.observe(sent.elapsed());
        let answers = self.heed(number, answered.map_err(Failure::from))?;
        let heeded = |value| self.heed(number, answer(value));
        Ok(answers.into_iter().map(heeded).collect())
    }

    /// Fails if there is no connection, or if the server lacks something. Does not wait.
    pub(super) fn check(&self) -> Result<(), Failure> {
        self.lack()?.map_or(Ok(()), |lack| Err(Failure::Lacking(lack)))
    }

    /// Fails if there is no connection, or if records cannot be read. Does not wait.
    pub(super) fn check_reading(&self) -> Result<(), Failure> {
        let lack = self.lack()?.filter(|lack| !lack.reads);
        lack.map_or(Ok(()), |lack| Err(Failure::Lacking(lack)))
    }

    pub(super) fn is_connected(&self) -> bool {
        self.lack().is_ok()
    }

    /// Counts the connection by its state.
    pub(super) fn count(&self, counts: &mut LinkFigures) {
        *match &*self.state.borrow() {
            State::Up(Up { lack: None, .. }) => &mut counts.connected,
            State::Up(_) => &mut counts.lacking,
            State::Connecting => &mut counts.connecting,
            State::Down(_) => &mut counts.down,
        } += 1;
    }

    /// What the server lacks. Fails if there is no connection.
    fn lack(&self) -> Result<Option<Lack>, Failure> {
        match &*self.state.borrow() {
            State::Up(up) => Ok(up.lack.clone()),
            State::Connecting => Err(Failure::Unreached("connecting".to_owned())),
            State::Down(why) => Err(why.clone()),
        }
    }

    /// Waits for the outcome of the current attempt.
    pub(super) async fn tried(&self) -> Result<(), Failure> {
        self.up().await.map(drop)
    }

    async fn up(&self) -> Result<Up, Failure> {
        let settled = self.settled(&self.state.borrow());
        if let Some(settled) = settled {
            return settled;
        }
        let mut state = self.state.clone();
        while state.changed().await.is_ok() {
            let settled = self.settled(&state.borrow_and_update());
            if let Some(settled) = settled {
                return settled;
            }
        }
        Err(Failure::Unreached("it is being closed".to_owned()))
    }

    /// `None`: wait for the outcome.
    fn settled(&self, state: &State) -> Option<Result<Up, Failure>> {
        match state {
            State::Connecting => None,
            State::Up(up) if up.naming == self.connector.naming() => Some(Ok(up.clone())),
            State::Up(up) => {
                self.abandon(up.number);
                None
            }
            State::Down(why) => Some(Err(why.clone())),
        }
    }

    /// Requests a new connection, unless there already is one.
    fn abandon(&self, number: u64) {
        self.broken.send_if_modified(|broken| {
            let newer = *broken < number;
            *broken = number.max(*broken);
            newer
        });
    }

    /// Abandons the connection if the outcome shows that it is useless, and has the servers
    /// tried out if it shows that something may be missing.
    fn heed<T>(&self, number: u64, outcome: Result<T, Failure>) -> Result<T, Failure> {
        // READONLY: the primary became a replica, and may be elsewhere now.
        let useless = |failure: &Failure| {
            matches!(failure, Failure::Lost(_)) || failure.is_refused_as(&["READONLY"])
        };
        if outcome.as_ref().is_err_and(useless) {
            self.abandon(number);
        }
        if let (Err(why), Some(needs)) = (&outcome, self.connector.needed()) {
            needs.heed(why);
        }
        outcome
    }
}

/// The state of a link's task.
struct Keeper {
    connector: Connector,
    time: Arc<Timekeeper>,
    held_up: Duration,
    state: watch::Sender<State>,
    broken: watch::Receiver<u64>,
    /// `None`, as `told`: the server is only read from.
    refusals: Option<watch::Receiver<u64>>,
    told: Option<Told>,
}

impl Keeper {
    async fn run(mut self) {
        let mut pauses = Pauses::default();
        let mut number = 0;
        let mut told: Option<String> = None;
        loop {
            match self.connect().await {
                Ok(Connected { connection, endpoint, lack, naming }) => {
                    number += 1;
                    if told.take().is_some() {
                        tracing::info!(server = %endpoint, "redis is connected again");
                    }
                    let up = Up { connection, number, naming, lack };
                    self.is_up(&endpoint, up.clone());
                    let since = Instant::now();
                    let why = self.watch_over(&endpoint, up).await;
                    self.state.send_replace(State::Connecting);
                    self.connector.access.traffic.lost.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(server = %endpoint, "the connection is lost, reconnecting: {why}");
                    told = Some(String::new());
                    // A connection that was lost immediately does not reset the
                    // pauses.
                    if since.elapsed() > HELD {
                        pauses = Pauses::default();
                        continue;
                    }
                }
                Err(why) => {
                    let text = why.to_string();
                    if told.as_ref() != Some(&text) {
                        let server = self.connector.to_string();
                        tracing::error!(server, "no connection, retrying: {why}");
                        told = Some(text);
                    }
                    self.state.send_replace(State::Down(why));
                }
            }
            sleep(pauses.next()).await;
        }
    }

    /// Makes the connection, and what the server lacks, known.
    fn is_up(&mut self, endpoint: &Endpoint, up: Up) {
        if let Some(told) = &mut self.told {
            told.found(up.lack.as_ref(), endpoint);
        }
        self.state.send_replace(State::Up(up));
    }

    async fn connect(&self) -> Result<Connected, Failure> {
        let limit = self.connector.timeout();
        let attempt = async {
            let mut made = self.connector.connect().await?;
            // Our clock must agree with the server's before it is used for any
            // decision. The Sentinels have just been asked.
            self.ask_time(&made.endpoint, &mut made.connection).await?;
            Ok(made)
        };
        let slow = || Err(Failure::Unreached(format!("no connection within {limit:?}")));
        timeout(limit, attempt).await.unwrap_or_else(|_| slow())
    }

    /// Returns the reason when the connection has become useless.
    async fn watch_over(&mut self, endpoint: &Endpoint, mut up: Up) -> Failure {
        let mut tried_out = Instant::now();
        loop {
            let refused = async {
                match &mut self.refusals {
                    // While something is missing, every beat tries it out.
                    Some(refusals) if up.lack.is_none() => refusals.changed().await.is_ok(),
                    _ => std::future::pending().await,
                }
            };
            let is_refused = async {
                sleep(SHORTEST_BEAT).await;
                timeout(BEAT - SHORTEST_BEAT, refused).await.unwrap_or(false)
            };
            let found_broken = async {
                let _ = self.broken.wait_for(|broken| *broken >= up.number).await;
            };
            let is_refused = tokio::select! {
                () = found_broken => {
                    return Failure::Lost(match up.naming == self.connector.naming() {
                        true => "a command was lost with it".to_owned(),
                        false => "another server has become the primary".to_owned(),
                    });
                }
                is_refused = is_refused => is_refused,
            };
            let is_trial = is_refused || up.lack.is_some() || tried_out.elapsed() >= TRIAL;
            if is_trial {
                tried_out = Instant::now();
            }
            match self.beat(endpoint, &mut up, is_trial).await {
                Ok(None) => {}
                Ok(Some(lack)) => {
                    up.lack = lack;
                    self.is_up(endpoint, up.clone());
                }
                Err(why) => return why,
            }
        }
    }

    /// Returns what the server lacks, if that has changed.
    ///
    /// The Sentinels are asked after the server has answered: while a server
    /// hung, another one may have replaced it.
    async fn beat(
        &self,
        endpoint: &Endpoint,
        up: &mut Up,
        is_trial: bool,
    ) -> Result<Option<Option<Lack>>, Failure> {
        let Up { connection, lack: before, .. } = up;
        self.answered(self.ask_time(endpoint, connection)).await?;
        let lack =
            match !is_trial && self.answered(self.connector.takes_changes(connection)).await? {
                true => None,
                false => self.answered(self.connector.try_out(connection)).await?,
            };
        match self.connector.is_deposed(endpoint).await {
            Some(by) => Err(Failure::Unreached(format!("{by} has become the primary"))),
            None => Ok((lack != *before).then_some(lack)),
        }
    }

    /// The answer to one round trip of a beat. Commands of callers may hold up each of them anew.
    async fn answered<T>(
        &self,
        asked: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let limit = self.connector.timeout() + self.held_up;
        let slow = || Err(Failure::Lost(format!("no answer within {limit:?}")));
        timeout(limit, asked).await.unwrap_or_else(|_| slow())
    }

    async fn ask_time(
        &self,
        endpoint: &Endpoint,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), Failure> {
        let asked = Instant::now();
        let told = connection.send_packed_command(&redis::cmd("TIME")).await?;
        self.time.heard(endpoint, answer(told)?, asked.elapsed())
    }
}

/// Growing pauses, up to a limit. Each varies at random, because many daemons
/// should not reconnect in step.
#[derive(Default)]
struct Pauses {
    last: Duration,
}

impl Pauses {
    fn next(&mut self) -> Duration {
        self.last = (self.last * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.last.mul_f64(0.5 + 0.5 * rand::random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut pauses = Pauses::default();
        let taken: Vec<_> = (0..20).map(|_| pauses.next()).collect();
        assert!(taken[0] <= FIRST_PAUSE, "{taken:?}");
        assert!(taken.iter().all(|pause| *pause <= LONGEST_PAUSE), "{taken:?}");
        assert!(taken[19] >= LONGEST_PAUSE / 2, "{taken:?}");
    }
}
