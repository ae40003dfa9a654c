//! The system's time and randomness: what the session room takes as arguments.

use std::time::Duration;

use rand::{TryRng, rngs::SysRng};
use rustix::time::{ClockId, clock_gettime};

use crate::session::{
    clock::{Clock, Moment},
    id::Entropy,
};

/// A clock that reads the wall once, at start, and then follows a monotonic
/// clock that counts suspend. A wall clock that steps while the daemon runs
/// expires nothing.
pub struct SystemClock {
    wall_at_start: Moment,
    boot_at_start: Duration,
}

impl SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system")]
    pub fn start() -> Self {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            wall_at_start: Moment::from_unix_millis(0) + wall.unwrap_or_default(),
            boot_at_start: since_boot(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        self.wall_at_start + since_boot().saturating_sub(self.boot_at_start)
    }
}

fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

/// The operating system's generator.
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    /// Panics when the system has no randomness to give: there is no safe
    /// session id without it.
    fn fill(&self, bytes: &mut [u8]) {
        SysRng.try_fill_bytes(bytes).expect("the operating system gives random bytes");
    }
}
