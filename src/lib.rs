//! sessiond: a daemon that owns web sessions for every service of an application.
//!
//! Five modules, and what each of them knows:
//!
//! - [`session`]: the rules. Ids, tokens, cookies, lifetimes, data, the engine. It knows
//!   no wire, no disk and no clock of its own: the store, the time and the randomness
//!   come in as arguments.
//! - [`store`]: where records are kept: sled, Redis or memory. It knows no wire, and no
//!   rules but those that `session` gives it.
//! - [`service`]: the operations, whatever protocol a caller speaks: engines by name,
//!   checked requests, answers, reasons of failure. It knows no protocol and no kind of
//!   store.
//! - [`grpc`]: from messages to requests of `service`, and from its answers to messages.
//!   It knows no store.
//! - [`server`]: the process. Configuration, listeners, cleanup, metrics, shutdown. It
//!   wires the others together.
//!
//! `tests/suite/boundaries.rs` holds these boundaries.
//!
//! A Resolve takes this way. `grpc::session_service` decodes the message, and
//! `grpc::convert` makes a request of it. `service::operation` finds the engine and asks
//! it what the credential proves (`session::credential`: the Cookie header is scanned and
//! signatures are checked; no store is asked yet). The engine looks up each proven id: in
//! memory with `session::store::Store::recall`, or else with one `Store::touch`, which
//! also moves the deadline if that is due. A live record is recognised by its verifier
//! and its deadline, and becomes the answer; a Set-Cookie value comes with it only if the
//! browser has something to learn. `grpc::answer` encodes it.
//! ARCHITECTURE.md has the long form.

pub mod grpc;
pub mod server;
pub mod service;
pub mod session;
pub mod store;
