//! The rules of sessions. This module contains no network, disk or clock access: stores, time
//! and randomness are passed in as arguments.
//!
//! | file | holds |
//! |---|---|
//! | [`engine`] | the operations: resolve, touch, create, write, destroy, cleanup |
//! | `sessions` | what the operations share: find a session, end it, report it |
//! | [`policy`] | the rules of an engine |
//! | [`principals`] | all sessions of a principal: list, end and limit them |
//! | [`adoption`], [`foreign`] | adopting the sessions that an application kept in its own store |
//! | [`transfer`] | exporting all sessions and importing them into another store |
//! | [`event`] | what happens to sessions, for watchers |
//! | [`credential`] | the ids that a Cookie header or token proves |
//! | [`id`], [`token`], [`cookie`] | session ids, their signatures, the two cookie headers |
//! | [`record`], [`data`], [`lifetime`] | what a store keeps of a session, and how it may change |
//! | [`store`], [`clock`] | what the engine needs from its environment |
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
