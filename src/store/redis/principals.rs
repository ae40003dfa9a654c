//! The index of principals: which sessions are whose.
//!
//! A key for each principal, `PREFIX:ENGINE:p:HASH`, in a slot of its own: a sorted
//! set whose scores are all 0, so that it is ordered by its members. A member,
//! an [`Entry`], is 36 octets, integers big-endian:
//!
//! | octets | field |
//! |---|---|
//! | 12 | public id |
//! | 8 | the version at which the session became the principal's, or a later one |
//! | 8 | when the entry was written, ms, by the server's clock |
//! | 8 | when the session is over at the latest, ms, by the server's clock |
//!
//! There is no transaction over two keys. An entry is written before the session
//! is the principal's and removed after, so what a crash leaves is an entry too
//! many, and whoever meets one judges it by its record ([`Entry::is_void`]). An
//! entry that a change on its way may need is left alone: it has a later version
//! than the record, or the record has yet to be created, and it is young. What is
//! removed is removed as it was read, so one that was written anew stays.
//!
//! Nobody tells the index that Redis has removed a session. So each new entry
//! drops some that are past their end, and the key has a life of its own.
//!
//! **Ends.** Deadlines fall into cells of [`CELL`]. When a touch or a Write moves one
//! into another cell, the entry is written anew, which nobody waits for. An entry,
//! and the key it is in, last until a cell after the one that the deadline is in,
//! and as long again as the session then has to live, see [`end`]. So a touch's
//! renewal may be lost, and the entry still ends no earlier than its session, if
//! the next one is not. A Write may bring a deadline further than that, and then the
//! entry comes first, as a new one does, see [`comes_first`].

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
/// A change of longer ago is on its way no more: `store.redis.timeout` is at most a
/// minute.
const SETTLED: Duration = Duration::from_secs(300);
/// More than this is not asked for in one go.
const LONGEST_SLICE: usize = 1000;

const INDEX: &str = "index a principal";
const UNINDEX: &str = "drop an entry of a principal";

/// Writes an entry in place of earlier ones of its session, has the key live as
/// long, and drops some entries that are past their end. The life is stretched
/// also when there is no memory for the entry: then it may be there already.
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

/// The server's time, and some entries in their order.
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

    /// `None` when it is none of ours.
    fn of(member: Vec<u8>) -> Option<Self> {
        let octets: &[u8; Self::LEN] = member.as_slice().try_into().ok()?;
        let (id, numbers) = octets.split_first_chunk::<{ PublicId::LEN }>()?;
        let number = |at: usize| numbers[at..at + 8].try_into().ok().map(u64::from_be_bytes);
        let (id, version) = (PublicId::from_bytes(*id), number(0)?);
        let written = Moment::from_unix_millis(number(8)?);
        Some(Self { id, version, written, member })
    }

    /// Whether nothing can need it any more. `stored` is what its session was
    /// found to be after the entry was read, and it is not the principal's.
    fn is_void(&self, stored: Option<&Record>, now: Moment) -> bool {
        let change_may_come = match stored {
            Some(record) => record.version < self.version,
            // Whoever writes changes what is there.
            None => self.version <= 1,
        };
        !change_may_come || now.since(self.written) > SETTLED
    }
}

/// The number of the cell.
fn cell(deadline: Moment) -> u64 {
    deadline.unix_millis() / millis(CELL)
}

/// When the index may forget a session that has this deadline, as of `now`. As long
/// as it lives no touch brings it further than `deadline` and its life again, and
/// the cell of that is over by then.
fn end(deadline: Moment, now: Moment) -> Moment {
    let cells = cell(deadline).saturating_add(2).saturating_mul(millis(CELL));
    Moment::from_unix_millis(cells) + deadline.since(now)
}

/// Whether the index has to know of a change before it is made: the session becomes
/// another's, or the entry that is there may end before it.
///
/// That entry was written when the deadline came into its cell, or later, with a life
/// that was a cell shorter than what is left now, at most. So it lasts for the next
/// cell, and for as many as there are in what is left.
pub(super) fn comes_first(before: &Record, after: &Record, now: Moment) -> bool {
    before.principal != after.principal || !is_covered(before.deadline, after.deadline, now)
}

fn is_covered(before: Moment, after: Moment, now: Moment) -> bool {
    let left = cell(Moment::from_unix_millis(0) + before.since(now));
    cell(after).saturating_sub(cell(before)) <= left.max(1)
}

/// Whether a change of `before` is one that the entry follows, aside. A longer life
/// within a cell is one, because later changes build on it.
fn is_followed(before: &Record, after: &Record) -> bool {
    let is_longer = before.duration != after.duration && before.deadline < after.deadline;
    is_longer || is_in_a_later_cell(before.deadline, after.deadline)
}

fn is_in_a_later_cell(before: Moment, after: Moment) -> bool {
    cell(before) < cell(after)
}

/// A part of the index, and the sessions it tells of.
struct Part {
    listed: Listed,
    /// Members that nothing needs, as certain as was asked for.
    void: Vec<Vec<u8>>,
}

impl RedisStore {
    fn index_key(&self, principal: &Principal) -> String {
        // Half of the hash: should two principals share it, their sessions stand
        // together, and the record says whose each is.
        let hash = &Sha256::digest(principal.as_bytes())[..16];
        format!("{}p:{}", self.prefix, BASE64URL.encode(hash))
    }

    /// Call it before `record`, which was read or made just now, is stored. `version`
    /// is the record's, or the first one where there is no record yet: else the entry
    /// would be taken for one that is left of a session that has ended.
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

    /// After a Write. `is_indexed`: its entry came first.
    pub(super) fn follow(&self, id: PublicId, change: &Change, is_indexed: bool, now: Moment) {
        let Change { before, after } = change;
        if before.principal != after.principal {
            self.unindex(id, before);
        } else if !is_indexed && is_followed(before, after) {
            self.write_entry_aside(id, after, now);
        }
    }

    /// After a touch of a session whose deadline was at `before`.
    pub(super) fn renew(&self, id: PublicId, before: Moment, record: &Arc<Record>, now: Moment) {
        if is_in_a_later_cell(before, record.deadline) {
            self.write_entry_aside(id, record, now);
        }
    }

    /// Nobody waits for that: it has a cell's time for another try.
    fn write_entry_aside(&self, id: PublicId, record: &Arc<Record>, now: Moment) {
        if record.principal.is_anonymous() {
            return;
        }
        let record = Arc::clone(record);
        self.aside(INDEX, |store| async move {
            store.write_entry(id, &record, record.version, now, false).await
        });
    }

    /// Drops the entries of a session that is `last`'s principal's no more. Nobody
    /// waits for that: what stays is dropped by a list, or ends by itself.
    ///
    /// Of no later version: the session may be the same principal's again.
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
    /// Where changes wait for replicas, an entry too many may be of a session whose end
    /// is not confirmed, and whoever ends it once more must find it. So such entries are
    /// looked at again, for good: aside, and for one list at a time.
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
        // A session may have several entries, one after the other.
        let mut ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
        ids.dedup();
        let found = stream::iter(ids)
            .map(async |id| {
                let mut found = self.found(LIST, id, Certainty::Current).await?;
                // Where nothing waits, that is as certain as after a change.
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
                // Left as it is, and its entry with it.
                Found::Unreadable(_) => continue,
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
        // The list is good all the same; the next one tries again.
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
    use crate::session::{data::Data, id::VerifierHash};

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
        }
    }

    proptest! {
        /// A session that is touched, and given other durations, while it lives, and no
        /// two renewals in a row come to nothing.
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
                // A touch never comes first, however far it goes.
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
