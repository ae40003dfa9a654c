//! The sled store with the options that the tests use.

use std::{path::Path, time::Duration};

use sessiond::store::sled::{Durability, OnDamage, SledDatabase, SledOptions, SledStore};

/// Options for a store below `directory` that ignores the free space.
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

/// Opens the database. It is closed when it and its store are dropped.
pub(crate) fn open(options: SledOptions) -> (SledDatabase, SledStore) {
    let database = SledDatabase::open(options).expect("the database opens");
    let store = database.store("default").expect("a store");
    (database, store)
}
