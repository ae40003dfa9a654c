//! The threads that serve connections, each with its own runtime.
//!
//! A connection stays on one thread for its whole life. So its requests wake no other
//! core and share no run queue.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// How long a thread waits at its end for blocking work that cannot be cancelled: a DNS
/// lookup of a Redis host that nobody answers, and the check of a large `set`.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// After how many tasks a thread looks for what the network and other threads have brought.
/// tokio's own 61 would let a few connections that are always busy delay all others by 61
/// turns. The look costs a microsecond, a turn of a busy connection a hundred.
const TASKS_BETWEEN_LOOKS: u32 = 8;

/// A fixed number of threads, each with its own runtime. Dropping it drops all their
/// tasks and waits for the threads to end.
pub(super) struct RuntimeExecutors(Vec<Worker>);

struct Worker {
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RuntimeExecutors {
    /// Starts `threads` threads; 0 starts one per core.
    pub(super) fn start(threads: usize) -> io::Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let name = |number| format!("sessiond-serve-{number}");
        (0..threads).map(|number| Worker::start(name(number))).collect::<io::Result<_>>().map(Self)
    }

    /// Starts one thread, for work that must not delay requests.
    pub(super) fn start_one(name: &str) -> io::Result<Self> {
        Ok(Self(vec![Worker::start(name.to_owned())?]))
    }

    pub(super) fn runtimes(&self) -> impl Iterator<Item = &Handle> {
        self.0.iter().map(|worker| &worker.runtime)
    }
}

impl Worker {
    fn start(name: String) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .event_interval(TASKS_BETWEEN_LOOKS)
            .global_queue_interval(TASKS_BETWEEN_LOOKS)
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            // An error means that the sender was dropped, which also stops the thread.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(LAST_CALLS);
        })?;
        Ok(Self { runtime: handle, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for RuntimeExecutors {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            worker.stop.take();
        }
        for worker in &mut self.0 {
            if let Some(thread) = worker.thread.take() {
                // The panic hook has reported a panic of the thread already.
                let _ = thread.join();
            }
        }
    }
}

/// Assigns each new connection to the worker with the fewest connections.
///
/// gRPC clients open few connections and keep them long. So the kernel's hash
/// (SO_REUSEPORT) often leaves a core without any connection.
#[derive(Clone)]
pub(super) struct Balance(Vec<Arc<AtomicUsize>>);

impl Balance {
    pub(super) fn between(workers: usize) -> Self {
        Self((0..workers).map(|_| Arc::default()).collect())
    }

    /// The number of the chosen worker, and a guard that counts the connection there.
    pub(super) fn place(&self) -> (usize, Placed) {
        let fewest = self.0.iter().enumerate().min_by_key(|(_, open)| open.load(Ordering::Relaxed));
        let (number, open) = fewest.expect("there is at least one worker");
        open.fetch_add(1, Ordering::Relaxed);
        (number, Placed(Arc::clone(open)))
    }
}

/// Counts a connection for its worker until dropped.
pub(super) struct Placed(Arc<AtomicUsize>);

impl Drop for Placed {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_goes_to_the_worker_with_the_fewest() {
        let balance = Balance::between(2);
        let (first, first_place) = balance.place();
        let (second, _second_place) = balance.place();
        assert_ne!(first, second, "each worker gets one");
        drop(first_place);
        assert_eq!(balance.place().0, first, "the one that lost its connection gets the next");
    }

    #[test]
    fn dropping_them_drops_their_tasks() {
        let workers = RuntimeExecutors::start(1).expect("a thread");
        let runtime = workers.runtimes().next().expect("a worker").clone();
        let held = Arc::new(());
        let theirs = Arc::clone(&held);
        runtime.spawn(async move {
            let _theirs = theirs;
            std::future::pending::<()>().await;
        });
        drop(workers);
        assert_eq!(Arc::strong_count(&held), 1, "the task still holds what it was given");
    }

    #[test]
    fn a_hanging_call_does_not_block_the_shutdown() {
        let workers = RuntimeExecutors::start(1).expect("a thread");
        let runtime = workers.runtimes().next().expect("a worker").clone();
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        runtime.spawn_blocking(move || {
            let _ = begun.send(());
            let _ = hangs.recv();
        });
        has_begun.recv().expect("it has begun");
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(workers);
            let _ = ended.send(());
        });
        end.recv_timeout(Duration::from_secs(60)).expect("the end does not wait for it");
        drop(release);
    }
}
