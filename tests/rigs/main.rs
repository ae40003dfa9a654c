//! Rigs: what the promises are held against at length, as one binary.
//!
//! Each runs for a few seconds in an ordinary `cargo test`, for minutes with
//! `SESSIOND_RIG=ci`, and for hours with `SESSIOND_RIG=long`:
//!
//! ```sh
//! tests/rigs/run long            # all of them
//! tests/rigs/run long kill       # one of them
//! ```
//!
//! | rig | short | ci | long |
//! |---|---|---|---|
//! | [`kill`] | 6 rounds | 200 | 2,000 |
//! | [`power_loss`] | 60 images | 500 | 5,000 |
//! | [`faults`] | 40 cases, by lot | every one | every one |
//! | [`full_disk`] | 1 round | 5 | 60 |
//! | [`closed_store`] | once | once | once |
//! | [`redis_faults`] | each fault once | once | once |
//! | [`churn`] | 8,000 operations | 3 minutes | 1 hour |
//! | [`reloads`] | 20 reloads | 100 | 4,000 |
//! | [`rolling`] | 6 restarts | 18 | 1,200 |
//! | [`linearizability`] | 20 seeds on each store | 200 | 2,000 |
//! | [`state_machine`] | 64 cases on each store | 400 | 5,000 |
//! | [`attacks`] | 3 rounds of each | 4 | 5 longer ones, held to strictly |
//! | [`corpora`] | 200 inputs for each target | 5,000 | 1,000,000 |
//!
//! Each prints one line with what it did and its seed; `SESSIOND_RIG_SEED`
//! repeats a run.

mod attacks;
mod buggy;
mod checker;
mod churn;
mod closed_store;
mod corpora;
mod faults;
mod form;
mod full_disk;
mod history;
mod kill;
mod linearizability;
mod machine;
mod model;
mod names;
mod power_loss;
mod random;
mod redis_faults;
mod reloads;
mod rig;
mod rolling;
mod state_machine;
mod steps;
mod stores;
mod support;
