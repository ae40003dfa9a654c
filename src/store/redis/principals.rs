//! The index of principals: which sessions belong to which principal.
//!
//! Each principal has one key, `PREFIX:ENGINE:p:HASH`, in a slot of its own. It
//! is a sorted set with all scores 0, which Redis orders by member. A member,
//! an [`Entry`], is 36 octets, integers big-endian:
//!
//! | octets | field |
//! |---|---|
//! | 12 | public id |
//! | 8 | the version at which the session started to belong to the principal, or a later one |
//! | 8 | when the entry was written, ms, by the server's clock |
//! | 8 | the latest time at which the session can end, ms, by the server's clock |
//!
//! There is no transaction over two keys. An entry is written before the
//! session belongs to the principal, and removed after it no longer does. A
//! crash can therefore leave only an orphaned entry. A reader compares each
//! entry with its record ([`Entry::is_void`]). It leaves an entry alone if a
//! change in progress may need it: the entry is young, and its version is later
//! than the record's or the record has yet to be created. An entry is removed
//! only in the exact form in which it was read, so one that was rewritten
//! meanwhile stays.
//!
//! The index is not told when Redis removes a session. Each new entry therefore
//! removes some entries that are past their end, and the key itself expires.
//!
//! **Ends.** Deadlines fall into cells of [`CELL`]. When a touch or a Write
//! moves one into another cell, the entry is rewritten, and no caller waits for
//! that. An entry and its key last until the end of the cell after the
//! deadline's cell, and then for as long as the session still has to live: see
//! [`end`]. A touch's renewal may therefore be lost: the entry still ends no
//! earlier than its session, provided that the next renewal succeeds. A Write
//! may move a deadline further than that. In that case the entry is written
//! first, like a new one: see [`comes_first`].

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use futures_util::{StreamExt, TryStreamExt, stream};
use redis::{Value, from_redis_value};
use sha2::{Digest, Sha256};

use super::{
    Found, LIST, READ_AT_ONCE, RedisStore,
    command::{Command, Script, Verb, millis},
    failure::Failure,
};
use crate::session::{
    clock::Moment,
    id::PublicId,
    record::{Principal, Record},
    store::{Certainty, Change, Listed, Result},
};

const CELL: Duration = Duration::from_secs(24 * 3600);
/// A change that is older than this is no longer in progress:
/// `store.redis.timeout` is at most a minute.
const SETTLED: Duration = Duration::from_secs(300);
/// The most entries of one request.
const LONGEST_SLICE: usize = 1000;

const INDEX: &str = "index a principal";
const UNINDEX: &str = "drop an entry of a principal";

/// Writes an entry in place of earlier ones of its session, extends the key's
/// expiry to match, and removes some entries that are past their end. The
/// expiry is extended even if there is no memory for the entry, because the
/// entry may already exist.
static WRITE_ENTRY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"local time = redis.call('TIME')
local now, life = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[3])
local entry = ARGV[1] .. ARGV[2] .. struct.pack('>I8I8', now, now + life)
local written = redis.pcall('ZADD', KEYS[1], 0, entry)
if redis.call('PTTL', KEYS[1]) < life then redis.call('PEXPIRE', KEYS[1], string.format('%.0f', life)) end
if type(written) == 'table' then return written end
redis.call('ZREMRANGEBYLEX', KEYS[1], '[' .. ARGV[1], '(' .. entry)
for _, other in ipairs(redis.call('ZRANDMEMBER', KEYS[1], 4)) do
  if #other == #entry and struct.unpack('>I8', other, 29) < now then redis.call('ZREM', KEYS[1], other) end
end
return 1"
            .to_owned(),
    )
});

/// Returns the server's time, and some entries in order.
static READ_ENTRIES: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {now, redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], '+', 'LIMIT', 0, ARGV[2])}"
            .to_owned(),
    )
});

/// A member of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    member: Vec<u8>,
    id: PublicId,
    version: u64,
    written: Moment,
}

impl Entry {
    const LEN: usize = PublicId::LEN + 3 * 8;

    /// `None` if it is not an entry of ours.
    fn of(member: Vec<u8>) -> Option<Self> {
        let octets: &[u8; Self::LEN] = member.as_slice().try_into().ok()?;
        let (id, numbers) = octets.split_first_chunk::<{ PublicId::LEN }>()?;
        let number = |at: usize| numbers[at..at + 8].try_into().ok().map(u64::from_be_bytes);
        let (id, version) = (PublicId::from_bytes(*id), number(0)?);
        let written = Moment::from_unix_millis(number(8)?);
        Some(Self { id, version, written, member })
    }

    /// Whether nothing can need the entry any more. `stored` is the session as
    /// it was read after the entry, and it does not belong to the principal.
    fn is_void(&self, stored: Option<&Record>, now: Moment) -> bool {
        let change_may_come = match stored {
            Some(record) => record.version < self.version,
            // A Write needs an existing record.
            None => self.version <= 1,
        };
        !change_may_come || now.since(self.written) > SETTLED
    }
}

/// The number of the deadline's cell.
fn cell(deadline: Moment) -> u64 {
    deadline.unix_millis() / millis(CELL)
}

/// When the index may forget a session with this deadline, as of `now`. While
/// the session lives, a touch moves it at most to `deadline` plus the life that
/// remains at `now`, and the cell of that has ended by then.
fn end(deadline: Moment, now: Moment) -> Moment {
    let cells = cell(deadline).saturating_add(2).saturating_mul(millis(CELL));
    Moment::from_unix_millis(cells) + deadline.since(now)
}

/// Whether the index must be written before a change: the session moves to
/// another principal, or the existing entry may end before the session.
///
/// The existing entry was written when the deadline entered its cell, or later.
/// The session's remaining life was then at most one cell shorter than it is
/// now. The entry therefore lasts for the next cell, and for as many cells as
/// there are in the remaining life.
pub(super) fn comes_first(before: &Record, after: &Record, now: Moment) -> bool {
    before.principal != after.principal || !is_covered(before.deadline, after.deadline, now)
}

fn is_covered(before: Moment, after: Moment, now: Moment) -> bool {
    let left = cell(Moment::from_unix_millis(0) + before.since(now));
    cell(after).saturating_sub(cell(before)) <= left.max(1)
}

/// Whether the entry must be rewritten after a change of `before`, in the
/// background. A longer duration within a cell is such a change, because later
/// changes build on it.
fn is_followed(before: &Record, after: &Record) -> bool {
    let is_longer = before.duration != after.duration && before.deadline < after.deadline;
    is_longer || is_in_a_later_cell(before.deadline, after.deadline)
}

fn is_in_a_later_cell(before: Moment, after: Moment) -> bool {
    cell(before) < cell(after)
}

/// A part of the index, and its sessions.
struct Part {
    listed: Listed,
    /// Members that nothing needs, judged with the requested certainty.
    void: Vec<Vec<u8>>,
}

impl RedisStore {
    fn index_key(&self, principal: &Principal) -> String {
        // Half of the hash. If two principals share it, their sessions are
        // listed under one key, and the record tells which principal a session
        // belongs to.
        let hash = &Sha256::digest(principal.as_bytes())[..16];
        format!("{}p:{}", self.prefix, BASE64URL.encode(hash))
    }

    /// Writes the entry of `record`. Call it before `record`, which was just
    /// read or made, is stored. `version` is the record's version, or the first
    /// version if there is no record yet. Otherwise the entry would be treated
    /// as a leftover of an ended session.
    pub(super) async fn index(
        &self,
        id: PublicId,
        record: &Record,
        version: u64,
        now: Moment,
    ) -> Result<()> {
        if record.principal.is_anonymous() {
            return Ok(());
        }
        self.write_entry(id, record, version, now, true).await
    }

    async fn write_entry(
        &self,
        id: PublicId,
        record: &Record,
        version: u64,
        now: Moment,
        durable: bool,
    ) -> Result<()> {
        let key = self.index_key(&record.principal);
        let version = version.to_be_bytes().to_vec();
        let life = self.life_until(end(record.deadline, now), now);
        let arguments = vec![id.as_bytes().to_vec(), version, life];
        let verb = Verb::Script(&WRITE_ENTRY);
        let command = Command { verb, key: &key, arguments, durable };
        match self.run(INDEX, command).await? {
            Value::Int(1) => Ok(()),
            _ => Err(Failure::Absurd.while_doing(INDEX, &key)),
        }
    }

    /// Updates the index after a Write. `is_indexed`: its entry was written
    /// first.
    pub(super) fn follow(&self, id: PublicId, change: &Change, is_indexed: bool, now: Moment) {
        let Change { before, after } = change;
        if before.principal != after.principal {
            self.unindex(id, before);
        } else if !is_indexed && is_followed(before, after) {
            self.write_entry_aside(id, after, now);
        }
    }

    /// Updates the index after a touch that moved the deadline from `before`.
    pub(super) fn renew(&self, id: PublicId, before: Moment, record: &Arc<Record>, now: Moment) {
        if is_in_a_later_cell(before, record.deadline) {
            self.write_entry_aside(id, record, now);
        }
    }

    /// No caller waits for this. If it fails, there is the time of a cell for
    /// another attempt.
    fn write_entry_aside(&self, id: PublicId, record: &Arc<Record>, now: Moment) {
        if record.principal.is_anonymous() {
            return;
        }
        let record = Arc::clone(record);
        self.aside(INDEX, |store| async move {
            store.write_entry(id, &record, record.version, now, false).await
        });
    }

    /// Removes the entries of a session that no longer belongs to the principal
    /// of `last`. No caller waits for this. A remaining entry is removed by a
    /// list, or expires.
    ///
    /// Entries of a later version stay: the session may belong to the same
    /// principal again.
    pub(super) fn unindex(&self, id: PublicId, last: &Record) {
        if last.principal.is_anonymous() {
            return;
        }
        let key = self.index_key(&last.principal);
        let of_session = [b"[", id.as_bytes().as_slice()].concat();
        let up_to = [of_session.as_slice(), &last.version.to_be_bytes(), &[0xff; 17]].concat();
        self.aside(UNINDEX, |store| async move {
            let verb = Verb::Plain("ZREMRANGEBYLEX");
            let arguments = vec![of_session, up_to];
            store.run(UNINDEX, Command { verb, key: &key, arguments, durable: false }).await
        });
    }

    /// [`list`](crate::session::store::Store::list), with [`Certainty::Current`].
    ///
    /// If changes wait for replicas, an orphaned entry may belong to a session
    /// whose end is not confirmed. A caller that ends it again must find it.
    /// Such entries are therefore checked again with [`Certainty::Durable`], in
    /// the background and for one list at a time.
    pub(super) async fn list_current(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> Result<Listed> {
        let part = self.part(&principal, after, limit, Certainty::Current).await?;
        if !self.shared.waits {
            self.drop_void(&principal, part.void).await;
        } else if !part.void.is_empty()
            && let Ok(turn) = Arc::clone(&self.shared.confirming).try_acquire_owned()
        {
            self.aside(UNINDEX, |store| async move {
                let _turn = turn;
                store.list_durable(&principal, after, limit).await
            });
        }
        Ok(part.listed)
    }

    /// [`list`](crate::session::store::Store::list), with [`Certainty::Durable`].
    pub(super) async fn list_durable(
        &self,
        principal: &Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> Result<Listed> {
        let part = self.part(principal, after, limit, Certainty::Durable).await?;
        self.drop_void(principal, part.void).await;
        Ok(part.listed)
    }

    async fn part(
        &self,
        principal: &Principal,
        after: Option<PublicId>,
        limit: usize,
        certainty: Certainty,
    ) -> Result<Part> {
        let mut listed = Listed::default();
        if principal.is_anonymous() {
            return Ok(Part { listed, void: Vec::new() });
        }
        let limit = limit.clamp(1, LONGEST_SLICE);
        let (now, mut entries) = self.entries(principal, after, limit + 1).await?;
        if entries.len() > limit {
            entries.truncate(limit);
            listed.next = entries.last().map(|entry| entry.id);
        }
        // A session may have several entries, one after another.
        let mut ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
        ids.dedup();
        let found = stream::iter(ids)
            .map(async |id| {
                let mut found = self.found(LIST, id, Certainty::Current).await?;
                // If no change waits for replicas, this is as certain as after
                // a change.
                let is_sure = certainty == Certainty::Current || !self.shared.waits;
                if !is_sure && !found.may_be_of(principal) {
                    found = self.found(LIST, id, certainty).await?;
                }
                Ok((id, found))
            })
            .buffered(READ_AT_ONCE);
        let found: Vec<(PublicId, Found)> = found.try_collect().await?;
        let mut void = Vec::new();
        for (id, found) in found {
            let stored = match found {
                Found::Record(record) if record.principal == *principal => {
                    listed.records.push((id, record));
                    continue;
                }
                // The record stays, together with its entry.
                Found::Unreadable(_) => {
                    listed.unreadable.push(id);
                    continue;
                }
                Found::Record(record) => Some(record),
                Found::Nothing => None,
            };
            let entries = entries.iter().filter(|entry| entry.id == id);
            let entries = entries.filter(|entry| entry.is_void(stored.as_deref(), now));
            void.extend(entries.map(|entry| entry.member.clone()));
        }
        Ok(Part { listed, void })
    }

    async fn drop_void(&self, principal: &Principal, members: Vec<Vec<u8>>) {
        if members.is_empty() {
            return;
        }
        let key = self.index_key(principal);
        let verb = Verb::Plain("ZREM");
        let drop = Command { verb, key: &key, arguments: members, durable: false };
        // The list is valid even if this fails; the next list tries again.
        let _ = self.run(UNINDEX, drop).await;
    }

    async fn entries(
        &self,
        principal: &Principal,
        after: Option<PublicId>,
        limit: usize,
    ) -> Result<(Moment, Vec<Entry>)> {
        let key = &self.index_key(principal);
        let absurd = || Failure::Absurd.while_doing(LIST, key);
        let from = match after {
            None => b"-".to_vec(),
            Some(id) => [b"(", id.as_bytes().as_slice(), &[0xff; Entry::LEN]].concat(),
        };
        let arguments = vec![from, limit.to_string().into_bytes()];
        let verb = Verb::Script(&READ_ENTRIES);
        let command = Command { verb, key, arguments, durable: false };
        let answer = self.run(LIST, command).await?;
        let (now, members): (u64, Vec<Vec<u8>>) = from_redis_value(answer).map_err(|_| absurd())?;
        let entries = members.into_iter().map(Entry::of).collect::<Option<_>>();
        Ok((Moment::from_unix_millis(now), entries.ok_or_else(absurd)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::{data::Data, id::VerifierHash, record::Extension};

    fn duration() -> impl Strategy<Value = u64> {
        prop_oneof![1..172_800_000u64, 1..34_560_000_000u64]
    }

    fn record(deadline: Moment, duration: u64) -> Record {
        Record {
            verifier: VerifierHash::from_bytes([1; 32]),
            version: 1,
            create_time: deadline,
            deadline,
            duration: Some(Duration::from_millis(duration)),
            principal: Principal::new(b"ann").expect("short"),
            data: Data::EMPTY,
            extension: Extension::default(),
        }
    }

    proptest! {
        /// A session is touched and given other durations while it lives. Of
        /// two renewals in a row, at most one is lost.
        #[test]
        fn the_end_is_not_before_a_deadline_though_a_renewal_is_lost(
            start in 0..3 * 86_400_000u64,
            first in duration(),
            granularity in 0..60_000u64,
            steps in prop::collection::vec(
                (0.0..1.0f64, any::<bool>(), prop::option::weighted(0.2, duration())),
                1..60,
            ),
        ) {
            let mut now = Moment::from_unix_millis(start);
            let mut stored = record(now + Duration::from_millis(first), first);
            let mut own = first;
            let mut kept = end(stored.deadline, now);
            let mut lost_before = false;
            for (wait, is_lost, other) in steps {
                now = now + stored.deadline.since(now).mul_f64(wait);
                own = other.unwrap_or(own);
                let moved = record(now + Duration::from_millis(own + granularity), own);
                // For a touch, the entry is never written first, however far
                // the deadline moves.
                let first = other.is_some() && comes_first(&stored, &moved, now);
                if first || is_followed(&stored, &moved) {
                    lost_before = is_lost && !lost_before && !first;
                    if !lost_before {
                        kept = end(moved.deadline, now);
                    }
                }
                stored = moved;
                let deadline = stored.deadline;
                prop_assert!(kept > deadline, "{kept:?} is not after {deadline:?}");
            }
        }
    }

    #[test]
    fn the_end_of_time_has_an_end() {
        let last = Moment::from_unix_millis(u64::MAX);
        assert_eq!(end(last, Moment::from_unix_millis(0)), last);
    }
}
