//! The rules of sessions. This module knows no wire, no disk and no clock of its own:
//! stores, time and randomness come in as arguments.
//!
//! | file | holds |
//! |---|---|
//! | [`engine`] | the operations: resolve, touch, create, write, destroy, cleanup |
//! | `sessions` | what the operations share: find a session, end it, report it |
//! | [`policy`] | the rules of an engine |
//! | [`principals`] | all sessions of a principal: list and end them, and their limit |
//! | [`adoption`], [`foreign`] | sessions that an application kept itself before |
//! | [`transfer`] | all sessions, on their way to another store |
//! | [`event`] | what happens to sessions, for watchers |
//! | [`credential`] | from a Cookie header or token to proven ids |
//! | [`id`], [`token`], [`cookie`] | session ids, their signatures, the two cookie headers |
//! | [`record`], [`data`], [`lifetime`] | what is kept, and what may change in it |
//! | [`store`], [`clock`] | what the engine asks of the world |
//! | [`striped`] | a fixed number of locks for any number of keys |
//!
//! No file depends on one above it in this table.

pub mod adoption;
pub mod clock;
pub mod cookie;
pub mod credential;
pub mod data;
pub mod engine;
pub mod error;
pub mod event;
pub mod foreign;
pub mod id;
pub mod lifetime;
pub mod policy;
pub mod principals;
pub mod record;
mod sessions;
pub mod store;
pub mod striped;
pub mod token;
pub mod transfer;

pub use self::sessions::{CookieUpdate, Live, Lookup, Session};
