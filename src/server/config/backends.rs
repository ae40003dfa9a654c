//! The kinds of stores. A new one is an entry in the list at the end, beside its own
//! configuration.

use serde::{Deserialize, Serialize};

use super::{ConfigError, RedisAccess, StoreConfig, redis, sled};
use crate::store::{database::Open, memory::MemoryOptions, sled::MOST_DATA_BYTES};

/// Reads the files that are named, and makes the options. Opens no database. What a reload may
/// replace is added to the access.
pub type MakeOptions = fn(&StoreConfig, &RedisAccess) -> Result<Box<dyn Open>, ConfigError>;

/// What the process must know of a kind of store.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// As in `store.backend`.
    pub name: &'static str,
    /// The most data of a session, in bytes. `None`: the store has no limit of its own.
    pub max_data_bytes: Option<usize>,
    /// Sessions outlive a stop of the process.
    pub outlives_a_stop: bool,
    /// The database keeps a mark of the time.
    pub marks_time: bool,
    /// Checks the values, also if the store is not the one in use. Reads no file.
    pub check: fn(&StoreConfig) -> Result<(), ConfigError>,
    /// Makes the options of the store.
    pub options: MakeOptions,
}

macro_rules! backends {
    ($($backend:ident $name:literal { $($field:ident: $value:expr,)+ })+) => {
        /// `store.backend`.
        #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
        pub enum Backend {
            $(
                #[doc = concat!("`\"", $name, "\"` in the configuration.")]
                #[serde(rename = $name)]
                $backend,
            )+
        }

        impl Backend {
            /// Every backend that is compiled in.
            pub const ALL: &[Self] = &[$(Self::$backend,)+];

            /// What the backend is called and what it needs.
            pub fn kind(self) -> Kind {
                match self {
                    $(Self::$backend => Kind { name: $name, $($field: $value,)+ },)+
                }
            }
        }
    };
}

backends! {
    Sled "sled" {
        max_data_bytes: Some(MOST_DATA_BYTES),
        outlives_a_stop: true,
        marks_time: true,
        check: |store| sled::check(&store.sled),
        options: |store, _| Ok(Box::new(sled::options(&store.sled))),
    }
    Redis "redis" {
        max_data_bytes: None,
        outlives_a_stop: true,
        marks_time: false,
        check: |store| redis::check(&store.redis),
        options: |store, access| {
            Ok(Box::new(redis::options("store.redis", &store.redis, access)?))
        },
    }
    Memory "memory" {
        max_data_bytes: None,
        outlives_a_stop: false,
        marks_time: false,
        check: |_| Ok(()),
        options: |_, _| Ok(Box::new(MemoryOptions)),
    }
}
