//! sled's log as it is on the disk.
//!
//! The log is one file of segments of [`SEGMENT_BYTES`]. A segment is a header and
//! messages, one after the other. Everything in it has a number: its offset in all octets
//! that were ever written. A segment keeps its number until sled writes another segment to
//! the same place.
//!
//! sled's recovery passes over what it cannot read: it skips a segment without a header,
//! and the rest of a segment from the first unreadable message on. So this module reads the
//! log in the same way and says what is unreadable.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt};

use super::open::SEGMENT_BYTES;

pub(super) const HEADER_BYTES: usize = 20;
/// No message begins in the last octets of a segment, so many of them.
const MOST_MESSAGE_HEADER_BYTES: usize = 32;
const SEGMENT: u64 = SEGMENT_BYTES as u64;

/// The headers of the segments.
pub(super) struct Log {
    pub len: u64,
    /// By number: the place in the file, and the number up to which the log was stable when
    /// the segment began.
    segments: BTreeMap<u64, Begun>,
    /// Two segments have the same number.
    double: bool,
}

#[derive(Clone, Copy)]
struct Begun {
    offset: u64,
    stable: u64,
}

impl Log {
    pub(super) fn read(log: &File) -> io::Result<Self> {
        let len = log.metadata()?.len();
        let (mut segments, mut double) = (BTreeMap::new(), false);
        for offset in (0..len).step_by(SEGMENT_BYTES) {
            let mut header = [0; HEADER_BYTES];
            match log.read_exact_at(&mut header, offset) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                read => read?,
            }
            let Some((number, stable)) = segment_header(&header) else { continue };
            let Ok(number) = u64::try_from(number) else { continue };
            let stable = u64::try_from(stable).unwrap_or(0);
            double |= segments.insert(number, Begun { offset, stable }).is_some();
        }
        Ok(Self { len, segments, double })
    }

    /// The segments in use, and those that were and are not overwritten: number and offset.
    pub(super) fn segments(&self) -> impl Iterator<Item = (u64, u64)> {
        self.segments.iter().map(|(number, begun)| (*number, begun.offset))
    }

    /// Whether there are segments with this number or a higher one.
    pub(super) fn has_any(&self, from: u64) -> bool {
        self.segments.range(normal(from)..).next().is_some()
    }

    /// Where a recovery begins that has a snapshot up to `from`: the newest segment that is
    /// called stable.
    pub(super) fn first(&self, from: u64) -> u64 {
        let from = normal(from);
        let stable = self.segments.range(from..).map(|(_, begun)| begun.stable).max();
        normal(stable.unwrap_or(0).max(from))
    }

    /// The segments from there on, in order.
    fn tail(&self, from: u64) -> impl Iterator<Item = (u64, u64)> {
        let first = self.first(from);
        self.segments.range(first..).map(|(number, begun)| (*number, begun.offset))
    }

    /// The part of the tail that a recovery reads: it ends at the first gap.
    pub(super) fn joined_tail(&self, from: u64) -> impl Iterator<Item = (u64, u64)> {
        let expected = (self.first(from)..).step_by(SEGMENT_BYTES);
        self.tail(from)
            .zip(expected)
            .map_while(|(segment, number)| (segment.0 == number).then_some(segment))
    }

    /// Whether a recovery would treat everything as torn.
    pub(super) fn lacks_its_beginning(&self, from: u64) -> bool {
        self.has_any(from) && self.joined_tail(from).next().is_none()
    }

    pub(super) fn has_no_gap(&self, from: u64) -> bool {
        self.has_any(from)
            && !self.double
            && !self.lacks_its_beginning(from)
            && self.joined_tail(from).count() == self.tail(from).count()
    }
}

/// The number of the segment that holds the octet with this number.
pub(super) fn normal(number: u64) -> u64 {
    number / SEGMENT * SEGMENT
}

/// The number of a segment in use, and the number up to which the log was stable when it
/// began. `None` if this is not the header of a segment.
pub(super) fn segment_header(header: &[u8; HEADER_BYTES]) -> Option<(i64, i64)> {
    let (sum, rest) = header.split_first_chunk::<4>()?;
    let (begin, rest) = rest.split_first_chunk::<8>()?;
    let (stable, _) = rest.split_first_chunk::<8>()?;
    if !u32::from_le_bytes(*sum) != crc32fast::hash(&header[4..]) {
        return None;
    }
    let number = |octets| i64::from_le_bytes(octets) ^ i64::MAX;
    Some((number(*begin), number(*stable)))
}

/// The number of the segment whose header is at `offset`, if there is one.
pub(super) fn number_at(log: &File, offset: u64) -> io::Result<Option<u64>> {
    let mut header = [0; HEADER_BYTES];
    match log.read_exact_at(&mut header, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    Ok(segment_header(&header).and_then(|(number, _)| u64::try_from(number).ok()))
}

/// Reads segments, one at a time.
pub(super) struct Reader<'a> {
    log: &'a File,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(log: &'a File) -> Self {
        Self { log, buffer: vec![0; SEGMENT_BYTES] }
    }

    /// Whether there are only zeros where a segment could be, up to the end of the file.
    pub(super) fn is_blank(&mut self, offset: u64) -> io::Result<bool> {
        let len = self.fill(offset)?;
        Ok(self.buffer[..len].iter().all(|octet| *octet == 0))
    }

    /// Reads the octets of a segment. Returns how many there are.
    fn fill(&mut self, offset: u64) -> io::Result<usize> {
        let mut len = 0;
        while len < self.buffer.len() {
            match self.log.read_at(&mut self.buffer[len..], offset + len as u64) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(len)
    }

    /// Reads the messages of the segment `number` at `offset`, and calls `each` with the
    /// number of a message and the page that it is about. Returns the number up to which
    /// everything can be read: that of the next segment if all of it can.
    pub(super) fn walk(
        &mut self,
        number: u64,
        offset: u64,
        mut each: impl FnMut(u64, u64),
    ) -> io::Result<u64> {
        let len = self.fill(offset)?;
        let segment = &self.buffer[..len];
        let mut at = HEADER_BYTES;
        while at + MOST_MESSAGE_HEADER_BYTES <= SEGMENT_BYTES {
            match Message::parse(segment.get(at..).unwrap_or_default(), number / SEGMENT) {
                None => return Ok(number + at as u64),
                Some(Message { kind: CAP, .. }) => break,
                Some(message) => {
                    if message.kind >= FIRST_OF_PAGE {
                        each(number + at as u64, message.page);
                    }
                    at += message.len;
                }
            }
        }
        Ok(number + SEGMENT)
    }
}

/// The kind of a message that ends a segment early.
const CAP: u8 = 2;
/// From this kind on, a message is about a page. Those before are cancelled, or about the
/// log itself.
const FIRST_OF_PAGE: u8 = 4;
const LAST_KIND: u8 = 11;

struct Message {
    kind: u8,
    page: u64,
    /// With its header.
    len: usize,
}

impl Message {
    /// The message at the beginning of `octets`. `None` if there is none, or it is damaged,
    /// or it belongs to another segment.
    fn parse(octets: &[u8], segment_number: u64) -> Option<Self> {
        let (sum, mut rest) = octets.split_first_chunk::<4>()?;
        let kind = *rest.split_off_first()?;
        let body_len = usize::try_from(varint(&mut rest)?).ok()?;
        let number = varint(&mut rest)?;
        let page = varint(&mut rest)?;
        if !(1..=LAST_KIND).contains(&kind) || number != segment_number {
            return None;
        }
        let header_len = octets.len() - rest.len();
        let mut found = crc32fast::Hasher::new();
        found.update(rest.get(..body_len)?);
        found.update(&octets[4..header_len]);
        (!found.finalize() == u32::from_le_bytes(*sum)).then_some(Self {
            kind,
            page,
            len: header_len + body_len,
        })
    }
}

/// sled's numbers of 1 to 9 octets.
fn varint(octets: &mut &[u8]) -> Option<u64> {
    let first = *octets.split_off_first()?;
    let mut next = || octets.split_off_first().map(|octet| u64::from(*octet));
    Some(match first {
        0..=240 => u64::from(first),
        241..=248 => 240 + 256 * (u64::from(first) - 241) + next()?,
        249 => 2288 + 256 * next()? + next()?,
        _ => {
            let mut bytes = [0; 8];
            let len = usize::from(first) - 247;
            bytes[..len].copy_from_slice(octets.split_off(..len)?);
            u64::from_le_bytes(bytes)
        }
    })
}
