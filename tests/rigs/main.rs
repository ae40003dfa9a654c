//! Rigs: what the promises are held against at length, as one binary.
//!
//! Each runs for a few seconds in an ordinary `cargo test`, longer with
//! `SESSIOND_RIG=ci`, and for hours with `SESSIOND_RIG=long`:
//!
//! ```sh
//! SESSIOND_RIG=long cargo test --release --test rigs -- --nocapture --test-threads=1
//! ```
//!
//! Each prints one line with what it did and its seed; `SESSIOND_RIG_SEED`
//! repeats a run.

mod buggy;
mod checker;
mod churn;
mod closed_store;
mod corpora;
mod faults;
mod form;
mod history;
mod kill;
mod linearizability;
mod machine;
mod model;
mod names;
mod power_loss;
mod redis_faults;
mod rig;
mod state_machine;
mod steps;
mod stores;
mod support;
