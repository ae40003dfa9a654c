//! The threads that may wait for the disk.
//!
//! A queue and a fixed number of threads that take jobs from its front. This is
//! cheaper than a runtime's blocking pool, because work is batched. All jobs
//! from one turn of the caller's runtime wake a thread once. A thread tells the
//! committer only after it has done all available jobs.

use std::{
    collections::VecDeque,
    io, panic,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

type Job = Box<dyn FnOnce() + Send>;

/// The threads and their queue. Dropping this waits until all jobs are done, so
/// no job may own it.
pub(super) struct Threads {
    queue: Arc<Queue>,
    running: Vec<JoinHandle<()>>,
}

struct Queue {
    jobs: Mutex<Jobs>,
    wake: Condvar,
    limit: usize,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    /// Jobs that were taken from the queue and are not done yet.
    active: usize,
    /// Threads that sleep and that nobody has woken yet.
    idle: usize,
    /// A [`WakeUp`] exists that will wake threads.
    waking: bool,
    closed: bool,
}

/// After this time a thread calls `rest` even if there are more jobs. It
/// therefore delays the commit of a finished job by at most about this much,
/// however slow the disk is.
const REST_AFTER: Duration = Duration::from_millis(1);

/// One thread is woken for this many jobs.
const WORTH_A_THREAD: usize = 8;

/// The limit of simultaneous jobs is reached.
#[derive(Debug)]
pub(super) struct Full;

impl Threads {
    /// Starts `threads` threads for at most `limit` simultaneous jobs. A thread
    /// calls `rest` when the queue is empty, or after it has worked for some
    /// time.
    pub(super) fn start(
        threads: usize,
        limit: usize,
        rest: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let rest = Arc::new(rest);
        let queue = Arc::new(Queue { jobs: Mutex::default(), wake: Condvar::new(), limit });
        let mut running = Vec::new();
        for number in 0..threads {
            let (queue, rest) = (Arc::clone(&queue), Arc::clone(&rest));
            let thread = thread::Builder::new().name(format!("sessiond-store-{number}"));
            running.push(thread.spawn(move || queue.work(rest.as_ref()))?);
        }
        Ok(Self { queue, running })
    }

    /// Appends a job to the queue. Dropping the returned [`WakeUp`] wakes
    /// threads. `None` if no thread sleeps or another [`WakeUp`] exists.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<Option<WakeUp>, Full> {
        let mut jobs = self.queue.jobs.lock();
        if jobs.waiting.len() + jobs.active >= self.queue.limit {
            return Err(Full);
        }
        jobs.waiting.push_back(Box::new(job));
        if jobs.idle == 0 || std::mem::replace(&mut jobs.waking, true) {
            return Ok(None);
        }
        Ok(Some(WakeUp(Arc::clone(&self.queue))))
    }
}

/// Wakes threads when it is dropped. It can therefore be neither forgotten nor
/// lost with a task. If more jobs follow, keep it until they are queued.
pub(super) struct WakeUp(Arc<Queue>);

impl Drop for WakeUp {
    fn drop(&mut self) {
        let mut jobs = self.0.jobs.lock();
        jobs.waking = false;
        let wanted = jobs.idle.min(jobs.waiting.len().div_ceil(WORTH_A_THREAD));
        jobs.idle -= wanted;
        drop(jobs);
        for _ in 0..wanted {
            self.0.wake.notify_one();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.queue.jobs.lock().closed = true;
        self.queue.wake.notify_all();
        for thread in self.running.drain(..) {
            // Jobs cannot end a thread: their panics are caught.
            let _ = thread.join();
        }
    }
}

impl Queue {
    fn work(&self, rest: &dyn Fn()) {
        let mut jobs = self.jobs.lock();
        let mut working_since = None;
        loop {
            if let Some(job) = jobs.waiting.pop_front() {
                jobs.active += 1;
                drop(jobs);
                let began = Instant::now();
                // After a panic no answer is sent, which tells the waiting
                // caller.
                let _ = panic::catch_unwind(panic::AssertUnwindSafe(job));
                if working_since.get_or_insert(began).elapsed() > REST_AFTER {
                    rest();
                    working_since = None;
                }
                jobs = self.jobs.lock();
                jobs.active -= 1;
            } else if working_since.take().is_some() {
                MutexGuard::unlocked(&mut jobs, rest);
            } else if jobs.closed {
                return;
            } else {
                jobs.idle += 1;
                self.wake.wait(&mut jobs);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn more_than_the_limit_is_refused_until_something_is_done() {
        let threads = Threads::start(1, 3, || {}).expect("a thread");
        let (resume, stopped) = mpsc::channel::<()>();
        let (done, order) = mpsc::channel();
        let says = |name| {
            let done = done.clone();
            move || done.send(name).expect("somebody listens")
        };
        let (begun, beginning) = mpsc::channel();
        threads
            .run(move || {
                begun.send(()).expect("somebody listens");
                stopped.recv().expect("it is resumed");
            })
            .expect("the first");
        beginning.recv().expect("it has begun");
        threads.run(says("second")).expect("the second waits");
        threads.run(says("third")).expect("the third waits");
        assert!(threads.run(says("fourth")).is_err(), "three are at work or waiting");
        resume.send(()).expect("the first waits");
        assert_eq!([order.recv(), order.recv()], [Ok("second"), Ok("third")]);
        while threads.run(says("fifth")).is_err() {
            // The third job has sent its name and is about to end.
            thread::yield_now();
        }
        assert_eq!(order.recv(), Ok("fifth"));
    }

    #[test]
    fn a_panic_costs_no_thread() {
        let threads = Threads::start(1, 2, || {}).expect("a thread");
        threads.run(|| panic!("on purpose")).expect("there is room");
        let (done, outcome) = mpsc::channel();
        threads.run(move || done.send(()).expect("somebody listens")).expect("there is room");
        outcome.recv().expect("the thread is still there");
    }

    #[test]
    fn dropping_them_waits_for_what_is_queued() {
        let (done, outcome) = mpsc::channel();
        let threads = Threads::start(2, 100, || {}).expect("threads");
        for number in 0..100 {
            let done = done.clone();
            threads.run(move || done.send(number).expect("somebody listens")).expect("room");
        }
        drop((threads, done));
        assert_eq!(outcome.into_iter().count(), 100);
    }
}
