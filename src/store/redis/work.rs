//! How an operation runs: on the executor of its runtime, with a place among
//! those that may wait for Redis, with a time limit, and in turn.
//!
//! The caller's own task does not run it, because a caller may stop polling for
//! any length of time: a response body does so while its peer reads nothing.
//! The operation must still release its place and its turn.

use std::{collections::HashMap, panic::AssertUnwindSafe, pin::Pin, sync::Arc};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use parking_lot::RwLock;
use tokio::{
    runtime::{self, Handle},
    sync::{
        Mutex, MutexGuard,
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        oneshot,
    },
    time::timeout,
};

use super::{RedisStore, failure::Failure};
use crate::{
    session::{
        id::PublicId,
        store::{Result, StoreError},
        striped::Striped,
    },
    trace,
};

const WAITING: &str = "too many operations are waiting for redis; see store.redis.max_pending";

/// Writers of one daemon take turns on a session, in the order of arrival. Only
/// writers of different daemons can therefore conflict. Two sessions may share
/// a turn.
pub(super) struct Turns(Striped<Mutex<()>>);

impl Turns {
    const COUNT: usize = 1024;

    pub(super) fn new() -> Self {
        Self(Striped::new(Self::COUNT))
    }

    pub(super) async fn take(&self, id: PublicId) -> MutexGuard<'_, ()> {
        self.0.of(&id).lock().await
    }
}

/// An operation, from taking its place to reporting its outcome.
type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The tasks that run operations, one in each runtime that calls.
///
/// There is not one task for each operation, because operations that are
/// requested together should be sent together. Answers that arrive together on
/// the thread of a connection then wake the task once. A wake-up across threads
/// is a system call.
#[derive(Default)]
pub(super) struct RuntimeExecutors(RwLock<HashMap<runtime::Id, UnboundedSender<Job>>>);

impl RuntimeExecutors {
    /// Queues the job on the caller's runtime. Drops it if that runtime is
    /// shutting down.
    fn execute(&self, job: Job) {
        let runtime = Handle::current();
        let known = self.0.read().get(&runtime.id()).cloned();
        // The id of an ended runtime may be given to another one.
        let executor = known
            .filter(|executor| !executor.is_closed())
            .unwrap_or_else(|| self.spawn_executor(&runtime));
        let _ = executor.send(job);
    }

    fn spawn_executor(&self, runtime: &Handle) -> UnboundedSender<Job> {
        let mut executors = self.0.write();
        executors.retain(|_, executor| !executor.is_closed());
        let spawned = || {
            let (executor, jobs) = mpsc::unbounded_channel();
            runtime.spawn(do_all(jobs));
            executor
        };
        executors.entry(runtime.id()).or_insert_with(spawned).clone()
    }
}

/// Runs jobs concurrently; the places limit their number. Each job holds the
/// store, and with it the other end of `jobs`: when `jobs` is closed, all jobs
/// are done.
async fn do_all(mut jobs: UnboundedReceiver<Job>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            job = jobs.recv() => match job {
                Some(job) => under_way.push(job),
                None => return,
            },
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
        }
    }
}

impl RedisStore {
    /// Runs an operation, for at most the configured time. It runs to its end
    /// even if the caller is cancelled.
    pub(super) async fn bounded<T, F>(
        &self,
        doing: &'static str,
        work: impl FnOnce(Self) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let outcome = self.start(doing, work)?;
        let stopped = |_| Err(StoreError::unavailable(doing, "the daemon has stopped"));
        outcome.await.unwrap_or_else(stopped)
    }

    /// Runs an operation in the background, if a place is free.
    pub(super) fn aside<T, F>(&self, doing: &'static str, work: impl FnOnce(Self) -> F)
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        drop(self.start(doing, work));
    }

    fn start<T, F>(
        &self,
        doing: &'static str,
        work: impl FnOnce(Self) -> F,
    ) -> Result<oneshot::Receiver<Result<T>>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let place = Arc::clone(&self.shared.pending).try_acquire_owned();
        let place = place.map_err(|_| StoreError::overloaded(doing, WAITING))?;
        let limit = self.shared.timeout;
        let work = trace::carried(timeout(limit, work(self.clone())));
        let work = AssertUnwindSafe(work).catch_unwind();
        let (teller, told) = oneshot::channel();
        self.shared.executors.execute(Box::pin(async move {
            let outcome = match work.await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => {
                    let late = Failure::Lost(format!("no answer within {limit:?}"));
                    Err(late.while_doing(doing, ""))
                }
                // The panic message is not repeated: it may contain session
                // data.
                Err(_) => Err(StoreError::unavailable(doing, "it panicked")),
            };
            // Released before the caller receives the outcome.
            drop(place);
            let _ = teller.send(outcome);
        }));
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        session::{
            clock::{Clock, Moment},
            store::StoreErrorKind,
        },
        store::redis::{Login, RedisDatabase, RedisOptions, Source},
    };

    struct Still;

    impl Clock for Still {
        fn now(&self) -> Moment {
            Moment::from_unix_millis(0)
        }

        fn follow(&self, _: Moment, _: Moment) {}
    }

    /// Must be called in a runtime. Nothing listens at the address.
    fn store(max_pending: usize) -> RedisStore {
        let options = RedisOptions {
            url: "redis://127.0.0.1:1".parse().expect("a URL"),
            login: Login::default(),
            sentinel_login: Login::default(),
            tls: Source::default(),
            key_prefix: "sessiond".to_owned(),
            timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(5),
            connections: 1,
            max_pending,
            expiry_grace: Duration::ZERO,
            record_layout: crate::store::codec::Layout::LATEST,
            wait: None,
        };
        RedisDatabase::start(options, Arc::new(Still)).store("default")
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_gives_its_place_back() {
        let store = store(1);
        for _ in 0..2 {
            let panics = |_| async { panic!("on purpose: hunter2") };
            let error = store.bounded::<(), _>("work", panics).await.expect_err("it panics");
            assert_eq!(error.kind, StoreErrorKind::Unavailable);
            let cause = std::error::Error::source(&error).expect("a cause").to_string();
            assert_eq!(cause, "it panicked");
        }
    }

    #[tokio::test]
    async fn a_panic_ends_nothing_else() {
        let store = store(2);
        let (release, released) = oneshot::channel::<()>();
        let other = store.start("work", |_| released.map(|_| Ok(()))).expect("a place");
        let panics = |_| async { panic!("on purpose") };
        store.bounded::<(), _>("work", panics).await.expect_err("it panics");
        release.send(()).expect("it is waited for");
        other.await.expect("the executor is still there").expect("it was done");
    }

    /// Covers a runtime that nobody drives and one that has ended.
    #[test]
    fn each_runtime_does_its_own_work() {
        let runtime = || runtime::Builder::new_current_thread().enable_all().build();
        let works = |_| async { Ok(()) };
        let (first, second) = (runtime().expect("a runtime"), runtime().expect("a runtime"));
        let store = first.block_on(async { store(10) });
        first.block_on(store.bounded("work", works)).expect("it is done");
        second.block_on(store.bounded("work", works)).expect("the first does nothing now");
        drop(second);
        let third = runtime().expect("a runtime");
        third.block_on(store.bounded("work", works)).expect("the second does nothing any more");
        assert_eq!(store.shared.executors.0.read().len(), 2, "the first and the third");
        // As if the third runtime had the id of the second.
        let (ended, _) = mpsc::unbounded_channel();
        store.shared.executors.0.write().insert(third.handle().id(), ended);
        third.block_on(store.bounded("work", works)).expect("another executor is there");
    }
}
