//! What a kind of store is to the process that runs it.

use std::{error::Error, fmt, sync::Arc};

use async_trait::async_trait;

use crate::{
    session::{
        clock::{Clock, TimeMark},
        store::{Result, Store},
    },
    timing::Totals,
};

/// An open database, which has a store for each engine.
///
/// The methods with a default are for a store that keeps more than records. A store in
/// memory needs none of them.
#[async_trait]
pub trait Database: Send + Sync + 'static {
    /// The store of the engine called `name`. Ask once per engine.
    fn store(&self, name: &str) -> std::result::Result<Arc<dyn Store>, OpenError>;

    /// The engines whose records were kept here, in no order. Empty: there are none, or
    /// the database cannot say.
    fn engines(&self) -> Vec<String> {
        Vec::new()
    }

    /// The mark that the clock of the process continues from. `None`: the database keeps no
    /// mark, or has none yet.
    fn time_mark(&self) -> std::result::Result<Option<TimeMark>, OpenError> {
        Ok(None)
    }

    /// Keeps a mark of the time. Called at start, every few seconds, and when the wall clock
    /// was set.
    async fn mark_time(&self, mark: TimeMark) -> Result<()> {
        let _ = mark;
        Ok(())
    }

    /// Makes durable what was acknowledged, and marks the time. Called at a clean stop,
    /// when no operation is under way any more.
    async fn close(&self, mark: TimeMark) -> Result<()> {
        let _ = mark;
        Ok(())
    }

    /// How it is, for the metrics. May wait for the file system.
    fn figures(&self) -> Figures {
        Figures::Nothing
    }
}

/// What a database tells of itself to whoever keeps the metrics.
#[derive(Debug)]
pub enum Figures {
    /// Nothing is known but its records.
    Nothing,
    /// It keeps its records on a disk of this machine.
    Disk(Box<DiskFigures>),
    /// Others keep them, over connections.
    Links(Box<LinkFigures>),
}

/// How a database on a disk is. `None`: the file system does not tell.
#[derive(Debug)]
pub struct DiskFigures {
    /// Of the file system, for processes without privileges.
    pub free_bytes: Option<u64>,
    /// Of the file system.
    pub size_bytes: Option<u64>,
    /// With less free space, changes are refused.
    pub min_free_bytes: u64,
    /// The length of the log.
    pub log_bytes: Option<u64>,
    /// Each made the changes so far durable.
    pub commits: Totals,
    /// The syncs among them, alone.
    pub syncs: Totals,
}

/// How the connections of a database are.
#[derive(Debug, Default)]
pub struct LinkFigures {
    /// They work.
    pub connected: u64,
    /// They work, and the server does not do all that is needed.
    pub lacking: u64,
    /// They are being made, for the first time or after a loss.
    pub connecting: u64,
    /// The last attempt has failed.
    pub down: u64,
    /// How many broke since the start.
    pub lost: u64,
    /// From sending to the answer.
    pub round_trips: Totals,
}

/// The options of a kind of store: all that it needs to open its database.
#[async_trait]
pub trait Open: fmt::Debug + Send + Sync {
    /// Opens the database. `clock` is the clock of the process: a database with a clock
    /// of its own may align it.
    async fn open(
        self: Box<Self>,
        clock: Arc<dyn Clock>,
    ) -> std::result::Result<Arc<dyn Database>, OpenError>;
}

/// The database cannot be opened. The text is for the operator: it says what is wrong and
/// what to do.
#[derive(Debug)]
pub struct OpenError(Box<dyn Error + Send + Sync>);

impl OpenError {
    /// The text must say what is wrong and what to do.
    pub fn new(problem: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(problem.into())
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for OpenError {
    // The text of the cause is the text of this error, so the chain begins after it.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
