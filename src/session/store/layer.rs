//! A store in front of another store.

use std::{pin::Pin, sync::Arc};

use async_trait::async_trait;

use super::{
    BulkStore, Certainty, Cursor, Listed, Removed, Restored, Result, Scanned, Store, Swept,
    Touched, Written,
};
use crate::session::{
    clock::Moment,
    id::PublicId,
    record::{Claim, Principal, Record, Touch, Update},
};

/// An operation of a store that is under way.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// The operations of a store that may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// [`Store::read`]
    Read,
    /// [`Store::touch`]
    Touch,
    /// [`Store::create`]
    Create,
    /// [`Store::write`]
    Write,
    /// [`Store::destroy`]
    Destroy,
    /// [`Store::list`]
    List,
    /// [`Store::cleanup`]
    Cleanup,
    /// [`BulkStore::scan`]
    Scan,
    /// [`BulkStore::restore`]
    Restore,
}

impl Verb {
    /// Every verb, for a counter of each.
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::Touch,
        Self::Create,
        Self::Write,
        Self::Destroy,
        Self::List,
        Self::Cleanup,
        Self::Scan,
        Self::Restore,
    ];

    /// Its name in metrics and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Touch => "touch",
            Self::Create => "create",
            Self::Write => "write",
            Self::Destroy => "destroy",
            Self::List => "list",
            Self::Cleanup => "cleanup",
            Self::Scan => "scan",
            Self::Restore => "restore",
        }
    }
}

/// A store in front of another store, such as one that counts or one that fails.
///
/// Each operation is passed to [`inner`](Self::inner). A layer implements only the
/// operations that it changes, and [`around`](Self::around) if it does something for all of
/// them. Every layer is a [`Store`].
///
/// A layer has the methods of both traits. To call one, import only the trait that you
/// mean, or call [`inner`](Self::inner).
#[async_trait]
pub trait Layer: Send + Sync + 'static {
    /// The store behind this one.
    fn inner(&self) -> &dyn Store;

    /// Runs `operation`. All operations that may wait pass through here.
    fn around<'a, T: Send + 'a>(
        &'a self,
        verb: Verb,
        operation: StoreFuture<'a, T>,
    ) -> StoreFuture<'a, T>
    where
        Self: Sized,
    {
        let _ = verb;
        operation
    }

    /// See [`Store::recall`]. Does not pass through [`around`](Self::around), because it never
    /// waits.
    fn recall(&self, id: PublicId) -> Option<Arc<Record>> {
        self.inner().recall(id)
    }

    /// See [`Store::read`].
    async fn read(&self, id: PublicId, certainty: Certainty) -> Result<Option<Arc<Record>>> {
        self.inner().read(id, certainty).await
    }

    /// See [`Store::touch`].
    async fn touch(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        self.inner().touch(id, touch).await
    }

    /// See [`Store::create`].
    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        self.inner().create(id, record).await
    }

    /// See [`Store::write`].
    async fn write(&self, id: PublicId, update: Arc<Update>) -> Result<Option<Written>> {
        self.inner().write(id, update).await
    }

    /// See [`Store::destroy`].
    async fn destroy(&self, id: PublicId, claim: Claim) -> Result<Option<Removed>> {
        self.inner().destroy(id, claim).await
    }

    /// See [`Store::list`].
    async fn list(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
        certainty: Certainty,
    ) -> Result<Listed> {
        self.inner().list(principal, after, limit, certainty).await
    }

    /// See [`Store::cleanup`].
    async fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        self.inner().cleanup(now, limit).await
    }

    /// See [`BulkStore::scan`].
    async fn scan(&self, from: Option<Cursor>, limit: usize) -> Result<Scanned> {
        self.inner().scan(from, limit).await
    }

    /// See [`BulkStore::restore`].
    async fn restore(&self, id: PublicId, record: Record, now: Moment) -> Result<Restored> {
        self.inner().restore(id, record, now).await
    }

    /// See [`Store::check`]. Does not pass through [`around`](Self::around).
    fn check(&self) -> Result<()> {
        self.inner().check()
    }

    /// See [`Store::check_reading`]. Does not pass through [`around`](Self::around).
    fn check_reading(&self) -> Result<()> {
        self.inner().check_reading()
    }

    /// See [`Store::count`]. Does not pass through [`around`](Self::around).
    fn count(&self) -> Option<u64> {
        self.inner().count()
    }
}

#[async_trait]
impl<L: Layer> Store for L {
    fn recall(&self, id: PublicId) -> Option<Arc<Record>> {
        Layer::recall(self, id)
    }

    async fn read(&self, id: PublicId, certainty: Certainty) -> Result<Option<Arc<Record>>> {
        self.around(Verb::Read, Layer::read(self, id, certainty)).await
    }

    async fn touch(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        self.around(Verb::Touch, Layer::touch(self, id, touch)).await
    }

    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        self.around(Verb::Create, Layer::create(self, id, record)).await
    }

    async fn write(&self, id: PublicId, update: Arc<Update>) -> Result<Option<Written>> {
        self.around(Verb::Write, Layer::write(self, id, update)).await
    }

    async fn destroy(&self, id: PublicId, claim: Claim) -> Result<Option<Removed>> {
        self.around(Verb::Destroy, Layer::destroy(self, id, claim)).await
    }

    async fn list(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
        certainty: Certainty,
    ) -> Result<Listed> {
        self.around(Verb::List, Layer::list(self, principal, after, limit, certainty)).await
    }

    async fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        self.around(Verb::Cleanup, Layer::cleanup(self, now, limit)).await
    }

    fn check(&self) -> Result<()> {
        Layer::check(self)
    }

    fn check_reading(&self) -> Result<()> {
        Layer::check_reading(self)
    }

    fn count(&self) -> Option<u64> {
        Layer::count(self)
    }
}

#[async_trait]
impl<L: Layer> BulkStore for L {
    async fn scan(&self, from: Option<Cursor>, limit: usize) -> Result<Scanned> {
        self.around(Verb::Scan, Layer::scan(self, from, limit)).await
    }

    async fn restore(&self, id: PublicId, record: Record, now: Moment) -> Result<Restored> {
        self.around(Verb::Restore, Layer::restore(self, id, record, now)).await
    }
}
