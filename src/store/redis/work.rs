//! How an operation runs: on a task of its own, with a place among those that may
//! wait for Redis, within a time, and in turn.
//!
//! On its own, because whoever asks may stop polling for as long as they like, as a
//! body does while its peer takes nothing. What they ask for has to give its place
//! and its turn back all the same.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use tokio::{
    sync::{Mutex, MutexGuard},
    task::{JoinError, JoinHandle},
    time::timeout,
};

use super::{RedisStore, failure::Failure};
use crate::session::{
    id::PublicId,
    store::{Result, StoreError},
};

const WAITING: &str = "too many operations are waiting for redis; see store.redis.max_pending";

/// Writers of one daemon take turns on a session, first come, first served: so
/// only writers of different daemons ever meet. Two sessions may share a turn.
pub struct Turns {
    stripes: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Turns {
    const COUNT: usize = 1024;

    pub fn new() -> Self {
        let stripes = (0..Self::COUNT).map(|_| Mutex::new(())).collect();
        Self { stripes, hasher: RandomState::new() }
    }

    pub async fn take(&self, id: PublicId) -> MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one(id);
        self.stripes[hash as usize % Self::COUNT].lock().await
    }
}

impl RedisStore {
    /// Runs an operation, which takes no longer than the configuration says. It goes
    /// on to its end also when its caller has gone.
    pub(super) async fn bounded<T, F>(
        &self,
        doing: &'static str,
        work: impl FnOnce(Self) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let task = self.start(doing, work)?;
        task.await.unwrap_or_else(|ended| Err(StoreError::unavailable(doing, why(&ended))))
    }

    /// Runs what nobody waits for, if there is room for it.
    pub(super) fn aside<T, F>(&self, doing: &'static str, work: impl FnOnce(Self) -> F)
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        drop(self.start(doing, work));
    }

    fn start<T, F>(
        &self,
        doing: &'static str,
        work: impl FnOnce(Self) -> F,
    ) -> Result<JoinHandle<Result<T>>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let place = Arc::clone(&self.shared.pending).try_acquire_owned();
        let place = place.map_err(|_| StoreError::overloaded(doing, WAITING))?;
        let limit = self.shared.timeout;
        let work = timeout(limit, work(self.clone()));
        Ok(tokio::spawn(async move {
            // Given back before the caller hears of the outcome.
            let _place = place;
            work.await.unwrap_or_else(|_| {
                let late = Failure::Lost(format!("no answer within {limit:?}"));
                Err(late.while_doing(doing, ""))
            })
        }))
    }
}

/// Not with the words of the panic, which may hold session data.
fn why(ended: &JoinError) -> &'static str {
    match ended.is_panic() {
        true => "it panicked",
        false => "the daemon has stopped",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        session::{
            clock::{Clock, Moment},
            store::StoreErrorKind,
        },
        store::redis::{Login, RedisDatabase, RedisOptions, Tls},
    };

    struct Still;

    impl Clock for Still {
        fn now(&self) -> Moment {
            Moment::from_unix_millis(0)
        }

        fn not_before(&self, _: Moment) {}

        fn follow(&self, _: Moment, _: Moment) {}
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_gives_its_place_back() {
        let options = RedisOptions {
            url: "redis://127.0.0.1:1".parse().expect("a URL"),
            login: Login::default(),
            sentinel_login: Login::default(),
            tls: Tls::default(),
            key_prefix: "sessiond".to_owned(),
            timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(5),
            connections: 1,
            max_pending: 1,
            expiry_grace: Duration::ZERO,
            wait: None,
        };
        let store = RedisDatabase::start(options, Arc::new(Still)).store("default");
        for _ in 0..2 {
            let panics = |_| async { panic!("on purpose: hunter2") };
            let error = store.bounded::<(), _>("work", panics).await.expect_err("it panics");
            assert_eq!(error.kind, StoreErrorKind::Unavailable);
            let cause = std::error::Error::source(&error).expect("a cause").to_string();
            assert_eq!(cause, "it panicked");
        }
    }
}
