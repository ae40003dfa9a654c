//! A floor of free space on the disk.
//!
//! sled can not go on once a write has failed for lack of space. So creations and
//! changes are refused while less than the floor is free, well before that; what
//! ends sessions, and what keeps them alive, takes little and goes on. When space
//! returns, it is used again.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How long an answer of the file system is good for. At the speed of a fast
/// disk what is written meanwhile is far less than any sensible floor.
const GOOD_FOR: Duration = Duration::from_millis(10);

type Free = Box<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

pub struct Space {
    path: PathBuf,
    floor_bytes: u64,
    free_bytes: Free,
    last: Mutex<Option<Answer>>,
}

#[derive(Clone, Copy)]
struct Answer {
    at: Instant,
    enough: bool,
}

impl Space {
    /// Watches the file system that `path` is on.
    pub fn new(path: PathBuf, floor_bytes: u64) -> Self {
        let free_bytes = |path: &Path| {
            let found = rustix::fs::statvfs(path)?;
            Ok(found.f_bavail.saturating_mul(found.f_frsize))
        };
        Self { path, floor_bytes, free_bytes: Box::new(free_bytes), last: Mutex::new(None) }
    }

    /// Whether there is room for more. May wait for the file system.
    pub fn is_enough(&self, now: Instant) -> bool {
        let mut last = self.last.lock();
        if let Some(answer) = *last
            && now.saturating_duration_since(answer.at) < GOOD_FOR
        {
            return answer.enough;
        }
        let free_bytes = match (self.free_bytes)(&self.path) {
            Ok(free_bytes) => free_bytes,
            Err(error) => {
                tracing::warn!(%error, "the free space of the disk is not known; assuming enough");
                u64::MAX
            }
        };
        let enough = free_bytes >= self.floor_bytes;
        let floor_bytes = self.floor_bytes;
        match (enough, last.is_none_or(|answer| answer.enough)) {
            (false, true) => tracing::error!(
                free_bytes,
                floor_bytes,
                "the disk is nearly full: creations and changes are refused until there is more room"
            ),
            (true, false) => tracing::info!(free_bytes, "there is room on the disk again"),
            _ => {}
        }
        *last = Some(Answer { at: now, enough });
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use super::*;

    #[test]
    fn below_the_floor_there_is_not_enough_until_there_is() {
        let free = Arc::new(AtomicU64::new(100));
        let theirs = Arc::clone(&free);
        let space = Space {
            free_bytes: Box::new(move |_| Ok(theirs.load(Ordering::Relaxed))),
            ..Space::new(PathBuf::from("/"), 50)
        };
        let start = Instant::now();
        assert!(space.is_enough(start));
        free.store(49, Ordering::Relaxed);
        assert!(space.is_enough(start + GOOD_FOR / 2), "an answer is good for a moment");
        assert!(!space.is_enough(start + GOOD_FOR));
        free.store(50, Ordering::Relaxed);
        assert!(space.is_enough(start + GOOD_FOR * 2), "it recovers by itself");
    }

    #[test]
    fn a_real_file_system_tells() {
        let now = Instant::now();
        let here = std::env::temp_dir();
        assert!(Space::new(here.clone(), 1).is_enough(now));
        assert!(!Space::new(here, u64::MAX).is_enough(now));
    }
}
