//! Callers that were refused: counts them by reason, and logs some of them.
//!
//! A client with an old token calls thousands of times a second. So each peer is logged once a
//! minute for each reason, and not more than [`MAX_LOGGED`] lines a minute are written.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use super::{metrics::Metrics, tls};
use crate::service::{
    access::{Refusals, Remote},
    fault::Reason,
};

const MINUTE: Duration = Duration::from_secs(60);
/// Lines in one minute, for each listener.
const MAX_LOGGED: usize = 10;

/// The refusals of the listeners of one kind.
pub(super) struct ListenerRefusals {
    /// As in the configuration: `grpc` or `admin`.
    listener: &'static str,
    counters: HashMap<&'static str, Counter>,
    minute: Mutex<Minute>,
}

#[derive(Default)]
struct Minute {
    began: Option<Instant>,
    logged: HashSet<(Peer, &'static str)>,
    not_logged: u64,
}

/// A peer that connects again is the same one.
#[derive(PartialEq, Eq, Hash)]
enum Peer {
    Unknown,
    Host(IpAddr),
    User(u32),
}

impl From<Remote> for Peer {
    fn from(remote: Remote) -> Self {
        match remote {
            Remote::Unknown => Self::Unknown,
            Remote::Tcp(address) => Self::Host(address.ip().to_canonical()),
            Remote::Unix { uid, .. } => Self::User(uid),
        }
    }
}

impl ListenerRefusals {
    pub(super) fn new(listener: &'static str, metrics: &Metrics) -> Self {
        let of_calls = [Reason::TokenRequired, Reason::TokenUnknown, Reason::RoleRequired];
        let reasons = of_calls.map(Reason::name).into_iter().chain(tls::REFUSALS);
        let counters = reasons.map(|reason| (reason, metrics.refused(listener, reason))).collect();
        Self { listener, counters, minute: Mutex::default() }
    }

    /// Whether to log it, and then how many were not logged before.
    fn may_log(&self, reason: &'static str, remote: Remote, now: Instant) -> Option<u64> {
        let mut minute = self.minute.lock();
        let mut not_logged = 0;
        if minute.began.is_none_or(|began| now.saturating_duration_since(began) >= MINUTE) {
            not_logged = minute.not_logged;
            *minute = Minute { began: Some(now), ..Minute::default() };
        }
        if minute.logged.len() < MAX_LOGGED && minute.logged.insert((remote.into(), reason)) {
            return Some(not_logged);
        }
        minute.not_logged += 1;
        None
    }
}

impl Refusals for ListenerRefusals {
    fn refused(&self, reason: &'static str, remote: Remote) {
        if let Some(counter) = self.counters.get(reason) {
            counter.inc();
        }
        if let Some(not_logged) = self.may_log(reason, remote, Instant::now()) {
            let listener = self.listener;
            tracing::warn!(listener, reason, peer = %remote, not_logged, "refused a caller");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_is_logged_once_a_minute_and_not_too_many_are() {
        let refusals = ListenerRefusals::new("grpc", &Metrics::new());
        let start = Instant::now();
        let peer = |host: u8, port| Remote::Tcp(([10, 0, 0, host], port).into());
        let at = |seconds| start + Duration::from_secs(seconds);
        let log = |reason, remote, seconds| refusals.may_log(reason, remote, at(seconds));
        assert_eq!(log("TOKEN_UNKNOWN", peer(1, 1), 0), Some(0));
        assert_eq!(log("TOKEN_UNKNOWN", peer(1, 2), 1), None, "the same host");
        assert_eq!(log("TOKEN_REQUIRED", peer(1, 2), 1), Some(0), "another reason");
        let unix = Remote::Unix { uid: 1, pid: Some(7) };
        assert_eq!(log("TOKEN_REQUIRED", unix, 1), Some(0));
        let logged = (2..=20).filter(|host| log("TOKEN_UNKNOWN", peer(*host, 1), 2).is_some());
        assert_eq!(logged.count(), MAX_LOGGED - 3);
        assert_eq!(log("TOKEN_UNKNOWN", peer(1, 1), 59), None);
        assert_eq!(log("TOKEN_UNKNOWN", peer(1, 1), 60), Some(14), "12 hosts and 2 repetitions");
    }
}
