//! Rigs: what is too rough for the suite, against the built program and what it
//! leaves on the disk.
//!
//! `SESSIOND_RIG=ci` and `SESSIOND_RIG=long` make the short runs longer,
//! `SESSIOND_RIG_SEED` repeats one, `TMPDIR` says where the disks are made:
//!
//! ```sh
//! cargo build --example recorder
//! SESSIOND_RIG=ci cargo test --test rigs -- --nocapture
//! ```

mod faults;
mod power_loss;
mod support;
