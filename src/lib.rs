//! sessiond: a daemon that keeps the web sessions of all services of an application.
//!
//! Five modules, and the boundaries between them:
//!
//! - [`session`]: the rules for ids, tokens, cookies, lifetimes and data, and the
//!   engine. It knows no wire format, no disk and no clock of its own: the store, the
//!   time and the randomness come in as arguments.
//! - [`store`]: keeps records, in sled, Redis or memory. It knows no wire format, and
//!   no rules except those that `session` passes to it.
//! - [`service`]: the operations, whatever protocol a caller speaks: engines by name,
//!   checked requests, answers, reasons of failure. It knows no protocol and no kind of
//!   store.
//! - [`grpc`]: translates messages to requests of `service`, and its answers to
//!   messages. It knows no store.
//! - [`server`]: the process: configuration, listeners, cleanup, metrics, shutdown.
//!   It wires the other modules together.
//!
//! Beside them are [`timing`], how long things take, and [`trace`], spans. All of them may use
//! both but `session`, which has no clock.
//!
//! `tests/suite/boundaries.rs` checks the boundaries.
//!
//! How a Resolve is answered:
//!
//! 1. `grpc::session_service` decodes the message, and `grpc::convert` makes a request
//!    of it.
//! 2. `service::operation` finds the engine and asks it what the credential proves
//!    (`session::credential`): it scans the Cookie header and checks signatures,
//!    without asking the store.
//! 3. The engine looks up each proven id: in memory with
//!    `session::store::Store::recall`, or else with one `Store::touch`, which also
//!    moves the deadline when that is due.
//! 4. The engine checks the verifier and the deadline of each live record. The result
//!    becomes the answer. It has a Set-Cookie value only if the browser's cookie must
//!    change.
//! 5. `grpc::answer` encodes the answer.
//!
//! ARCHITECTURE.md explains the details.

// Here and not in Cargo.toml: tests, benchmarks and examples publish nothing.
#![warn(missing_docs)]

pub mod grpc;
pub mod server;
pub mod service;
pub mod session;
pub mod store;
pub mod timing;
pub mod trace;
