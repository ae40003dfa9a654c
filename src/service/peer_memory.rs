//! The memory that peers make the daemon hold: one budget for all of them.
//!
//! Flow control bounds what is unread. What has been read and is still needed is counted
//! here: messages that are not complete, requests that wait for a store, and answers that
//! are not sent. A connection may hold [`FREE_BYTES`] at any time, so a peer that uses up
//! the budget takes nothing from those that hold little.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use super::fault::{Fault, Reason};

/// What each connection may hold beside the budget.
pub const FREE_BYTES: usize = 64 << 10;

/// A connection takes from the budget in steps, so that most of its calls touch only its
/// own counter.
const STEP_BYTES: usize = 16 << 10;

/// The budget of a daemon (`limits.max_held_bytes`).
#[derive(Debug)]
pub struct PeerMemory {
    limit: usize,
    used: AtomicUsize,
    /// Something was refused, and this was logged.
    refuses: AtomicBool,
    refused: AtomicU64,
}

impl PeerMemory {
    /// A budget of so many bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        let (used, refuses) = (AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(Self { limit, used, refuses, refused: AtomicU64::new(0) })
    }

    /// How many bytes there are.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many calls were refused because they were used up.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many bytes of the budget are in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The share of a new connection, which holds nothing yet.
    pub fn share(self: &Arc<Self>) -> Arc<Share> {
        let (held, drawn) = (AtomicUsize::new(0), Mutex::new(0));
        Arc::new(Share { memory: Arc::clone(self), held, drawn })
    }

    fn give_back(&self, less: usize) {
        let before = self.used.fetch_sub(less, Ordering::Relaxed);
        if before - less < self.limit / 2 {
            self.refuses.store(false, Ordering::Relaxed);
        }
    }

    fn refuse(&self) -> Fault {
        self.refused.fetch_add(1, Ordering::Relaxed);
        if !self.refuses.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                limit_bytes = self.limit,
                "limits.max_held_bytes is used up; calls of connections that hold more than \
                 64 KiB are refused"
            );
        }
        let problem = "the memory for requests and answers (limits.max_held_bytes) is used up; \
                       try again later";
        Fault::new(Reason::Overloaded, problem)
    }

    fn is_exceeded(&self) -> bool {
        self.used() > self.limit
    }

    fn draw(&self, more: usize, within_limit: bool) -> bool {
        if !within_limit {
            self.used.fetch_add(more, Ordering::Relaxed);
            return true;
        }
        let grown = |used: usize| used.checked_add(more).filter(|used| *used <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
    }
}

/// What one connection holds.
#[derive(Debug)]
pub struct Share {
    memory: Arc<PeerMemory>,
    held: AtomicUsize,
    /// What was taken from the budget: `held` beyond [`FREE_BYTES`], in whole steps.
    drawn: Mutex<usize>,
}

impl Share {
    /// How many bytes the connection holds.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Refuses with OVERLOADED if the budget is used up and the connection holds more than
    /// its own [`FREE_BYTES`].
    pub fn admit(&self) -> Result<(), Fault> {
        let is_refused = self.held() > FREE_BYTES && self.memory.is_exceeded();
        if is_refused { Err(self.memory.refuse()) } else { Ok(()) }
    }

    /// Holds `bytes` more, or refuses with OVERLOADED if the budget is used up.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Result<Held, Fault> {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if held > FREE_BYTES && !self.draw(held, true) {
            self.release(bytes);
            return Err(self.memory.refuse());
        }
        Ok(Held { share: Arc::clone(self), bytes })
    }

    /// Counts `bytes` that exist already, even beyond the budget. The next [`hold`](Self::hold)
    /// is refused then.
    pub fn count(self: &Arc<Self>, bytes: usize) -> Held {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if held > FREE_BYTES {
            self.draw(held, false);
        }
        Held { share: Arc::clone(self), bytes }
    }

    fn draw(&self, held: usize, within_limit: bool) -> bool {
        let wanted = to_draw(held);
        let mut drawn = self.drawn.lock();
        let more = wanted.saturating_sub(*drawn);
        let done = match more {
            // What is rounded up must not let answers pass beyond the budget one by one.
            0 => !within_limit || !self.memory.is_exceeded(),
            more => self.memory.draw(more, within_limit),
        };
        if done {
            *drawn += more;
        }
        done
    }

    fn release(&self, bytes: usize) {
        let before = self.held.fetch_sub(bytes, Ordering::Relaxed);
        if before <= FREE_BYTES {
            return;
        }
        let wanted = to_draw(before - bytes);
        let mut drawn = self.drawn.lock();
        let less = drawn.saturating_sub(wanted);
        self.memory.give_back(less);
        *drawn -= less;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.give_back(*self.drawn.get_mut());
    }
}

fn to_draw(held: usize) -> usize {
    held.saturating_sub(FREE_BYTES).next_multiple_of(STEP_BYTES)
}

/// Bytes that a connection holds; given back when dropped.
#[derive(Debug)]
pub struct Held {
    share: Arc<Share>,
    bytes: usize,
}

impl Held {
    /// How many they are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Splits off `bytes` of them.
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { share: Arc::clone(&self.share), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.share.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_is_held_is_given_back() {
        let memory = PeerMemory::new(MIB);
        let share = memory.share();
        let mut held = share.hold(MIB / 2).expect("there is room");
        assert_eq!(memory.used(), MIB / 2 - FREE_BYTES);
        let part = held.split(MIB / 4);
        drop(held);
        assert_eq!(share.held(), MIB / 4);
        assert_eq!(memory.used(), MIB / 4 - FREE_BYTES);
        drop(part);
        assert_eq!((share.held(), memory.used()), (0, 0));
    }

    #[test]
    fn a_used_up_budget_refuses_those_that_hold_much() {
        let memory = PeerMemory::new(MIB);
        let (greedy, modest) = (memory.share(), memory.share());
        let all = greedy.hold(MIB + FREE_BYTES).expect("there is room");
        let fault = greedy.hold(1).expect_err("the budget is used up");
        assert_eq!(fault.reason, Reason::Overloaded);
        assert_eq!(greedy.held(), MIB + FREE_BYTES, "what is refused is not counted");
        let own = modest.hold(FREE_BYTES).expect("each connection may hold a little");
        modest.hold(1).expect_err("and no more than that");
        assert_eq!((memory.refused(), memory.limit()), (2, MIB));
        drop((all, own));
        modest.hold(MIB).expect("there is room again");
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn what_exists_already_is_counted_beyond_the_budget() {
        let memory = PeerMemory::new(MIB);
        let share = memory.share();
        let answer = share.count(3 * MIB);
        assert!(memory.used() > MIB);
        share.hold(1).expect_err("nothing more until it is sent");
        share.admit().expect_err("nor anything that is answered from memory");
        memory.share().admit().expect("of the others");
        drop(answer);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_connection_that_ends_gives_all_back() {
        let memory = PeerMemory::new(MIB);
        let share = memory.share();
        let held = share.count(MIB);
        drop(share);
        assert!(memory.used() > 0, "what is held outlives the connection's own handle");
        drop(held);
        assert_eq!(memory.used(), 0);
    }
}
