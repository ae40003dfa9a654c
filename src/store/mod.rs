//! The stores. Each implements [`session::Store`](crate::session::store::Store)
//! and knows no wire.
//!
//! | file | holds |
//! |---|---|
//! | [`sled`] | the embedded database, the default |
//! | [`redis`] | Redis and Valkey, for those who outgrow one machine |
//! | [`memory`] | for tests and `--dev` |
//! | [`codec`] | a record in bytes |

pub mod codec;
pub mod memory;
pub mod redis;
pub mod sled;
