//! The wire: between gRPC and the session room. Knows no store.
//!
//! | file | holds |
//! |---|---|
//! | [`wire`] | what is generated from `proto/` |
//! | [`handler`] | what a listener does with a call |
//! | [`unary`] | the four operations as unary calls |
//! | [`session_service`], [`admin_service`] | the two services, as tonic serves them |
//! | [`watchers`] | what happens to sessions, to those who watch |
//! | [`transfer`] | export and import |
//! | [`page`] | page sizes and page tokens |
//! | [`operation`] | Resolve, Touch, Write and Destroy, from request to response |
//! | [`pipeline`], [`lanes`] | many operations over one stream, and their order |
//! | [`convert`] | messages to and from the session room's types |
//! | [`fault`] | the one table of errors |
//! | [`auth`] | bearer tokens |
//! | [`engines`], [`observer`] | what the services are given |

pub mod admin_service;
pub mod auth;
mod convert;
pub mod engines;
pub mod fault;
pub mod handler;
mod lanes;
pub mod observer;
mod operation;
mod page;
mod pipeline;
pub mod session_service;
mod transfer;
pub mod unary;
pub mod watchers;
pub mod wire;
