//! When it is worth to look for memory that is free and to give it back.

/// Growth below this is not worth a look at the whole heap.
const WORTH_BYTES: usize = 4 << 20;

/// What is known of a process, from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Peak {
    /// The resident memory at the last look.
    resident: usize,
    /// The least after memory was given back, and the resident memory when that was last done.
    least: Option<usize>,
    given_back: usize,
    /// The most that peers have held since.
    held: usize,
}

impl Peak {
    /// True if the process has grown, or if peers hold much less than they have, and it does
    /// not grow now: what is free would be taken again.
    pub(super) fn is_over(&mut self, resident: usize, held: usize) -> bool {
        let grows = resident > self.resident + WORTH_BYTES;
        self.resident = resident;
        self.held = self.held.max(held);
        let least = *self.least.get_or_insert_with(|| {
            self.given_back = resident;
            resident
        });
        let is_large = resident > least + worth(least);
        let has_grown = resident > self.given_back + worth(self.given_back);
        is_large && !grows && (has_grown || held <= self.held / 2)
    }

    /// Memory was given back.
    pub(super) fn given_back(&mut self, resident: usize, held: usize) {
        self.given_back = resident;
        self.least = Some(self.least.map_or(resident, |least| least.min(resident)));
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

    #[test]
    fn memory_is_given_back_once_after_growth_and_once_when_peers_have_gone() {
        let mut peak = Peak::default();
        for (resident, held, expected, what) in [
            (30, 1, false, "the start"),
            (31, 1, false, "little growth"),
            (90, 60, false, "it grows"),
            (91, 60, true, "it has grown"),
            (91, 60, false, "all is in use"),
            (91, 40, false, "peers hold a little less"),
            (91, 2, true, "peers have gone"),
            (91, 2, false, "nothing was free"),
        ] {
            assert_eq!(peak.is_over(resident * MIB, held * MIB), expected, "{what}");
            if expected {
                peak.given_back(resident * MIB, held * MIB);
            }
        }
    }
}
