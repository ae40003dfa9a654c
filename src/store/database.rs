//! What a kind of store is to the process that runs it.

use std::{error::Error, fmt, sync::Arc};

use async_trait::async_trait;

use crate::session::{
    clock::{Clock, TimeMark},
    store::{Result, Store},
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
