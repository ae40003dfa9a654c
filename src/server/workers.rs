//! The threads that serve connections, each with a runtime of its own.
//!
//! A connection stays with one thread for its life: its requests wake no other
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

/// How long a thread waits at its end for calls to the system that can not be
/// cancelled: a name of Redis that no DNS answers for. Nothing else is called so here.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// A fixed number of threads. Dropping it drops all their tasks and waits for
/// the threads to end.
pub struct Workers(Vec<Worker>);

struct Worker {
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// Starts so many threads; 0: one for each core.
    pub fn start(threads: usize) -> io::Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        (0..threads).map(Worker::start).collect::<io::Result<_>>().map(Self)
    }

    pub fn runtimes(&self) -> impl Iterator<Item = &Handle> {
        self.0.iter().map(|worker| &worker.runtime)
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name(format!("sessiond-serve-{number}")).spawn(
            move || {
                // Also done when nobody could ever tell it any more.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_timeout(LAST_CALLS);
            },
        )?;
        Ok(Self { runtime: handle, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            worker.stop.take();
        }
        for worker in &mut self.0 {
            if let Some(thread) = worker.thread.take() {
                // A panic there was reported by the hook.
                let _ = thread.join();
            }
        }
    }
}

/// Gives each connection to the worker that has the fewest.
///
/// Clients of gRPC hold few connections and hold them long, so what the kernel's
/// hash would do (SO_REUSEPORT) often leaves a core without any.
#[derive(Clone)]
pub struct Balance(Vec<Arc<AtomicUsize>>);

impl Balance {
    pub fn between(workers: usize) -> Self {
        Self((0..workers).map(|_| Arc::default()).collect())
    }

    /// The number of a worker and a place there.
    pub fn place(&self) -> (usize, Placed) {
        let fewest = self.0.iter().enumerate().min_by_key(|(_, open)| open.load(Ordering::Relaxed));
        let (number, open) = fewest.expect("there is at least one worker");
        open.fetch_add(1, Ordering::Relaxed);
        (number, Placed(Arc::clone(open)))
    }
}

/// A connection's place with its worker; given back when dropped.
pub struct Placed(Arc<AtomicUsize>);

impl Drop for Placed {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_where_the_fewest_are() {
        let balance = Balance::between(2);
        let (first, first_place) = balance.place();
        let (second, _second_place) = balance.place();
        assert_ne!(first, second, "each worker gets one");
        drop(first_place);
        assert_eq!(balance.place().0, first, "the one that lost its connection gets the next");
    }

    #[test]
    fn dropping_them_drops_their_tasks() {
        let workers = Workers::start(1).expect("a thread");
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
    fn a_call_that_hangs_does_not_hold_up_the_end() {
        let workers = Workers::start(1).expect("a thread");
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
