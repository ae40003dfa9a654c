//! gRPC: turns messages into requests of `service`, and its answers into messages. Knows
//! no store.
//!
//! | file | holds |
//! |---|---|
//! | [`pb`] | what is generated from `proto/` |
//! | [`handler`] | what a listener does with a call |
//! | [`session_service`] | the four operations as unary calls, and Pipeline |
//! | [`admin_service`] | what operators call, as tonic serves it |
//! | [`peer`], [`patience`] | what the calls of a connection share, and how long they wait for it |
//! | [`health`] | the health service |
//! | [`fields`] | the bound on the fields of a message |
//! | [`messages`] | messages within HTTP/2 |
//! | [`body`] | what an answer is made of |
//! | [`pipeline`] | many operations over one stream |
//! | [`timeouts`] | the timeouts of a pipeline's operations |
//! | [`convert`] | messages to requests, and values to messages |
//! | [`answer`] | the answers of the four operations, encoded by hand |
//! | [`status`] | faults as gRPC statuses |
//! | [`spans`] | the spans of calls, for traces |
//! | [`trailers`] | the status at the end of a call |
//! | [`auth`] | which callers are admitted |

pub mod admin_service;
mod answer;
pub mod auth;
pub mod body;
mod convert;
mod fields;
pub mod handler;
pub mod health;
mod messages;
pub mod patience;
pub mod pb;
pub mod peer;
mod pipeline;
pub mod session_service;
pub mod spans;
pub mod status;
mod timeouts;
mod trailers;
