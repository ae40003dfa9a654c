//! The sled database as the process runs it.

use std::sync::Arc;

use async_trait::async_trait;
use rustix::fs::StatVfs;

use super::{OpenError, Shared, SledDatabase, SledOptions};
use crate::{
    session::{
        clock::{Clock, TimeMark},
        store::{Result, Store, StoreError},
    },
    store::database::{self, Database, DiskFigures, Figures, Open},
};

impl From<OpenError> for database::OpenError {
    fn from(error: OpenError) -> Self {
        Self::new(error)
    }
}

#[async_trait]
impl Open for SledOptions {
    async fn open(
        self: Box<Self>,
        _: Arc<dyn Clock>,
    ) -> std::result::Result<Arc<dyn Database>, database::OpenError> {
        Ok(Arc::new(SledDatabase::open(*self)?))
    }
}

// Qualified, because some of the database's own methods have the same names.
#[async_trait]
impl Database for SledDatabase {
    fn store(&self, name: &str) -> std::result::Result<Arc<dyn Store>, database::OpenError> {
        Ok(Arc::new(SledDatabase::store(self, name)?))
    }

    fn engines(&self) -> Vec<String> {
        SledDatabase::engines(self)
    }

    fn time_mark(&self) -> std::result::Result<Option<TimeMark>, database::OpenError> {
        Ok(SledDatabase::time_mark(self)?)
    }

    async fn mark_time(&self, mark: TimeMark) -> Result<()> {
        let database = self.clone();
        // It may wait for the disk.
        let marked = tokio::task::spawn_blocking(move || SledDatabase::mark_time(&database, mark));
        marked.await.unwrap_or_else(|error| Err(StoreError::unavailable("mark the time", error)))
    }

    async fn close(&self, mark: TimeMark) -> Result<()> {
        SledDatabase::mark_time(self, mark)?;
        self.sync().await
    }

    fn figures(&self) -> Figures {
        let Shared { options, committer, .. } = &**self.shared();
        let system = rustix::fs::statvfs(&options.path).ok();
        let bytes = |blocks: fn(&StatVfs) -> u64| {
            let system = system.as_ref()?;
            Some(blocks(system).saturating_mul(system.f_frsize))
        };
        let log = std::fs::metadata(options.path.join("db"));
        let (commits, syncs) = committer.durations();
        Figures::Disk(Box::new(DiskFigures {
            free_bytes: bytes(|system| system.f_bavail),
            size_bytes: bytes(|system| system.f_blocks),
            min_free_bytes: options.min_free_bytes,
            log_bytes: log.ok().map(|log| log.len()),
            commits,
            syncs,
        }))
    }
}
