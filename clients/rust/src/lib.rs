//! Web sessions that live in sessiond, a daemon that owns them for every service of an
//! application, in any language.
//!
//! With axum: see [`axum`](mod@axum), which needs the feature of that name. A router with its
//! layer gives each handler the session of the request.
//!
//! Without a framework, or to write an adapter for another one: see [`RequestSession`], one
//! request's view of its session.
//!
//! ```no_run
//! # async fn run() -> sessiond_client::Result<()> {
//! use sessiond_client::{Client, RequestSession};
//!
//! let client = Client::new("127.0.0.1:50051")?;
//! // What the browser sent, octet by octet.
//! let session = RequestSession::open(&client, "__Host-session=...").await?;
//! let visits = session
//!     .update_value("visits", |visits: &mut u64| {
//!         *visits += 1;
//!         *visits
//!     })
//!     .await?;
//! println!("visit {visits}, Set-Cookie: {:?}", session.set_cookie());
//! # Ok(()) }
//! ```
//!
//! Below it is [`Client`], with the operations of the daemon as they are.
//!
//! | feature | what it adds |
//! |---|---|
//! | `axum` | [`axum`](mod@axum): a tower layer and an extractor |
//! | `tls` | `Tls`: TLS and mTLS to the daemon |
//! | `testing` | `testing`: a fake of the daemon in memory, for the tests of an application |
//!
//! Every error is an [`Error`]: its variant says what to do, its [`Reason`] says why, and
//! [`Error::applied`] whether something may have changed all the same. Connections and outages
//! are told to [`tracing`].

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod client;
mod data;
mod error;
mod finite;
mod session;
mod status;
mod transport;
mod types;
mod wire;

/// The messages of the API. `proto/generate` makes them of `proto/`.
#[allow(clippy::all, missing_docs, unreachable_pub)]
#[rustfmt::skip]
mod pb;

#[cfg(feature = "axum")]
pub mod axum;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "tls")]
pub use self::transport::Tls;
pub use self::{
    client::{Client, ClientBuilder},
    data::Data,
    error::{Applied, Error, Failure, Reason, Result},
    session::{Device, LoginOptions, RequestSession},
    types::{
        Credential, Description, DestroyOptions, Destroyed, Engine, Limits, ListOptions, Listed,
        Operation, ResolveOptions, Resolved, Scope, SessionInfo, State, TouchOptions, Touched,
        WriteOptions, Written,
    },
};

/// The programs of the README compile.
#[cfg(all(doctest, feature = "axum", feature = "testing"))]
#[doc = include_str!("../README.md")]
struct Readme;
