//! The wire: between gRPC and the session room. Knows no store.
//!
//! | file | holds |
//! |---|---|
//! | [`wire`] | what is generated from `proto/` |
//! | [`handler`] | what a listener does with a call |
//! | [`session_service`] | the four operations as unary calls, and Pipeline |
//! | [`admin_service`] | what operators call, as tonic serves it |
//! | [`messages`] | messages within HTTP/2 |
//! | [`watchers`] | what happens to sessions, to those who watch |
//! | [`transfer`] | export and import |
//! | [`page`] | page sizes and page tokens |
//! | [`operation`] | Resolve, Touch, Write and Destroy, from request to response |
//! | [`pipeline`], [`lanes`] | many operations over one stream, and their order |
//! | [`answer`] | what operations answer, written by hand |
//! | [`convert`] | messages to and from the session room's types |
//! | [`fault`] | the one table of errors |
//! | [`auth`] | bearer tokens |
//! | [`engines`], [`observer`] | what the services are given |

pub mod admin_service;
mod answer;
pub mod auth;
mod convert;
pub mod engines;
pub mod fault;
pub mod handler;
mod lanes;
mod messages;
pub mod observer;
mod operation;
mod page;
mod pipeline;
pub mod session_service;
mod transfer;
pub mod watchers;
pub mod wire;
