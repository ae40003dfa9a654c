//! The client's side of the Pipeline: the queue, what is on its way, and what may be repeated.
//!
//! Callers put operations into the queue and wait for their answers. A task, which the first
//! operation starts, connects ([`connection`]) and carries one stream. The stream takes
//! operations from the queue ([`outgoing`]); the task gives the answers to the callers.

mod codec;
mod connection;
mod outgoing;
mod settings;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep, timeout, timeout_at},
};
use tonic::{Code, transport::Channel};

#[cfg(feature = "tls")]
pub use self::settings::Tls;
#[cfg(not(feature = "tls"))]
pub(crate) use self::settings::Tls;
pub(crate) use self::settings::{Settings, TokenSource, endpoint};
use crate::{
    error::{Applied, Error, Reason, Result},
    pb::{self, pipeline_response},
    status,
    types::Description,
    wire,
};

/// How often OVERLOADED and STORE_UNAVAILABLE are repeated, and how often what was cut off is.
const MAX_RETRIES: u8 = 2;
const MAX_CUTS: u8 = 5;

/// The answer to an operation.
pub(crate) struct Answer {
    pub(crate) result: pipeline_response::Result,
    /// It was sent before, with an unknown outcome.
    pub(crate) uncertain: bool,
}

/// An operation on its way.
struct Op {
    /// Encoded. Empty: nothing is sent, and it is answered when there is a connection.
    operation: Bytes,
    /// The engine and the length of the data of a write, to check them against the limits.
    data: Option<(String, usize)>,
    /// A repetition does no harm after an unknown outcome.
    safe: bool,
    deadline: Instant,
    /// It may have taken effect already.
    uncertain: bool,
    retries: u8,
    cuts: u8,
    /// For the caller, if it gives up.
    progress: Arc<Progress>,
    answer: oneshot::Sender<Result<Option<Answer>>>,
}

/// How far an operation has come.
#[derive(Default)]
struct Progress {
    /// It may have taken effect.
    exposed: AtomicBool,
    /// Where it is in `State::sent`. 0: nowhere.
    sequence: AtomicU64,
}

impl Progress {
    fn sent(&self, sequence: u64) {
        self.exposed.store(true, Ordering::Relaxed);
        self.sequence.store(sequence, Ordering::Relaxed);
    }

    fn queued(&self, uncertain: bool) {
        self.exposed.store(uncertain, Ordering::Relaxed);
        self.sequence.store(0, Ordering::Relaxed);
    }

    fn applied(&self) -> Applied {
        if self.exposed.load(Ordering::Relaxed) { Applied::Unknown } else { Applied::No }
    }
}

impl Op {
    /// Gives the caller its answer. If it does not wait any more, nobody needs it.
    fn finish(self, answer: Result<Option<Answer>>) {
        let _ = self.answer.send(answer);
    }

    fn fail(self, error: Error) {
        let error = if self.uncertain { error.with_applied(Applied::Unknown) } else { error };
        self.finish(Err(error));
    }

    fn applied(&self) -> Applied {
        if self.uncertain { Applied::Unknown } else { Applied::No }
    }
}

/// What the callers and the task share.
pub(crate) struct Shared {
    settings: Settings,
    state: Mutex<State>,
    /// Wakes the task: there is something to do, or the end has come.
    work: Notify,
    /// Wakes whoever closes: the last operation is answered, or the task is over.
    idle: Notify,
}

#[derive(Default)]
struct State {
    /// Nothing new is taken.
    closed: bool,
    /// The task shall end.
    ended: bool,
    /// There is a task.
    running: bool,
    /// Operations whose callers wait.
    waiting: usize,
    sequence: u64,
    queue: VecDeque<Op>,
    sent: HashMap<u64, Op>,
    /// The stream that takes from the queue: its number, and how to wake it.
    stream: Option<u64>,
    streams: u64,
    sender: Option<Waker>,
    channel: Option<Channel>,
    description: Option<Arc<Description>>,
    /// Of the last attempt to connect, if it failed.
    last_error: Option<Error>,
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            state: Mutex::default(),
            work: Notify::new(),
            idle: Notify::new(),
        })
    }

    /// Never held while something is awaited.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn address(&self) -> &str {
        &self.settings.address
    }

    /// What the daemon has said last, also while it is away.
    pub(crate) fn described(&self) -> Option<Arc<Description>> {
        self.state().description.clone()
    }

    /// What the daemon says, once for each connection.
    pub(crate) async fn describe(self: &Arc<Self>) -> Result<Arc<Description>> {
        let fresh = {
            let state = self.state();
            let is_fresh = state.stream.is_some() && !state.closed;
            state.description.clone().filter(|_| is_fresh)
        };
        if let Some(description) = fresh {
            return Ok(description);
        }
        self.submit(Bytes::new(), None, true).await?;
        let missing = || status::protocol(self.address(), "it does not describe itself");
        self.described().ok_or_else(missing)
    }

    /// Runs one operation of the Pipeline.
    pub(crate) async fn call(
        self: &Arc<Self>,
        operation: pb::pipeline_request::Operation,
        safe: bool,
    ) -> Result<Answer> {
        let data = match &operation {
            // The daemon always takes so much.
            pb::pipeline_request::Operation::Write(write) if write.set.len() > 4096 => {
                Some((write.engine.clone(), write.set.len()))
            }
            _ => None,
        };
        let answer = self.submit(wire::encoded(operation), data, safe).await?;
        answer.ok_or_else(|| status::protocol(self.address(), "an empty answer"))
    }

    async fn submit(
        self: &Arc<Self>,
        operation: Bytes,
        data: Option<(String, usize)>,
        safe: bool,
    ) -> Result<Option<Answer>> {
        let deadline = Instant::now() + self.settings.timeout;
        let progress = Arc::<Progress>::default();
        let (answer, outcome) = oneshot::channel();
        let mut place = self.place()?;
        place.progress = Some(Arc::clone(&progress));
        self.enqueue([Op {
            operation,
            data,
            safe,
            deadline,
            uncertain: false,
            retries: 0,
            cuts: 0,
            progress: Arc::clone(&progress),
            answer,
        }]);
        match timeout_at(deadline, outcome).await {
            Ok(Ok(answer)) => {
                place.progress = None;
                answer
            }
            // Its time is over; or the task has gone, and its runtime with it.
            Err(_) | Ok(Err(_)) => Err(self.late(progress.applied())),
        }
    }

    /// Takes one of `max_in_flight` places, and starts the task.
    fn place(self: &Arc<Self>) -> Result<Place<'_>> {
        let mut state = self.state();
        if state.closed {
            return Err(Error::closed(Applied::No));
        }
        let limit = self.settings.max_in_flight;
        if state.waiting >= limit {
            let message = format!("{limit} operations are under way already (max_in_flight)");
            let reason = Reason::InFlightLimit;
            let error = Error::new(reason, Code::ResourceExhausted, Applied::No, message);
            return Err(error.with_retry_after(Some(Duration::from_secs(1))));
        }
        state.waiting += 1;
        if !state.running {
            state.running = true;
            tokio::spawn(connection::run(Arc::clone(self)));
        }
        Ok(Place { shared: self, progress: None })
    }

    /// Why there is no answer although the time is over.
    fn late(&self, applied: Applied) -> Error {
        let state = self.state();
        if let (None, Some(error)) = (state.stream, &state.last_error) {
            // Whoever waited for a connection learns why there was none.
            return error.clone().with_applied(applied);
        }
        let (address, timeout) = (self.address(), self.settings.timeout);
        let message = format!("no answer within {timeout:?} from the daemon at {address}");
        Error::new(Reason::Timeout, Code::DeadlineExceeded, applied, message)
            .with_retry_after(Some(Duration::from_secs(1)))
    }

    /// Puts operations at the end of the queue.
    fn enqueue(&self, ops: impl IntoIterator<Item = Op>) {
        let mut state = self.state();
        state.queue.extend(ops);
        self.wake(&mut state);
    }

    fn wake(&self, state: &mut State) {
        match state.sender.take() {
            Some(sender) => sender.wake(),
            None => self.work.notify_one(),
        }
    }

    /// Puts operations that were sent already before all others, in their order.
    fn requeue(&self, state: &mut State, ops: Vec<Op>) {
        for op in ops.into_iter().rev() {
            if state.ended {
                let applied = op.applied();
                op.fail(Error::closed(applied));
            } else if !op.answer.is_closed() {
                op.progress.queued(op.uncertain);
                state.queue.push_front(op);
            }
        }
        self.wake(state);
    }

    /// Whether somebody waits for a connection.
    fn is_wanted(&self) -> bool {
        let mut state = self.state();
        state.queue.retain(|op| !op.answer.is_closed());
        !state.queue.is_empty()
    }

    fn has_ended(&self) -> bool {
        self.state().ended
    }

    /// Gives an answer to its caller, or repeats the operation.
    fn answered(self: &Arc<Self>, response: pb::PipelineResponse) -> Result<()> {
        let mut state = self.state();
        let Some(mut op) = state.sent.remove(&response.sequence) else {
            if response.sequence == 0 || response.sequence > state.sequence {
                return Err(status::protocol(self.address(), "an answer to no operation"));
            }
            return Ok(()); // to something that was given up
        };
        let Some(result) = response.result else {
            return Err(status::protocol(self.address(), "an empty answer"));
        };
        if let pipeline_response::Result::Error(status) = &result {
            let error = status::answered(status, op.uncertain);
            if let Some(pause) = retry_pause(&op, &error, state.closed) {
                op.retries += 1;
                op.uncertain |= error.applied() == Applied::Unknown;
                drop(state);
                let shared = Arc::clone(self);
                tokio::spawn(async move {
                    sleep(pause).await;
                    shared.requeue(&mut shared.state(), vec![op]);
                });
                return Ok(());
            }
        }
        let uncertain = op.uncertain;
        drop(state);
        op.finish(Ok(Some(Answer { result, uncertain })));
        Ok(())
    }

    /// Decides what becomes of the operations that a stream that ended has not answered.
    fn cut(&self, error: &Error) {
        let mut state = self.state();
        state.stream = None;
        state.channel = None;
        state.sender = None;
        let mut sent: Vec<_> = state.sent.drain().collect();
        sent.sort_unstable_by_key(|(sequence, _)| *sequence);
        let mut again = Vec::new();
        for (_, mut op) in sent {
            if error.applied() == Applied::Unknown {
                op.cuts += 1;
                op.uncertain = true;
                if !op.safe || op.cuts > MAX_CUTS {
                    op.finish(Err(cut_off(error)));
                    continue;
                }
            }
            again.push(op);
        }
        self.requeue(&mut state, again);
    }

    /// Ends what is queued: to wait makes nothing better.
    fn fail_all(&self, error: &Error) {
        let queue = std::mem::take(&mut self.state().queue);
        for op in queue {
            op.fail(error.clone().with_applied(Applied::No));
        }
    }

    /// Lists sessions: a unary call, repeated like what is safe in the Pipeline.
    pub(crate) async fn list(
        self: &Arc<Self>,
        request: pb::SessionServiceListSessionsRequest,
        deadline: Instant,
    ) -> Result<pb::SessionServiceListSessionsResponse> {
        let mut attempt = 0_u32;
        loop {
            // It learns that the daemon is away, or too old, as everything else does.
            self.describe().await?;
            let _place = self.place()?;
            let channel = self.state().channel.clone();
            let error = match channel {
                Some(channel) => {
                    let call = connection::list(&self.settings, channel, request.clone());
                    match timeout_at(deadline, call).await {
                        Ok(Ok(page)) => return Ok(page),
                        Ok(Err(error)) => error,
                        Err(_) => return Err(self.late(Applied::No)),
                    }
                }
                // It was lost in this moment.
                None => status::unreachable(self.address(), "the connection was cut"),
            };
            let is_over = match error.reason() {
                Reason::ConnectionFailed | Reason::ShuttingDown => false,
                Reason::Overloaded | Reason::StoreUnavailable => attempt >= MAX_RETRIES.into(),
                Reason::TokenRequired | Reason::TokenUnknown | Reason::RoleRequired => {
                    !self.settings.token.reload()?
                }
                _ => true,
            };
            let pause = backoff(attempt).max(error.retry_after().unwrap_or_default());
            if is_over || Instant::now() + pause >= deadline {
                return Err(error.with_applied(Applied::No));
            }
            sleep(pause).await;
            attempt += 1;
        }
    }

    /// Takes nothing new, waits for what is under way, and ends the task.
    pub(crate) async fn close(&self) {
        self.state().closed = true;
        let drained = self.until(|state| state.waiting == 0);
        // What takes longer fails when the task ends.
        let _ = timeout(self.settings.timeout, drained).await;
        self.end();
        self.until(|state| !state.running).await;
    }

    async fn until(&self, is_so: impl Fn(&State) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.idle.notified());
            changed.as_mut().enable();
            if is_so(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    /// Ends the task, and what waits for it.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        (state.closed, state.ended) = (true, true);
        let queue = std::mem::take(&mut state.queue);
        let sent = std::mem::take(&mut state.sent);
        state.sender = None;
        drop(state);
        self.work.notify_one();
        for op in queue {
            let applied = op.applied();
            op.fail(Error::closed(applied));
        }
        for (_, op) in sent {
            op.fail(Error::closed(Applied::Unknown));
        }
    }
}

/// One of the places of `max_in_flight`.
struct Place<'a> {
    shared: &'a Shared,
    /// Of an operation without an outcome.
    progress: Option<Arc<Progress>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.waiting -= 1;
        if state.waiting == 0 {
            self.shared.idle.notify_waiters();
        }
        // What is given up is forgotten: a daemon that reads and does not answer, or one that
        // stands still, does not make the client grow.
        if let Some(progress) = &self.progress {
            state.sent.remove(&progress.sequence.load(Ordering::Relaxed));
        }
        if state.queue.len() > 2 * self.shared.settings.max_in_flight {
            state.queue.retain(|op| !op.answer.is_closed());
        }
    }
}

/// When an operation that the daemon has refused is sent again, if it is.
fn retry_pause(op: &Op, error: &Error, is_closing: bool) -> Option<Duration> {
    if !matches!(error.reason(), Reason::Overloaded | Reason::StoreUnavailable)
        || op.retries >= MAX_RETRIES
        || is_closing
        || (error.applied() == Applied::Unknown && !op.safe)
    {
        return None;
    }
    let pause = error.retry_after()?.mul_f64(1.0 + fastrand::f64() / 4.0);
    (Instant::now() + pause < op.deadline).then_some(pause)
}

/// Pauses between attempts to connect: they grow from 100 ms to 1 s, and are never the same.
fn backoff(failures: u32) -> Duration {
    let longest = Duration::from_millis(100 << failures.min(4)).min(Duration::from_secs(1));
    longest.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// The error of an operation that was cut off.
fn cut_off(cause: &Error) -> Error {
    if cause.reason() == Reason::ProtocolError {
        return cause.clone();
    }
    let error = cause.clone().with_applied(Applied::Unknown);
    let error =
        if error.is_unavailable() { error } else { error.with_reason(Reason::ConnectionFailed) };
    let pause = cause.retry_after().unwrap_or_default().max(Duration::from_secs(1));
    error.with_retry_after(Some(pause)).not_retryable()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second() {
        for failures in 0..40 {
            let pause = backoff(failures);
            assert!(pause >= Duration::from_millis(50) && pause <= Duration::from_secs(1));
        }
    }
}
