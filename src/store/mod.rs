//! The stores. Each implements [`Store`](crate::session::store::Store), and
//! [`Database`](database::Database) so that the process can run it. They know no wire.
//!
//! | file | holds |
//! |---|---|
//! | [`sled`] | the embedded database, the default |
//! | [`redis`] | Redis and Valkey, if you need more than one machine |
//! | [`memory`] | for tests and `--dev` |
//! | [`codec`] | a record in bytes |
//! | `conformance` | what every store must do, as a test; with the feature of that name |
//! | [`database`] | what a kind of store is to the process that runs it |

pub mod codec;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod database;
pub mod memory;
pub mod redis;
pub mod sled;
