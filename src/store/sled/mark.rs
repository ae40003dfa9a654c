//! The high-water mark: what is known to be on the disk.
//!
//! sled's recovery passes over what it cannot read, as after a loss of power. It cannot tell
//! a log that never reached the disk from one that was there and is damaged. The mark can:
//! a file beside the log that says
//!
//! - up to which number the log was on the disk at the last sync, and
//! - which segments were in use then, and where.
//!
//! An opening compares the log with the mark before sled opens it.
//!
//! **The mark never says too much.** It is written after the sync that it is about. It is not
//! synced itself, which would double the price of a sync: after a loss of power an older
//! mark may be found. That one says less, and is true all the same, because a number is never
//! used twice, and because [`Phase`] says how a segment may have changed since.
//!
//! There are three slots, each with a checksum: the first for the marks that are synced, at
//! an opening and at a clean stop; the others in turn for those that follow syncs. A loss of
//! power can only tear the latter. The newest whole slot counts.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use parking_lot::Mutex;

use super::{
    log::{Log, Reader, normal, number_at},
    open::SEGMENT_BYTES,
    ownership,
};

/// In the data directory.
pub(super) const MARK_FILE: &str = "mark";
const MAGIC: &[u8; 16] = b"sessiond mark 1\n";
const SLOT_BYTES: usize = 64 << 10;
const SLOTS: usize = 3;
/// Before the segments in a slot: magic, sequence, phase, end, how many segments.
const HEAD_BYTES: usize = 16 + 4 * 8;
/// Of a log of more than 32 GB, the other segments are not compared.
const MOST_SEGMENTS: usize = (SLOT_BYTES - HEAD_BYTES - 4) / 16;
const SEGMENT: u64 = SEGMENT_BYTES as u64;

/// How many segments may be overwritten in part when the power is lost. The log is synced
/// at least once within each segment, so it is one, and one more for certainty.
const MOST_BEING_WRITTEN: usize = 2;

/// What may have happened to the log since the mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing: sled had closed it.
    Closed,
    /// sled has written more. It may have freed segments of the mark, cut them off at the end
    /// of the file, or written others in their place, at most [`MOST_BEING_WRITTEN`] of them
    /// in part.
    Open,
    /// An opening was interrupted. sled fills all free segments with zeros then.
    Opening,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    phase: Phase,
    /// Everything in the log before this number was on the disk.
    end: u64,
    /// The segments in use, by number, with their places in the file.
    segments: BTreeMap<u64, u64>,
}

impl Mark {
    fn encode(&self, sequence: u64) -> Vec<u8> {
        let segments = self.segments.iter().rev().take(MOST_SEGMENTS);
        let head = [sequence, self.phase as u64, self.end, segments.len() as u64];
        let mut slot = MAGIC.to_vec();
        let numbers = segments.flat_map(|(number, offset)| [*number, *offset]);
        slot.extend(head.into_iter().chain(numbers).flat_map(u64::to_le_bytes));
        slot.extend(crc32fast::hash(&slot).to_le_bytes());
        slot
    }

    /// The mark and its sequence, if the slot is whole.
    fn decode(slot: &[u8]) -> Option<(u64, Self)> {
        let numbers = slot.strip_prefix(MAGIC)?;
        let number = |at: usize| {
            let octets = numbers.get(8 * at..)?.first_chunk::<8>()?;
            Some(u64::from_le_bytes(*octets))
        };
        let count = usize::try_from(number(3)?).ok().filter(|count| *count <= MOST_SEGMENTS)?;
        let (content, rest) = slot.split_at_checked(HEAD_BYTES + 16 * count)?;
        if rest.first_chunk::<4>()? != &crc32fast::hash(content).to_le_bytes() {
            return None;
        }
        let phase = match number(1)? {
            0 => Phase::Closed,
            1 => Phase::Open,
            _ => Phase::Opening,
        };
        let segment = |nth: usize| Some((number(4 + 2 * nth)?, number(5 + 2 * nth)?));
        let segments = (0..count).map(segment).collect::<Option<_>>()?;
        Some((number(0)?, Self { phase, end: number(2)?, segments }))
    }
}

/// Whether the content of a file of this name can be ours. It can be empty or zeros, which
/// a loss of power leaves of a new file.
pub(super) fn is_ours(content: &[u8]) -> bool {
    let slots = content.chunks(SLOT_BYTES);
    content.len() <= SLOTS * SLOT_BYTES
        && (content.iter().all(|octet| *octet == 0)
            || slots.take(SLOTS).any(|slot| slot.starts_with(MAGIC)))
}

/// The mark of an open database.
pub(super) struct HighWater(Mutex<Inner>);

struct Inner {
    file: File,
    sequence: u64,
    mark: Mark,
    /// Segments that were not in use at the mark that was found, or are known to be damaged.
    /// sled may still list them. They are never in a mark.
    unused: BTreeSet<u64>,
    /// A write has failed, and that was logged.
    failed: bool,
    /// The store has failed: nothing more is known.
    given_up: bool,
}

/// What an opening has found.
pub(super) enum Found {
    /// The log has all that the mark says.
    Whole(HighWater),
    /// It has not; this is what is missing.
    Missing(String),
}

impl HighWater {
    /// Compares the log of the database in `path` with its mark. `from` is the number up to
    /// which sled has a snapshot. Makes a mark if there is none.
    pub(super) fn open(path: &Path, from: u64) -> io::Result<Found> {
        let file = ownership::private_file(&path.join(MARK_FILE))?;
        let log = match File::open(path.join("db")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            log => Some(log?),
        };
        let (sequence, mark) = match newest(&file)? {
            Some((sequence, mark)) => (sequence, Some(mark)),
            None => (0, None),
        };
        let mut unused = BTreeSet::new();
        if let Some(log) = &log {
            let found = Log::read(log)?;
            match &mark {
                Some(mark) => {
                    if let Some(problem) = missing(log, &found, from, mark)? {
                        return Ok(Found::Missing(problem));
                    }
                    let before = found.segments().map(|(number, _)| number);
                    let before = before.take_while(|number| *number < mark.end);
                    unused.extend(before.filter(|number| !mark.segments.contains_key(number)));
                }
                None => {
                    tracing::warn!(
                        "the data directory has no mark: if the log has lost something, that \
                         is not noticed at this start"
                    );
                    let mut reader = Reader::new(log);
                    for (number, offset) in found.segments() {
                        if reader.walk(number, offset, |_, _| ())? < number + SEGMENT {
                            unused.insert(number);
                        }
                    }
                }
            }
        }
        let mark = mark.unwrap_or_else(|| Mark {
            phase: Phase::Opening,
            end: 0,
            segments: BTreeMap::new(),
        });
        let mut inner = Inner { file, sequence, mark, unused, failed: false, given_up: false };
        inner.mark.phase = Phase::Opening;
        inner.write_synced()?;
        Ok(Found::Whole(Self(Mutex::new(inner))))
    }

    /// Marks that everything before `end` is on the disk. `in_use` lists the segments that are
    /// in use. It is asked if it `is_due`, and when the log has come to another segment: before
    /// that, none that was free can be in use again.
    pub(super) fn raise(
        &self,
        end: u64,
        is_due: bool,
        in_use: impl FnOnce() -> BTreeMap<u64, u64>,
    ) {
        let mut inner = self.0.lock();
        if inner.given_up {
            return;
        }
        let before = &inner.mark;
        let last_segment = |end: u64| normal(end.saturating_sub(1));
        let has_moved = last_segment(before.end) != last_segment(end);
        if is_due || has_moved || before.phase != Phase::Open {
            let unused = &inner.unused;
            let is_in_use = |number: u64| number < end && !unused.contains(&number);
            let segments = in_use().into_iter().filter(|(number, _)| is_in_use(*number)).collect();
            inner.mark = Mark { phase: Phase::Open, end, segments };
        }
        inner.mark.end = end;
        let slot = 1 + inner.sequence as usize % (SLOTS - 1);
        match inner.write(slot) {
            Ok(()) => inner.failed = false,
            Err(_) if inner.failed => {}
            Err(error) => {
                inner.failed = true;
                tracing::warn!(%error, "the mark cannot be written: damage to what is stored from now on may not be noticed");
            }
        }
    }

    /// The number up to which all is known to be on the disk.
    pub(super) fn end(&self) -> u64 {
        self.0.lock().mark.end
    }

    /// Marks nothing any more, because the store has failed.
    pub(super) fn give_up(&self) {
        self.0.lock().given_up = true;
    }

    /// Marks that nothing has changed since, once sled has closed its log. What sled has freed
    /// while it closed is not in use any more.
    pub(super) fn close(&self, log: &File) -> io::Result<()> {
        let mut inner = self.0.lock();
        if inner.given_up {
            return Ok(());
        }
        log.sync_data()?;
        let mut segments = std::mem::take(&mut inner.mark.segments);
        let mut gone = Vec::new();
        for (number, offset) in &segments {
            if number_at(log, *offset)? != Some(*number) {
                gone.push(*number);
            }
        }
        segments.retain(|number, _| !gone.contains(number));
        inner.mark.segments = segments;
        inner.mark.phase = Phase::Closed;
        inner.write_synced()
    }
}

impl Inner {
    fn write(&mut self, slot: usize) -> io::Result<()> {
        self.sequence += 1;
        let slot_at = (slot * SLOT_BYTES) as u64;
        self.file.write_all_at(&self.mark.encode(self.sequence), slot_at)
    }

    fn write_synced(&mut self) -> io::Result<()> {
        self.write(0)?;
        self.file.sync_all()
    }
}

fn newest(file: &File) -> io::Result<Option<(u64, Mark)>> {
    let mut content = vec![0; SLOTS * SLOT_BYTES];
    let mut len = 0;
    while len < content.len() {
        match file.read_at(&mut content[len..], len as u64) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let whole = content.chunks(SLOT_BYTES).filter_map(Mark::decode);
    Ok(whole.max_by_key(|(sequence, _)| *sequence))
}

/// What the log lacks of what the mark says. It is read in full.
fn missing(log: &File, found: &Log, from: u64, mark: &Mark) -> io::Result<Option<String>> {
    let mut reader = Reader::new(log);
    let mut reached = BTreeMap::new();
    // If the snapshot has it all, up to the end of a segment.
    let mut end = if found.has_any(from) { 0 } else { normal(from) };
    for (number, offset) in found.joined_tail(from) {
        let readable = reader.walk(number, offset, |_, _| ())?;
        reached.insert(number, readable);
        end = end.max(readable);
        if readable < number + SEGMENT {
            break;
        }
    }
    if end < mark.end {
        let lost = mark.end - end;
        return Ok(Some(format!(
            "the log (db) ends {lost} bytes before what was on the disk at the last sync"
        )));
    }
    if mark.phase == Phase::Opening {
        return Ok(None);
    }
    let numbers: HashMap<u64, u64> =
        found.segments().map(|(number, offset)| (offset, number)).collect();
    let behind_all = numbers.keys().max().map_or(0, |last| last + SEGMENT);
    let mut holes = Vec::new();
    for (&number, &offset) in &mark.segments {
        let readable = match numbers.get(&offset) {
            // Written in its place since.
            Some(other) if *other >= mark.end => continue,
            Some(other) if *other == number => match reached.get(&number) {
                Some(readable) => *readable,
                None => reader.walk(number, offset, |_, _| ())?,
            },
            // Cut off since. sled's threads cut in any order: one that comes late makes the file
            // longer again, with zeros.
            _ if mark.phase == Phase::Open
                && (offset >= found.len || offset >= behind_all && reader.is_blank(offset)?) =>
            {
                continue;
            }
            _ => number,
        };
        if readable < mark.end.min(number + SEGMENT) {
            holes.push(Hole { number, offset, readable });
        }
    }
    let is_damage = match mark.phase {
        Phase::Closed => !holes.is_empty(),
        _ => holes.len() > MOST_BEING_WRITTEN || are_needed(&mut reader, found, end, &holes)?,
    };
    Ok(holes.first().filter(|_| is_damage).map(|hole| {
        let at = hole.offset + (hole.readable - hole.number);
        format!("the log (db) has a hole: what was written at byte {at} cannot be read")
    }))
}

/// A segment of the mark that cannot be read in full.
struct Hole {
    number: u64,
    offset: u64,
    readable: u64,
}

/// Whether one of the segments was still in use. sled writes to a segment again only when
/// there is a newer message elsewhere for each page in it. So if the readable part of a
/// segment has the newest message for a page, it was not written to again: it is damaged.
fn are_needed(reader: &mut Reader<'_>, found: &Log, end: u64, holes: &[Hole]) -> io::Result<bool> {
    if holes.is_empty() {
        return Ok(false);
    }
    let mut newest = HashMap::<u64, u64>::new();
    for (number, offset) in found.segments().filter(|(number, _)| *number <= normal(end)) {
        reader.walk(number, offset, |message, page| {
            if message < end {
                let newest = newest.entry(page).or_default();
                *newest = message.max(*newest);
            }
        })?;
    }
    let mut needed = false;
    for hole in holes {
        reader.walk(hole.number, hole.offset, |message, page| {
            needed |= newest.get(&page).is_none_or(|newest| *newest <= message);
        })?;
    }
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::sled::open::{OnDamage, OpenError, Opened, open};

    fn opened(path: &Path) -> Result<Opened, OpenError> {
        open(path, 1 << 20, OnDamage::Refuse)
    }

    /// As the committer does it.
    fn sync(opened: &Opened, path: &Path) {
        opened.db.flush().expect("flushed");
        let log = &opened.db.context.pagecache.log;
        let end = (log.stable_offset() + 1) as u64;
        File::open(path.join("db")).expect("a log").sync_data().expect("synced");
        opened.high_water.raise(end, false, || {
            let segments = log.iter_from(0).segments.into_iter();
            segments.map(|(number, offset)| (number as u64, offset)).collect()
        });
    }

    /// A database whose log was written several times over, and the marks that were there
    /// meanwhile.
    fn churned() -> (tempfile::TempDir, Vec<Vec<u8>>) {
        let directory = tempfile::tempdir().expect("a scratch folder");
        let database = opened(directory.path()).expect("it opens");
        let mut marks = Vec::new();
        let log = File::open(directory.path().join("db")).expect("a log");
        for round in 0..1000_u32 {
            for number in 0..120_u32 {
                // A part of them changes in each round.
                if round == 0 || (number + round) % 3 == 0 {
                    database
                        .db
                        .insert(number.to_be_bytes(), vec![round as u8; 60_000])
                        .expect("taken");
                }
                if number % 20 == 0 {
                    sync(&database, directory.path());
                }
            }
            marks.push(fs::read(directory.path().join(MARK_FILE)).expect("a mark"));
            let (_, last) =
                newest(&open_mark(directory.path())).expect("readable").expect("a mark");
            let written = last.end / SEGMENT;
            let places = log.metadata().expect("a size").len() / SEGMENT;
            // sled frees segments late while other threads stand still within its epochs.
            if round >= 40 && written > places + 5 {
                break;
            }
            assert!(round < 999, "expected segments to be used again: {written} in {places}");
        }
        drop(database);
        (directory, marks)
    }

    fn open_mark(path: &Path) -> File {
        File::open(path.join(MARK_FILE)).expect("a mark")
    }

    fn missing_in(path: &Path) -> Option<String> {
        let log = File::open(path.join("db")).expect("a log");
        let found = Log::read(&log).expect("readable");
        let (_, mark) = newest(&open_mark(path)).expect("readable").expect("a mark");
        let covered = crate::store::sled::snapshots::covered(path).expect("readable");
        missing(&log, &found, covered, &mark).expect("readable")
    }

    /// A loss of power may leave any older mark.
    #[test]
    fn an_older_mark_is_true_as_well() {
        let (directory, marks) = churned();
        let path = directory.path();
        assert_eq!(missing_in(path), None, "after a clean stop");
        for (number, mark) in marks.iter().enumerate() {
            fs::write(path.join(MARK_FILE), mark).expect("written");
            assert_eq!(missing_in(path), None, "with the mark after round {number}");
        }
        drop(opened(path).expect("it opens"));
        assert_eq!(missing_in(path), None, "after another clean stop");
    }

    /// sled's threads cut free segments off the end of the file in any order. The one that comes
    /// last can make the file longer again.
    #[test]
    fn places_that_were_cut_off_may_be_back_with_zeros() {
        let (directory, _) = churned();
        let log = File::options().write(true).open(directory.path().join("db")).expect("a log");
        let (_, closed) = newest(&open_mark(directory.path())).expect("readable").expect("a mark");
        let len = Log::read(&File::open(directory.path().join("db")).expect("a log"));
        let len = len.expect("readable").len.next_multiple_of(SEGMENT);
        let mut mark = Mark { phase: Phase::Open, ..closed };
        // Free ones at the end, which an earlier mark had: their numbers are not used any more.
        let known = |number: &u64| !mark.segments.contains_key(number);
        let gone: Vec<_> = (0..mark.end).step_by(SEGMENT_BYTES).filter(known).take(4).collect();
        assert_eq!(gone.len(), 4, "expected many segments to be free");
        mark.segments.extend(gone.into_iter().zip((len..).step_by(SEGMENT_BYTES)));
        let said = || {
            let log = File::open(directory.path().join("db")).expect("a log");
            let found = Log::read(&log).expect("readable");
            missing(&log, &found, 0, &mark).expect("readable")
        };
        assert_eq!(said(), None, "they are cut off");
        log.set_len(len + 3 * SEGMENT + SEGMENT / 2).expect("longer");
        assert_eq!(said(), None, "and are back");
        for place in 0..3 {
            log.write_all_at(b"x", len + place * SEGMENT + 77).expect("damaged");
        }
        let said = said().expect("expected damage to be noticed");
        assert!(said.contains("has a hole"), "{said}");
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let scratch = tempfile::NamedTempFile::new().expect("a file");
        let file = scratch.reopen().expect("opened");
        assert_eq!(newest(&file).expect("readable"), None, "of an empty file");
        let mark =
            |end| Mark { phase: Phase::Open, end, segments: [(end, 7), (end + 1, 9)].into() };
        for (slot, sequence) in [(0, 4), (1, 6), (2, 5)] {
            let at = (slot * SLOT_BYTES) as u64;
            file.write_all_at(&mark(sequence).encode(sequence), at).expect("written");
        }
        for expected in [6, 5, 4] {
            let found = newest(&file).expect("readable");
            assert_eq!(found, Some((expected, mark(expected))));
            let slot = match expected {
                4 => 0,
                6 => 1,
                _ => 2,
            };
            file.write_all_at(b"\xff", (slot * SLOT_BYTES + 50) as u64).expect("torn");
        }
        assert_eq!(newest(&file).expect("readable"), None, "all are torn");
        assert!(is_ours(&fs::read(scratch.path()).expect("readable")), "and yet ours");
    }
}
