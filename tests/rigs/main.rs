//! Rigs: what the promises are held against at length, as one binary.
//!
//! Each runs for a few seconds in an ordinary `cargo test`, longer with
//! `SESSIOND_RIG=ci`, and for hours with `SESSIOND_RIG=long`:
//!
//! ```sh
//! SESSIOND_RIG=long cargo test --release --test rigs -- --nocapture --test-threads=1
//! ```
//!
//! A rig prints its seed; `SESSIOND_RIG_SEED` sets it.

mod churn;
mod corpora;
mod form;
mod kill;

/// From the suite, which uses more of it than the rigs do.
#[path = "../suite/support"]
mod support {
    #[allow(dead_code)]
    pub mod browser;
    #[allow(dead_code)]
    pub mod program;
}
