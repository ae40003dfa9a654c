//! Whose time it is: the server's.
//!
//! Several daemons judge the deadlines in one Redis, and their machines need not
//! agree on the time. So each brings its clock into line with that of Redis, at
//! every connection and once a second. In a cluster it is the server that holds
//! slot 0, so that all daemons follow the same one.

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use redis::{Value, from_redis_value};

use super::{failure::Failure, url::Address};
use crate::session::clock::{Clock, Moment};

/// Brings a clock into line with the server's.
pub struct Timekeeper {
    /// `None`: nobody's.
    clock: Option<Arc<dyn Clock>>,
    /// Whom to listen to; `None`: anybody.
    server: RwLock<Option<Address>>,
}

impl Timekeeper {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), server: RwLock::new(None) }
    }

    /// Of servers that are no store of ours: their time is asked for, to see that they
    /// are there, and does not matter.
    pub fn idle() -> Self {
        Self { clock: None, server: RwLock::new(None) }
    }

    /// Listens to this server only.
    pub fn follow(&self, server: Address) {
        *self.server.write() = Some(server);
    }

    /// `server` has answered a TIME that was asked for `ago`.
    pub fn heard(&self, server: &Address, answer: Value, ago: Duration) -> Result<(), Failure> {
        let (seconds, micros): (u64, u64) =
            from_redis_value(answer).map_err(|_| Failure::Absurd)?;
        let told = Moment::from_unix_millis(seconds * 1000 + micros / 1000);
        let Some(clock) = &self.clock else { return Ok(()) };
        if self.server.read().as_ref().is_none_or(|followed| followed == server) {
            // It was read when the command arrived, some time since it was sent.
            clock.follow(told, told + ago + Duration::from_millis(1));
        }
        Ok(())
    }
}
