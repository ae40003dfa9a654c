//! Lanes: which operations of a pipeline must wait for which.
//!
//! Operations whose credentials prove the same session run in the order in which they
//! arrive; all others run side by side. A Destroy of a wider scope is ordered only within
//! its own sessions: otherwise one user's logout would hold up everybody. A Cookie header
//! may prove several sessions, so an operation can stand in several lanes at once.

use std::collections::HashMap;

use crate::session::credential::Reach;

/// An operation's place in the order of arrival.
pub type Ticket = u64;

/// The operations of one pipeline that are not answered yet, each with those it waits for.
#[derive(Default)]
pub struct Lanes {
    /// The last operation in each lane.
    last: HashMap<Reach, Ticket>,
    standing: HashMap<Ticket, Standing>,
}

struct Standing {
    lanes: Vec<Reach>,
    /// How many operations this one waits for.
    ahead: usize,
    behind: Vec<Ticket>,
}

impl Lanes {
    /// Whether no operation stands in any of `lanes`.
    pub fn are_free(&self, mut lanes: impl Iterator<Item = Reach>) -> bool {
        lanes.all(|lane| !self.last.contains_key(&lane))
    }

    /// Puts an operation at the end of its lanes. True when it may run at once.
    pub fn enter(&mut self, ticket: Ticket, lanes: impl Iterator<Item = Reach>) -> bool {
        let mut standing = Standing { lanes: lanes.collect(), ahead: 0, behind: Vec::new() };
        for lane in &standing.lanes {
            match self.last.insert(*lane, ticket) {
                // The same lane twice in one operation.
                Some(last) if last == ticket => {}
                Some(last) => {
                    if let Some(before) = self.standing.get_mut(&last) {
                        before.behind.push(ticket);
                        standing.ahead += 1;
                    }
                }
                None => {}
            }
        }
        let free = standing.ahead == 0;
        self.standing.insert(ticket, standing);
        free
    }

    /// Takes an operation out, and gives those that may run now.
    pub fn leave(&mut self, ticket: Ticket) -> Vec<Ticket> {
        let Some(standing) = self.standing.remove(&ticket) else {
            return Vec::new();
        };
        for lane in standing.lanes {
            if self.last.get(&lane) == Some(&ticket) {
                self.last.remove(&lane);
            }
        }
        let mut free = standing.behind;
        free.retain(|behind| {
            self.standing.get_mut(behind).is_some_and(|standing| {
                standing.ahead -= 1;
                standing.ahead == 0
            })
        });
        free
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::id::PublicId;

    fn lane(number: u8) -> Reach {
        Reach::Session(PublicId::from_bytes([number; 12]))
    }

    #[test]
    fn one_lane_is_a_queue() {
        let mut lanes = Lanes::default();
        assert!(lanes.are_free([lane(1)].into_iter()));
        assert!(lanes.enter(1, [lane(1)].into_iter()));
        assert!(!lanes.enter(2, [lane(1)].into_iter()));
        assert!(!lanes.enter(3, [lane(1)].into_iter()));
        assert!(lanes.enter(4, [lane(2)].into_iter()), "other lanes are free");
        assert_eq!(lanes.leave(1), [2]);
        assert_eq!(lanes.leave(2), [3]);
        assert_eq!(lanes.leave(3), [0; 0]);
        assert!(lanes.are_free([lane(1)].into_iter()));
    }

    proptest! {
        /// Whatever finishes first: in each lane operations run in order, all of
        /// them run, and nothing is left behind.
        #[test]
        fn order_holds_in_every_lane(
            wants in proptest::collection::vec(proptest::collection::vec(0u8..4, 0..3), 1..30),
            picks in proptest::collection::vec(any::<usize>(), 30),
        ) {
            let mut lanes = Lanes::default();
            let mut running = Vec::new();
            for (ticket, want) in wants.iter().enumerate() {
                if lanes.enter(ticket as Ticket, want.iter().copied().map(lane)) {
                    running.push(ticket as Ticket);
                }
            }
            let mut finished = Vec::new();
            for pick in picks.into_iter().take(wants.len()) {
                prop_assert!(!running.is_empty(), "somebody can always run");
                let ticket = running.remove(pick % running.len());
                for earlier in 0..ticket {
                    let shared = wants[earlier as usize].iter().any(|lane| wants[ticket as usize].contains(lane));
                    prop_assert!(!shared || finished.contains(&earlier), "{ticket} overtook {earlier}");
                }
                finished.push(ticket);
                running.extend(lanes.leave(ticket));
            }
            prop_assert_eq!(finished.len(), wants.len());
            prop_assert!(lanes.last.is_empty() && lanes.standing.is_empty());
        }
    }
}
