//! The number of records.
//!
//! A clean stop stores the number. After an unclean stop, cleanups count the
//! records again in slices, because an opening must not wait for a walk over
//! all of them. Until the count is complete, the number is unknown.

use std::{
    ops::Bound,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::RwLock;
use sled::{IVec, Tree};

use crate::session::{
    id::PublicId,
    store::{Result, StoreError},
};

pub(super) struct Tally {
    /// The number of records counted up to now.
    count: AtomicU64,
    /// Read-locked while a record is added or removed, and write-locked while
    /// the records are counted. Each record is therefore counted exactly once.
    counted: RwLock<Counted>,
}

enum Counted {
    /// Records with a key up to this one.
    UpTo(Bound<IVec>),
    All,
}

impl Counted {
    fn includes(&self, id: PublicId) -> bool {
        match self {
            Self::All => true,
            Self::UpTo(Bound::Included(last) | Bound::Excluded(last)) => {
                id.as_bytes()[..] <= last[..]
            }
            Self::UpTo(Bound::Unbounded) => false,
        }
    }
}

const COUNT: &str = "count records";

impl Tally {
    /// `left`: the number that the last stop stored, if it was clean.
    pub(super) fn new(left: Option<u64>) -> Self {
        let counted = left.map_or(Counted::UpTo(Bound::Unbounded), |_| Counted::All);
        Self { count: AtomicU64::new(left.unwrap_or(0)), counted: RwLock::new(counted) }
    }

    /// `None` if the count is not complete. Does not wait.
    pub(super) fn known(&self) -> Option<u64> {
        // Nobody holds the write lock once all are counted.
        let counted = self.counted.try_read()?;
        matches!(*counted, Counted::All).then(|| self.count.load(Ordering::Acquire))
    }

    /// Runs `add`, which stores a record where there was none.
    pub(super) fn add(&self, id: PublicId, add: impl FnOnce() -> Result<()>) -> Result<()> {
        let counted = self.counted.read();
        add()?;
        if counted.includes(id) {
            self.count.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Runs `remove`, which removes an existing record.
    pub(super) fn remove(&self, id: PublicId, remove: impl FnOnce() -> Result<()>) -> Result<()> {
        let counted = self.counted.read();
        remove()?;
        if counted.includes(id) {
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Continues the count, if it is not complete, by at most `limit` of
    /// `records`. Returns how many it counted: fewer than `limit` when the
    /// count is complete.
    pub(super) fn count_on(&self, records: &Tree, limit: usize) -> Result<usize> {
        if matches!(*self.counted.read(), Counted::All) {
            return Ok(0);
        }
        let mut counted = self.counted.write();
        let Counted::UpTo(last) = &*counted else { return Ok(0) };
        let mut last = last.clone();
        let mut found = 0;
        for key in records.range::<IVec, _>((last.clone(), Bound::Unbounded)).keys().take(limit) {
            last = Bound::Excluded(key.map_err(|error| StoreError::unavailable(COUNT, error))?);
            found += 1;
        }
        self.count.fetch_add(found as u64, Ordering::AcqRel);
        *counted = if found < limit { Counted::All } else { Counted::UpTo(last) };
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> PublicId {
        PublicId::from_bytes([number; PublicId::LEN])
    }

    /// Each record is counted once, whether it comes or goes before the count
    /// reaches it or after.
    #[test]
    fn those_who_come_and_go_meanwhile_are_counted_once() {
        let database = sled::Config::new().temporary(true).open().expect("a scratch database");
        let records = database.open_tree("records").expect("a tree");
        let add = |tally: &Tally, number: u8| {
            let put = || {
                records.insert(id(number).as_bytes(), &[]).expect("written");
                Ok(())
            };
            tally.add(id(number), put).expect("it works");
        };
        let remove = |tally: &Tally, number: u8| {
            let take = || {
                records.remove(id(number).as_bytes()).expect("removed");
                Ok(())
            };
            tally.remove(id(number), take).expect("it works");
        };
        for number in [10, 20, 30, 40, 50, 60] {
            records.insert(id(number).as_bytes(), &[]).expect("written");
        }
        let tally = Tally::new(None);
        add(&tally, 15);
        assert_eq!(tally.count_on(&records, 4).expect("it works"), 4, "10, 15, 20 and 30");
        assert_eq!(tally.known(), None, "40, 50 and 60 are not counted");
        add(&tally, 5);
        add(&tally, 29);
        add(&tally, 45);
        remove(&tally, 10);
        remove(&tally, 30);
        remove(&tally, 60);
        assert_eq!(tally.count_on(&records, 4).expect("it works"), 3, "40, 45 and 50");
        assert_eq!(tally.known(), Some(records.len() as u64), "as many as there are");
        assert_eq!(tally.count_on(&records, 4).expect("it works"), 0, "it is done");
        remove(&tally, 50);
        add(&tally, 70);
        add(&tally, 80);
        assert_eq!(tally.known(), Some(records.len() as u64), "as many as there are, later");
    }

    #[test]
    fn what_a_clean_stop_has_left_is_known_at_once() {
        assert_eq!(Tally::new(Some(7)).known(), Some(7));
    }
}
