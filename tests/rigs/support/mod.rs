//! What the rigs of the program have in common.

// The suite uses more of these than the rigs do.
#[path = "../../suite/support/browser.rs"]
#[allow(dead_code)]
pub mod browser;
pub mod disk;
#[path = "../../suite/support/ending.rs"]
pub mod ending;
#[path = "../../suite/support/health.rs"]
pub mod health;
pub mod oplog;
#[path = "../../suite/support/program.rs"]
#[allow(dead_code)]
pub mod program;
#[path = "../../suite/support/redis.rs"]
#[allow(dead_code)]
pub mod redis;
pub mod small_disk;
pub mod story;
pub mod victim;

pub use crate::{form::Form, random::Random};
