//! The mark of the time in a database that no daemon has open: shows it and resets it.

use std::{sync::Arc, time::Duration};

use super::{
    clock::SystemClock,
    config::{self, Config, ConfigError},
};
use crate::{
    session::{
        clock::{Clock, Moment, WallTime},
        store::StoreError,
    },
    store::database::OpenError,
};

/// How a start would continue from the mark now.
#[derive(Debug, Clone, Copy)]
pub struct Marked {
    /// What the clock of the sessions would show.
    pub now: Moment,
    /// The wall clock of this machine.
    pub wall: WallTime,
    /// The time since the mark that is known to have passed. `None`: nothing is known, and
    /// nothing is counted.
    pub elapsed: Option<Duration>,
}

/// Why there is no mark to show or to reset.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The configuration, or a file that it names, cannot be used.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The database does not open: it is in use, or damaged.
    #[error("{0}")]
    Store(#[from] OpenError),
    /// The new mark is not on the disk.
    #[error("{0}")]
    Sync(#[from] StoreError),
    /// The store in use keeps no mark.
    #[error("the {0} store keeps no mark of the time; there is nothing to reset")]
    NoMarks(&'static str),
    /// No daemon was ever started there.
    #[error("there is no data directory {0}; the clock begins with the first start")]
    NoDirectory(String),
    /// No daemon has marked the time there yet.
    #[error("the time was not marked yet; the clock begins with the next start")]
    NotMarked,
}

/// Reads the mark.
pub async fn show(config: &Config) -> Result<Marked, MarkError> {
    with_mark(config, false).await
}

/// Makes the clock of the sessions continue from the wall clock of this machine, if that is
/// later. So the time since the mark counts, although nobody knew how long it was. Sessions
/// whose time is over by then have ended. If the wall clock is earlier, only what is known of
/// it is replaced: the clock of the sessions does not go back, because sessions would live
/// longer by that.
pub async fn reset(config: &Config) -> Result<Marked, MarkError> {
    with_mark(config, true).await
}

async fn with_mark(config: &Config, reset: bool) -> Result<Marked, MarkError> {
    let checked = config::check(config)?;
    let kind = config.store.backend.kind();
    if !kind.marks_time {
        return Err(MarkError::NoMarks(kind.name));
    }
    // Opening it would make one.
    if !config.store.sled.path.is_dir() {
        return Err(MarkError::NoDirectory(config.store.sled.path.display().to_string()));
    }
    let clock = Arc::new(SystemClock::start());
    let database = checked.store.open(Arc::clone(&clock) as _).await?;
    let mark = database.time_mark()?.ok_or(MarkError::NotMarked)?;
    let elapsed = clock.elapsed_since(&mark);
    clock.resume(mark);
    if reset {
        clock.trust_wall();
        database.close(clock.mark()).await?;
    }
    let now = clock.now();
    Ok(Marked { now, wall: clock.wall_offset().wall(now), elapsed })
}
