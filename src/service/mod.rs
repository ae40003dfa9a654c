//! The operations as a service that knows no protocol: a listener turns its messages into
//! the requests here, and the answers here into its messages. `grpc` is one such listener.
//! Knows no kind of store.
//!
//! | file | holds |
//! |---|---|
//! | [`engines`] | the engines of a daemon, by name |
//! | [`operation`] | Resolve, Touch, Write and Destroy: prepare, recall, run |
//! | [`answer`] | what an operation answers |
//! | [`own`] | the list of one's own sessions |
//! | [`description`] | what a client has to know of the daemon |
//! | [`input`] | the checks of values that callers give |
//! | [`lanes`] | which operations of a stream must wait for which |
//! | [`access`] | who may call: tokens, certificates, roles |
//! | [`admin`] | what operators call: cleanup, list, get, revoke, watch |
//! | [`transfer`] | what operators call: export and import |
//! | [`reload`] | what operators call: new secrets, tokens and certificates without a restart |
//! | [`audit`] | one line in the log for each of these calls |
//! | [`page`] | page sizes and page tokens |
//! | [`status`] | how the daemon is |
//! | [`watchers`] | the events of sessions, delivered to watchers |
//! | [`fault`] | why a call failed, and the reasons |
//! | [`observer`] | what the metrics are told |
//! | [`peer_memory`] | the memory that peers make the daemon hold |

pub mod access;
pub mod admin;
pub mod answer;
pub mod audit;
pub mod description;
pub mod engines;
pub mod fault;
pub mod input;
pub mod lanes;
pub mod observer;
pub mod operation;
pub mod own;
pub mod page;
pub mod peer_memory;
pub mod reload;
pub mod status;
pub mod transfer;
pub mod watchers;
