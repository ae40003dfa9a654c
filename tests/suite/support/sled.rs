//! The sled store as the tests open it.

use std::{path::Path, time::Duration};

use sessiond::store::sled::{Durability, OnDamage, SledDatabase, SledOptions, SledStore};

/// Of a store below `directory`, on a disk that is never too full.
pub(crate) fn options(directory: &Path) -> SledOptions {
    SledOptions {
        path: directory.join("data"),
        cache_bytes: 1 << 20,
        flush_interval: Duration::from_millis(20),
        on_damage: OnDamage::Refuse,
        threads: 2,
        max_pending: 1000,
        min_free_bytes: 0,
        write: Durability::Flushed,
        destroy: Durability::Flushed,
        roll: Durability::Flushed,
    }
}

/// The database, which is closed when it is dropped with its store.
pub(crate) fn open(options: SledOptions) -> (SledDatabase, SledStore) {
    let database = SledDatabase::open(options).expect("the database opens");
    let store = database.store("default").expect("a store");
    (database, store)
}
