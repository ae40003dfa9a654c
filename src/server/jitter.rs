//! Times that are spread a little, so that what begins together does not go on in
//! step: the sweeps of replicas, the connections of one moment.

use std::time::Duration;

use crate::session::id::Entropy;

/// Up to a tenth more or less.
pub fn jittered(interval: Duration, entropy: &dyn Entropy) -> Duration {
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
