//! When it is worth to look for memory that is free and to give it back.

/// Growth below this is not worth a look at the whole heap.
const WORTH_BYTES: usize = 4 << 20;

/// Looks that are left out at most after one that gave nothing back.
const MAX_PAUSE: u32 = 32;

/// What is known of a process, from one look to the next.
#[derive(Debug)]
pub(super) struct Peak {
    /// The resident memory at the last look.
    resident: usize,
    /// The least after memory was given back, and the resident memory when that was last done.
    least: usize,
    given_back: usize,
    /// The most that peers have held since.
    held: usize,
    /// How many looks to leave out, and how many of them are over. What a peer held is freed a
    /// moment after it counts as given up, so one look that comes too early is not the last.
    pause: u32,
    paused: u32,
}

impl Peak {
    /// `resident`: the memory at the start, before peers can have taken any.
    pub(super) fn new(resident: usize) -> Self {
        Self { resident, least: resident, given_back: resident, held: 0, pause: 0, paused: 0 }
    }

    /// True if the process is larger than it was, does not grow now (what is free would be
    /// taken again), and something has changed or some time has passed since the last time.
    pub(super) fn is_over(&mut self, resident: usize, held: usize) -> bool {
        let grows = resident > self.resident + WORTH_BYTES;
        self.resident = resident;
        self.held = self.held.max(held);
        let has_grown = resident > self.given_back + worth(self.given_back);
        let have_left = held <= self.held / 2 && held < self.held;
        if have_left {
            self.pause = 0;
        }
        let is_large = resident > self.least + worth(self.least);
        if !is_large || grows {
            return false;
        }
        self.paused += 1;
        has_grown || have_left || self.paused > self.pause
    }

    /// Memory was given back.
    pub(super) fn given_back(&mut self, resident: usize, held: usize) {
        let nothing = resident + WORTH_BYTES > self.resident;
        self.pause = if nothing { (self.pause * 2).clamp(1, MAX_PAUSE) } else { 0 };
        self.paused = 0;
        self.given_back = resident;
        self.least = self.least.min(resident);
        self.resident = resident;
        self.held = held;
    }
}

fn worth(bytes: usize) -> usize {
    WORTH_BYTES.max(bytes / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// What counts as given up may be freed a moment later.
    #[test]
    fn a_look_that_came_too_early_is_repeated_ever_more_rarely() {
        let mut peak = Peak::new(30 * MIB);
        assert!(!peak.is_over(30 * MIB, 0), "the start");
        assert!(!peak.is_over(90 * MIB, 0), "it grows");
        let mut looks = Vec::new();
        for look in 0..20 {
            if peak.is_over(90 * MIB, 0) {
                looks.push(look);
                peak.given_back(90 * MIB, 0);
            }
        }
        assert_eq!(looks, [0, 2, 5, 10, 19], "expected pauses that double");
    }

    #[test]
    fn memory_is_given_back_once_after_growth_and_once_when_peers_have_gone() {
        let mut peak = Peak::new(30 * MIB);
        for (resident, held, expected, what) in [
            (30, 1, false, "the start"),
            (31, 1, false, "little growth"),
            (90, 60, false, "it grows"),
            (91, 60, true, "it has grown"),
            (91, 60, false, "all is in use, and one look is left out"),
            (91, 2, true, "peers have gone"),
            (91, 2, false, "nothing was free, and the next look is left out"),
            (91, 2, true, "it is tried again"),
        ] {
            assert_eq!(peak.is_over(resident * MIB, held * MIB), expected, "{what}");
            if expected {
                peak.given_back(resident * MIB, held * MIB);
            }
        }
    }
}
