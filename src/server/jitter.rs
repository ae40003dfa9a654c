//! Random variation of intervals, so that events that start together drift apart: the
//! sweeps of replicas, and connections opened at the same moment.

use std::time::Duration;

use crate::session::id::Entropy;

/// Varies `interval` by up to a tenth, longer or shorter.
pub(super) fn jittered(interval: Duration, entropy: &dyn Entropy) -> Duration {
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
