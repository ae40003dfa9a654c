//! A linearizability checker: searches for an order of a session's operations that explains
//! their answers.
//!
//! After Wing and Gong: an operation may come next if no other remaining operation returned
//! before it was invoked. After Lowe: a situation, which is the set of placed operations and
//! the state, is examined only once.

use std::{collections::HashSet, fmt, hash::Hash};

/// An operation with its answer. All times come from one counter.
#[derive(Debug, Clone)]
pub(crate) struct Timed<O> {
    pub invoked: u64,
    pub returned: u64,
    pub operation: O,
}

/// What an operation may do to a state, given its answer.
pub(crate) trait Specification {
    type Operation: fmt::Debug;
    type State: Clone + Eq + Hash + fmt::Debug;

    fn initial(&self) -> Self::State;

    /// The possible next states. None if the answer does not fit the state.
    fn follow(&self, state: &Self::State, operation: &Self::Operation) -> Vec<Self::State>;
}

/// The start of the message about a history that has no order.
pub(crate) const NO_ORDER: &str = "no order explains";

/// Why a history is not accepted.
#[derive(Debug)]
pub(crate) enum Refused {
    /// No order explains the answers.
    Impossible(String),
    /// The search went past its bound.
    Undecided { looked_at: usize },
}

/// Searches for an order and examines at most `bound` situations. Returns how many it examined.
pub(crate) fn check<S: Specification>(
    specification: &S,
    mut history: Vec<Timed<S::Operation>>,
    bound: usize,
) -> Result<usize, Refused> {
    history.sort_by_key(|timed| timed.invoked);
    let start = Situation { placed: Placed::new(history.len()), state: specification.initial() };
    let mut furthest = start.clone();
    let mut known = HashSet::from([start.clone()]);
    let mut open = vec![start];
    while let Some(situation) = open.pop() {
        if situation.placed.count == history.len() {
            return Ok(known.len());
        }
        if situation.placed.count > furthest.placed.count {
            furthest.clone_from(&situation);
        }
        for at in candidates(&history, &situation.placed) {
            for state in specification.follow(&situation.state, &history[at].operation) {
                let next = Situation { placed: situation.placed.with(at), state };
                if known.len() >= bound {
                    return Err(Refused::Undecided { looked_at: known.len() });
                }
                if known.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
    }
    Err(Refused::Impossible(explain(&history, &furthest)))
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Situation<T> {
    placed: Placed,
    state: T,
}

/// The operations of a history that have been placed.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Placed {
    bits: Vec<u64>,
    count: usize,
}

impl Placed {
    fn new(len: usize) -> Self {
        Self { bits: vec![0; len.div_ceil(64)], count: 0 }
    }

    fn has(&self, at: usize) -> bool {
        self.bits[at / 64] >> (at % 64) & 1 == 1
    }

    fn with(&self, at: usize) -> Self {
        let mut bits = self.bits.clone();
        bits[at / 64] |= 1 << (at % 64);
        Self { bits, count: self.count + 1 }
    }
}

/// The operations that may come next. The one that returned first is put last: the search takes
/// the last one first, and it is usually right.
fn candidates<O>(history: &[Timed<O>], placed: &Placed) -> Vec<usize> {
    let open = || (0..history.len()).filter(|&at| !placed.has(at));
    let horizon = open().map(|at| history[at].returned).min().unwrap_or(0);
    let mut candidates: Vec<_> = open().filter(|&at| history[at].invoked < horizon).collect();
    candidates.sort_by_key(|&at| std::cmp::Reverse(history[at].returned));
    candidates
}

fn explain<O: fmt::Debug, T: fmt::Debug>(history: &[Timed<O>], furthest: &Situation<T>) -> String {
    use std::fmt::Write;
    let mut text = format!(
        "{NO_ORDER} these {} answers; expected one to. The longest order found has {} of them and leads to\n  {:?}\nafter which none of these operations fits:\n",
        history.len(),
        furthest.placed.count,
        furthest.state
    );
    for at in candidates(history, &furthest.placed) {
        let _ = writeln!(text, "  {:?}", history[at]);
    }
    let _ = writeln!(text, "the last operations placed, by the time of their invocation:");
    let placed: Vec<_> = (0..history.len()).filter(|&at| furthest.placed.has(at)).collect();
    for &at in placed.iter().rev().take(12).rev() {
        let _ = writeln!(text, "  {:?}", history[at]);
    }
    text
}

/// A register: the smallest specification with valid and invalid histories.
struct Register;

#[derive(Debug, Clone, Copy)]
enum Access {
    Set(u8),
    Saw(u8),
}

impl Specification for Register {
    type Operation = Access;
    type State = u8;

    fn initial(&self) -> u8 {
        0
    }

    fn follow(&self, state: &u8, access: &Access) -> Vec<u8> {
        match *access {
            Access::Set(value) => vec![value],
            Access::Saw(value) if value == *state => vec![value],
            Access::Saw(_) => Vec::new(),
        }
    }
}

fn judge(history: &[(u64, u64, Access)]) -> Result<usize, Refused> {
    let timed = history.iter().map(|&(invoked, returned, operation)| Timed {
        invoked,
        returned,
        operation,
    });
    check(&Register, timed.collect(), 1_000)
}

#[test]
fn what_overlaps_may_be_in_any_order() {
    use Access::{Saw, Set};
    for right in [
        &[(0, 1, Set(1)), (2, 3, Saw(1))][..],
        // The write takes effect during its call: one read sees the new value, one does not.
        &[(0, 5, Set(1)), (1, 2, Saw(0)), (3, 4, Saw(1))],
        // The order of the effects is not the order of the invocations.
        &[(0, 9, Set(1)), (1, 8, Set(2)), (10, 11, Saw(1))],
        &[],
    ] {
        assert!(judge(right).is_ok(), "expected an order for {right:?}");
    }
}

#[test]
fn what_does_not_overlap_keeps_its_order() {
    use Access::{Saw, Set};
    for wrong in [
        &[(0, 1, Set(1)), (2, 3, Saw(0))][..],
        // The new value is read, then the old one.
        &[(0, 9, Set(1)), (1, 2, Saw(1)), (3, 4, Saw(0))],
        &[(0, 1, Set(1)), (2, 3, Set(2)), (4, 5, Saw(1))],
        &[(0, 1, Saw(7))],
    ] {
        let found = judge(wrong);
        assert!(matches!(found, Err(Refused::Impossible(_))), "expected no order for {wrong:?}");
    }
}

#[test]
fn the_search_is_bounded() {
    let many: Vec<_> = (0..40).map(|value| (value, 1_000, Access::Set(value as u8))).collect();
    let wrong = [&many[..], &[(2_000, 2_001, Access::Saw(99))]].concat();
    let found = judge(&wrong);
    assert!(
        matches!(found, Err(Refused::Undecided { .. })),
        "expected the search to stop at its bound, found {found:?}"
    );
}
