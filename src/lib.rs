//! sessiond: a daemon that owns web sessions for every service of an application.
//!
//! Four rooms, each a module, and the walls between them:
//!
//! - [`session`]: the rules. Ids, tokens, cookies, lifetimes, data, the engine. It
//!   knows no wire, no disk and no clock of its own: the store, the time and the
//!   randomness come in as arguments.
//! - [`store`]: where records are kept, sled, redis or memory. It knows no wire, and no
//!   rules but those that `session` hands it.
//! - [`grpc`]: from messages to `session` and back. It knows no store.
//! - [`server`]: the process. Configuration, listeners, cleanup, metrics, shutdown.
//!   It wires the others together.
//!
//! `tests/suite/walls.rs` holds the walls.
//!
//! The way of a Resolve: `grpc::session_service` takes the message;
//! `grpc::operation` finds the engine and asks it what the credential proves
//! (`session::credential`: the Cookie header is scanned, signatures are checked,
//! no store is asked yet); the engine looks up each proven id, with
//! `session::store::Store::recall` in memory, or else with one `Store::touch`, which
//! also moves the deadline when that is due; what is live is compared by its
//! verifier and its deadline and becomes the answer, with a Set-Cookie value only
//! if the browser has something to learn.
//! ARCHITECTURE.md tells it at length.

pub mod grpc;
pub mod server;
pub mod session;
pub mod store;
