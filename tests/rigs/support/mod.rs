//! What the rigs that run the program have in common.

// The suite uses more of this module than the rigs do.
#[path = "../../suite/support/browser.rs"]
#[allow(dead_code)]
pub(crate) mod browser;
pub(crate) mod disk;
#[path = "../../suite/support/ending.rs"]
pub(crate) mod ending;
#[path = "../../suite/support/health.rs"]
pub(crate) mod health;
#[path = "../../suite/support/metrics.rs"]
#[allow(dead_code)]
pub(crate) mod metrics;
pub(crate) mod oplog;
#[path = "../../suite/support/papers.rs"]
#[allow(dead_code)]
pub(crate) mod papers;
#[path = "../../suite/support/program.rs"]
#[allow(dead_code)]
pub(crate) mod program;
#[path = "../../suite/support/redis.rs"]
#[allow(dead_code)]
pub(crate) mod redis;
pub(crate) mod small_disk;
pub(crate) mod story;
pub(crate) mod victim;

pub(crate) use crate::{form::Form, random::Random};
