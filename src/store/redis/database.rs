//! Redis as the process runs it.

use std::sync::{Arc, atomic::Ordering};

use async_trait::async_trait;

use super::{RedisDatabase, RedisOptions, Shared};
use crate::{
    session::{clock::Clock, store::Store},
    store::database::{Database, Figures, LinkFigures, Open, OpenError},
};

#[async_trait]
impl Open for RedisOptions {
    async fn open(self: Box<Self>, clock: Arc<dyn Clock>) -> Result<Arc<dyn Database>, OpenError> {
        let database = RedisDatabase::start(*self, clock);
        // Redis may come later. Until then health is NOT_SERVING, and the store has logged
        // why.
        if let Err(error) = database.first_contact().await {
            tracing::warn!("starting without redis: {error}");
        }
        Ok(Arc::new(database))
    }
}

/// There is nothing to do at a stop: Redis keeps what it has acknowledged as well as it is
/// configured to.
#[async_trait]
impl Database for RedisDatabase {
    fn store(&self, name: &str) -> Result<Arc<dyn Store>, OpenError> {
        Ok(Arc::new(RedisDatabase::store(self, name)))
    }

    fn figures(&self) -> Figures {
        let Shared { servers, traffic, .. } = &*self.shared;
        let mut links = LinkFigures {
            lost: traffic.lost.load(Ordering::Relaxed),
            round_trips: traffic.round_trips.totals(),
            ..LinkFigures::default()
        };
        servers.count_links(&mut links);
        Figures::Links(Box::new(links))
    }
}
