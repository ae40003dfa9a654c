//! The periodic cleanup: sweeps what has expired, for ever.

use std::{sync::Arc, time::Duration};

use crate::session::{engine::Engine, id::Entropy, store::Store};

/// Sweeps an engine once per `interval`, in slices of `slice` entries, until it
/// is dropped. An error is logged and counted; the next round tries again.
pub async fn run<S: Store>(
    engine: Arc<Engine<S>>,
    interval: Duration,
    slice: usize,
    entropy: Arc<dyn Entropy>,
) {
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
                    "the cleanup failed and will try again: {error}"
                );
            }
        }
    }
}

/// Up to a tenth more or less, so that replicas do not sweep in step.
fn jittered(interval: Duration, entropy: &dyn Entropy) -> Duration {
    let mut octets = [0; 4];
    entropy.fill(&mut octets);
    let unit = f64::from(u32::from_ne_bytes(octets)) / f64::from(u32::MAX);
    interval.mul_f64(0.9 + 0.2 * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Constant(u8);

    impl Entropy for Constant {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    #[test]
    fn jitter_is_a_tenth_either_way() {
        let minute = Duration::from_secs(60);
        assert_eq!(jittered(minute, &Constant(0)), Duration::from_secs(54));
        assert_eq!(jittered(minute, &Constant(255)), Duration::from_secs(66));
    }
}
