//! A minimum of free space on the disk.
//!
//! sled cannot continue after a write has failed for lack of space. As the free
//! space shrinks, fewer operations may write. The last part is reserved for
//! sled's own cleaning, which needs some space before it frees more:
//!
//! | free | refused |
//! |---|---|
//! | less than the floor | creations and changes |
//! | less than half of it | moves of deadlines, too |
//! | less than a quarter | destroys and sweeps, too |
//!
//! The second line exists because every change, however small, makes the log
//! grow by the leaf that contains it, until the segments are cleaned. This
//! takes a few MiB if little data is live, and in the worst case as much again
//! as the live data. A session that is resolved meanwhile keeps its deadline.
//!
//! When there is enough space again, the operations are accepted again.

use std::{
    fs::File,
    io,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How long an answer from the file system is used. In that time, even a fast
/// disk writes far less than any sensible floor.
const GOOD_FOR: Duration = Duration::from_millis(10);

/// Which operations there is room for. More room compares as greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Room {
    Nothing,
    /// Destroys and sweeps, which free space in the end.
    Endings,
    /// Also moves of deadlines.
    Deadlines,
    Everything,
}

impl Room {
    fn of(free_bytes: u64, floor_bytes: u64) -> Self {
        match free_bytes {
            free if free >= floor_bytes => Self::Everything,
            free if free >= floor_bytes / 2 => Self::Deadlines,
            free if free >= floor_bytes / 4 => Self::Endings,
            _ => Self::Nothing,
        }
    }
}

type Free = Box<dyn Fn() -> io::Result<u64> + Send + Sync>;

pub(super) struct Space {
    floor_bytes: u64,
    free_bytes: Free,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    answer: Option<(Instant, Room)>,
    /// The last answer was an error, and it was logged.
    is_unknown: bool,
}

impl Space {
    /// Watches the file system that `directory` is on. It stays open, so that there is an
    /// answer after its name is gone, too.
    pub(super) fn new(directory: File, floor_bytes: u64) -> Self {
        Self::with(floor_bytes, move || {
            let found = rustix::fs::fstatvfs(&directory)?;
            Ok(found.f_bavail.saturating_mul(found.f_frsize))
        })
    }

    fn with(
        floor_bytes: u64,
        free_bytes: impl Fn() -> io::Result<u64> + Send + Sync + 'static,
    ) -> Self {
        Self { floor_bytes, free_bytes: Box::new(free_bytes), last: Mutex::default() }
    }

    /// What there is room for. May wait for the file system.
    pub(super) fn room(&self, now: Instant) -> Room {
        let mut last = self.last.lock();
        if let Some((at, room)) = last.answer
            && now.saturating_duration_since(at) < GOOD_FOR
        {
            return room;
        }
        let answer = (self.free_bytes)();
        let is_unknown = answer.is_err();
        let free_bytes = answer.unwrap_or_else(|error| {
            if !last.is_unknown {
                tracing::warn!(%error, "the free space of the disk is unknown; assuming that it is enough");
            }
            u64::MAX
        });
        last.is_unknown = is_unknown;
        let floor_bytes = self.floor_bytes;
        let room = Room::of(free_bytes, floor_bytes);
        let before = last.answer.map_or(Room::Everything, |(_, room)| room);
        last.answer = Some((now, room));
        match room {
            Room::Everything if before < room => {
                tracing::info!(free_bytes, "the disk has enough free space again");
            }
            Room::Deadlines if before > room => tracing::error!(
                free_bytes,
                floor_bytes,
                "the disk is nearly full: creations and changes are refused until there is more space"
            ),
            Room::Endings if before > room => tracing::error!(
                free_bytes,
                floor_bytes,
                "the disk is nearly full, less than half of the floor is left: sessions keep the \
                 deadlines they have until there is more space"
            ),
            Room::Nothing if before > room => tracing::error!(
                free_bytes,
                floor_bytes,
                "the disk is full, less than a quarter of the floor is left: nothing is written \
                 until there is more space"
            ),
            _ => {}
        }
        room
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
    fn less_space_is_room_for_less_until_there_is_more() {
        let free = Arc::new(AtomicU64::new(100));
        let theirs = Arc::clone(&free);
        let space = Space::with(80, move || Ok(theirs.load(Ordering::Relaxed)));
        let mut now = Instant::now();
        assert_eq!(space.room(now), Room::Everything);
        free.store(0, Ordering::Relaxed);
        let soon = now + GOOD_FOR / 2;
        assert_eq!(space.room(soon), Room::Everything, "an answer is good for a moment");
        for (free_bytes, expected) in [
            (80, Room::Everything),
            (79, Room::Deadlines),
            (40, Room::Deadlines),
            (39, Room::Endings),
            (20, Room::Endings),
            (19, Room::Nothing),
            (0, Room::Nothing),
            (80, Room::Everything),
        ] {
            free.store(free_bytes, Ordering::Relaxed);
            now += GOOD_FOR;
            assert_eq!(space.room(now), expected, "{free_bytes} are free");
        }
    }

    #[test]
    fn without_a_floor_there_is_room() {
        assert_eq!(Room::of(0, 0), Room::Everything);
    }

    #[test]
    fn a_real_file_system_tells() {
        let now = Instant::now();
        let here = || File::open(std::env::temp_dir()).expect("a directory");
        assert_eq!(Space::new(here(), 1).room(now), Room::Everything);
        assert_eq!(Space::new(here(), u64::MAX).room(now), Room::Nothing);
    }
}
