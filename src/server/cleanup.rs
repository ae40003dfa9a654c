//! The periodic cleanup, which removes expired sessions.

use std::{sync::Arc, time::Duration};

use super::jitter::jittered;
use crate::session::{engine::Engine, id::Entropy};

/// Sweeps an engine once per `interval`, in slices of `slice` entries, until the future
/// is dropped. An error is logged and counted, and the next round tries again.
pub async fn run(engine: Arc<Engine>, interval: Duration, slice: usize, entropy: Arc<dyn Entropy>) {
    loop {
        tokio::time::sleep(jittered(interval, entropy.as_ref())).await;
        match engine.sweep(slice).await {
            Ok(0) => {}
            Ok(removed) => {
                tracing::debug!(engine = engine.name(), removed, "swept expired sessions");
            }
            Err(error) => {
                use std::error::Error as _;
                let cause = error.source().and_then(|e| e.source()).map(ToString::to_string);
                tracing::error!(
                    engine = engine.name(),
                    cause,
                    "the cleanup failed and will be repeated: {error}"
                );
            }
        }
    }
}
