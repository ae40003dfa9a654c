//! Aligns the daemon's clock with the clock of Redis.
//!
//! Several daemons judge the deadlines in one Redis, and the clocks of their
//! machines may differ. Each therefore aligns its clock with that of Redis, at
//! every connection and once a second. In a cluster, all daemons follow the
//! same server, the one that holds slot 0.

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use redis::{Value, from_redis_value};

use super::{
    failure::Failure,
    url::{Address, Endpoint},
};
use crate::session::clock::{Clock, Moment};

/// Aligns a clock with the server's.
pub(super) struct Timekeeper {
    /// `None`: no clock is aligned.
    clock: Option<Arc<dyn Clock>>,
    /// The server to follow; `None`: any server.
    server: RwLock<Option<Address>>,
}

impl Timekeeper {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), server: RwLock::new(None) }
    }

    /// For servers that are not our store. They are asked for the time only to
    /// check the connection.
    pub(super) fn idle() -> Self {
        Self { clock: None, server: RwLock::new(None) }
    }

    /// Follows this server only.
    pub(super) fn follow(&self, server: Address) {
        *self.server.write() = Some(server);
    }

    /// Handles `server`'s answer to a TIME that was sent `ago` before.
    pub(super) fn heard(
        &self,
        server: &Endpoint,
        answer: Value,
        ago: Duration,
    ) -> Result<(), Failure> {
        let (seconds, micros): (u64, u64) =
            from_redis_value(answer).map_err(|_| Failure::Absurd)?;
        let told = Moment::from_unix_millis(seconds * 1000 + micros / 1000);
        let Some(clock) = &self.clock else { return Ok(()) };
        if self
            .server
            .read()
            .as_ref()
            .is_none_or(|followed| matches!(server, Endpoint::Tcp(address) if address == followed))
        {
            // The server read its clock when the command arrived, at some
            // moment since it was sent.
            clock.follow(told, told + ago + Duration::from_millis(1));
        }
        Ok(())
    }
}
