//! The service manager, such as systemd: hears what the daemon does, and that it is alive
//! (`sd_notify(3)`). Where there is none, nothing is sent.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sd_notify::NotifyState::{self, Ready, Reloading, Status, Stopping, Watchdog};
use sessiond::server::phase::Phase;

/// Whoever started the daemon and wants to know how it is.
#[derive(Default)]
pub(crate) struct ServiceManager {
    /// What the daemon does, apart from reloads.
    status: Mutex<String>,
    has_failed: AtomicBool,
}

impl ServiceManager {
    /// Something that may take a while has begun.
    pub(crate) fn starts(&self, what: &str) {
        self.tell(&[Status(what)]);
    }

    /// The daemon serves.
    pub(crate) fn ready(&self) {
        self.state("serving".to_owned(), &[Ready]);
    }

    /// The daemon ends because of this.
    pub(crate) fn failed(&self, problem: &str) {
        self.tell(&[Status(&one_line(problem))]);
    }

    /// Passes on what the daemon does.
    pub(crate) fn hear(&self, phase: Phase<'_>) {
        match phase {
            Phase::Serving => self.state("serving".to_owned(), &[]),
            Phase::OnlyReads(why) => self.state(format!("serving only what reads: {why}"), &[]),
            Phase::NotServing(why) => self.state(format!("not serving: {why}"), &[]),
            Phase::Reloading => {
                let mut told = vec![Reloading, Status("reloading")];
                // systemd compares it with the time at which it asked.
                told.extend(NotifyState::monotonic_usec_now());
                self.tell(&told);
            }
            Phase::Reloaded => self.tell(&[Ready, Status(&self.current())]),
            Phase::ReloadRefused(problem) => {
                let status = one_line(&format!("{}; {problem}", self.current()));
                self.tell(&[Ready, Status(&status)]);
            }
            Phase::Draining(time) => {
                let time = humantime::format_duration(time);
                let status = format!("draining for {time} before the listeners close");
                self.state(status, &[Stopping]);
            }
            Phase::Stopping => {
                let status = "stopping: what is in flight is finished".to_owned();
                self.state(status, &[Stopping]);
            }
        }
    }

    /// Tells that the daemon is alive, twice in the time after which the service manager would
    /// take it for dead. Never ends if there is such a time. It is alive while the thread that
    /// polls this has turns for its tasks.
    pub(crate) async fn stay_alive(&self) {
        let Some(patience) = sd_notify::watchdog_enabled().filter(|time| !time.is_zero()) else {
            return;
        };
        let mut beats = tokio::time::interval((patience / 2).max(Duration::from_millis(1)));
        loop {
            beats.tick().await;
            self.tell(&[Watchdog]);
        }
    }

    /// Keeps and tells what the daemon does.
    fn state(&self, status: String, beside: &[NotifyState<'_>]) {
        let status = one_line(&status);
        let mut told = beside.to_vec();
        told.push(Status(&status));
        self.tell(&told);
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    fn current(&self) -> String {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states)
            && !self.has_failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("the service manager at NOTIFY_SOCKET cannot be told: {error}");
        }
    }
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}
