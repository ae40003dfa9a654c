//! The client against the fake, the daemon, and servers that misbehave.

mod behaviour;
mod daemon;
mod layer;
mod misbehaving;
mod request_session;
mod support;

/// The messages of the API, as the crate has them.
#[allow(clippy::all, dead_code, unreachable_pub)]
#[rustfmt::skip]
#[path = "../src/pb.rs"]
mod pb;
