//! The stores. Each implements [`session::Store`](crate::session::store::Store)
//! and knows no wire.
//!
//! | file | holds |
//! |---|---|
//! | [`sled`] | the embedded database, the default |
//! | [`redis`] | Redis and Valkey, for those who outgrow one machine |
//! | [`memory`] | for tests and `--dev` |
//! | [`codec`] | a record in bytes |

use std::sync::Arc;

use self::{memory::MemoryStore, redis::RedisStore, sled::SledStore};
use crate::session::{
    clock::Moment,
    id::PublicId,
    record::{Claim, Principal, Record, Touch, Update},
    store::{Cursor, Listed, Restored, Result, Scanned, Store, Swept, Touched, Written},
};

pub mod codec;
pub mod memory;
pub mod redis;
pub mod sled;

/// A store of whatever kind the configuration names.
pub enum AnyStore {
    Memory(MemoryStore),
    Sled(SledStore),
    Redis(RedisStore),
}

macro_rules! each {
    ($self:expr, $store:ident => $call:expr) => {
        match $self {
            AnyStore::Memory($store) => $call,
            AnyStore::Sled($store) => $call,
            AnyStore::Redis($store) => $call,
        }
    };
}

impl Store for AnyStore {
    fn recall(&self, id: PublicId) -> Option<Arc<Record>> {
        each!(self, store => store.recall(id))
    }

    async fn read(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        each!(self, store => store.read(id).await)
    }

    async fn read_for_good(&self, id: PublicId) -> Result<Option<Arc<Record>>> {
        each!(self, store => store.read_for_good(id).await)
    }

    async fn touch(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        each!(self, store => store.touch(id, touch).await)
    }

    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        each!(self, store => store.create(id, record).await)
    }

    async fn write(&self, id: PublicId, update: Arc<Update>) -> Result<Option<Written>> {
        each!(self, store => store.write(id, update).await)
    }

    async fn destroy(&self, id: PublicId, claim: Claim) -> Result<Option<Arc<Record>>> {
        each!(self, store => store.destroy(id, claim).await)
    }

    async fn list(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> Result<Listed> {
        each!(self, store => store.list(principal, after, limit).await)
    }

    async fn list_for_good(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> Result<Listed> {
        each!(self, store => store.list_for_good(principal, after, limit).await)
    }

    async fn scan(&self, from: Option<Cursor>, limit: usize) -> Result<Scanned> {
        each!(self, store => store.scan(from, limit).await)
    }

    async fn restore(&self, id: PublicId, record: Record, now: Moment) -> Result<Restored> {
        each!(self, store => store.restore(id, record, now).await)
    }

    async fn cleanup(&self, now: Moment, limit: usize) -> Result<Swept> {
        each!(self, store => store.cleanup(now, limit).await)
    }

    fn check(&self) -> Result<()> {
        each!(self, store => store.check())
    }

    fn count(&self) -> Option<u64> {
        each!(self, store => store.count())
    }
}
