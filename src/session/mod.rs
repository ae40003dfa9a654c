//! The rules of sessions. This room knows no wire, no disk and no clock of its
//! own: stores, time and randomness come in as arguments.
//!
//! | file | holds |
//! |---|---|
//! | [`engine`] | the operations: resolve, touch, create, write, destroy, cleanup |
//! | [`principals`] | all sessions of a principal: list and end them, and their limit |
//! | [`adoption`] | sessions that an application kept itself before |
//! | [`transfer`] | all sessions, on their way to another store |
//! | [`event`] | what happens to sessions, for those who watch |
//! | [`credential`] | from a Cookie header or token to proven ids |
//! | [`id`], [`token`], [`cookie`] | session ids, their signatures, the two cookie headers |
//! | [`record`], [`data`], [`lifetime`] | what is kept, and what may change in it |
//! | [`store`], [`clock`] | what the engine asks of the world |

pub mod adoption;
pub mod clock;
pub mod cookie;
pub mod credential;
pub mod data;
pub mod engine;
pub mod error;
pub mod event;
pub mod id;
pub mod lifetime;
pub mod principals;
pub mod record;
pub mod store;
pub mod token;
pub mod transfer;
