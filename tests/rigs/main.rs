//! Rigs: long hunts for what no example shows, each with a short form.
//!
//! `cargo test --test rigs` runs the short forms, `SESSIOND_RIG=ci` and
//! `SESSIOND_RIG=long` longer ones. `SESSIOND_RIG_SEED` repeats a run. Each rig
//! prints one line with what it did.

mod buggy;
mod checker;
mod history;
mod linearizability;
mod machine;
mod model;
mod names;
mod rig;
mod state_machine;
mod steps;
mod stores;
