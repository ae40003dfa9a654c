//! The commands and scripts for Redis, each on one key.
//!
//! A script runs on one key, as one step, in any slot of a cluster. Scripts
//! contain only the rules that they must. `touch` judges a deadline where the
//! record is, because a Resolve would otherwise take two round trips; `destroy`
//! judges a claim. Tests compare them with [`Touch::apply`] and
//! [`Claim::holds`]. Everything else is decided here, and stored only if the
//! record is still the one that was read.

use std::{sync::LazyLock, time::Duration};

use redis::{Cmd, Value};

use crate::{
    session::{
        clock::Moment,
        lifetime::Granularity,
        record::{Claim, Principal, Touch},
    },
    store::codec::{DEADLINE_AT, FORMER_LEN, FORMER_TAG, HEADER_LEN, LATEST, RECORD_MIN_LEN},
};

/// A command on one key.
pub(super) struct Command<'a> {
    pub verb: Verb,
    pub key: &'a str,
    pub arguments: Vec<Vec<u8>>,
    /// It may change the record, and the change should survive the loss of the
    /// server.
    pub durable: bool,
}

/// What to do with the key.
#[derive(Clone, Copy)]
pub(super) enum Verb {
    /// A Redis command. The key is its first argument.
    Plain(&'static str),
    Script(&'static LazyLock<Script>),
}

/// A Lua script that Redis runs.
pub(super) struct Script {
    code: String,
    /// The SHA-1 that EVALSHA takes.
    hash: String,
}

impl Script {
    pub(super) fn new(code: String) -> Self {
        Self { hash: redis::Script::new(&code).get_hash().to_owned(), code }
    }
}

impl Command<'_> {
    pub(super) fn to_cmd(&self) -> Cmd {
        match self.verb {
            Verb::Plain(name) => self.with_arguments(redis::cmd(name)),
            Verb::Script(script) => self.of_script("EVALSHA", &script.hash),
        }
    }

    /// The same with the source, for a server that does not know the script;
    /// `None` if this is not a script.
    pub(super) fn to_cmd_with_source(&self) -> Option<Cmd> {
        match self.verb {
            Verb::Plain(_) => None,
            Verb::Script(script) => Some(self.of_script("EVAL", &script.code)),
        }
    }

    /// Whether the answer says that something was stored, which means that
    /// there was enough memory.
    pub(super) fn has_stored(&self, answer: &Value) -> bool {
        match self.verb {
            Verb::Plain(name) => name == "SET" && *answer == Value::Okay,
            Verb::Script(_) => *answer == Value::Int(1),
        }
    }

    fn of_script(&self, command: &str, script: &str) -> Cmd {
        let mut cmd = redis::cmd(command);
        cmd.arg(script).arg(1);
        self.with_arguments(cmd)
    }

    fn with_arguments(&self, mut cmd: Cmd) -> Cmd {
        cmd.arg(self.key);
        for argument in &self.arguments {
            cmd.arg(argument.as_slice());
        }
        cmd
    }
}

/// Returns the record, and its new deadline if that was due to move.
///
/// Lua numbers are exact up to 2^53, which is the year 287396 in milliseconds.
/// The key's expiry is extended before the deadline moves. If the script stops
/// in between, the key ends late and not early.
pub(super) static TOUCH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(format!(
        r"local record = redis.call('GET', KEYS[1])
if not record or #record < {RECORD_MIN_LEN} then return record end
local layout, verifier, _, created, deadline, own = struct.unpack('>Bc32I8I8I8I8', record)
if layout < 1 or layout > {LATEST} or verifier ~= ARGV[1] then return record end
local now, duration, granularity = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if own > 0 then
  duration = own
  granularity = math.min(tonumber(ARGV[5]) or math.ceil(own / {AUTO_FRACTION}), tonumber(ARGV[6]), own)
end
local last = math.huge
if ARGV[7] ~= '' then last = created + tonumber(ARGV[7]) end
if now >= math.min(deadline, last) or deadline >= math.min(now + duration, last) then return record end
deadline = math.min(now + duration + granularity, last)
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', deadline - now + tonumber(ARGV[8])))
redis.call('SETRANGE', KEYS[1], {DEADLINE_AT}, struct.pack('>I8', deadline))
return {{record, string.format('%.0f', deadline)}}"
    ))
});

const AUTO_FRACTION: u32 = Granularity::AUTO_FRACTION;

/// Arguments of [`TOUCH`].
pub(super) fn touch_arguments(touch: &Touch, grace: Duration) -> Vec<Vec<u8>> {
    let Touch { verifier, lifetime, now, .. } = touch;
    let number = |number: u64| number.to_string().into_bytes();
    let granularity = lifetime.granularity.of(lifetime.duration);
    let (own_granularity, own_limit) = match lifetime.granularity {
        Granularity::Auto => (Vec::new(), number(millis(Granularity::AUTO_LIMIT))),
        Granularity::Fixed(fixed) => (number(millis(fixed)), number(u64::MAX)),
    };
    vec![
        verifier.as_bytes().to_vec(),
        number(now.unix_millis()),
        number(millis(lifetime.duration)),
        number(millis(granularity)),
        own_granularity,
        own_limit,
        lifetime.absolute.map(|absolute| number(millis(absolute))).unwrap_or_default(),
        number(millis(grace)),
    ]
}

/// Stores a record in place of the one with the same header, and returns 1.
/// Otherwise it returns the stored value. Every change modifies the header: a
/// Write the version, a touch the deadline.
pub(super) static REPLACE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(format!(
        r"if redis.call('GETRANGE', KEYS[1], 0, {last}) ~= ARGV[1] then return redis.call('GET', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1",
        last = HEADER_LEN - 1
    ))
});

/// What a script does if WAIT follows it and it changes no record. WAIT covers
/// the last write of its connection. The script therefore makes a write that
/// changes nothing. When replicas confirm it, they have also confirmed
/// everything that made the record what it is.
const WRITE_NOTHING: &str = r"local function write_nothing(record)
  if record then
    redis.call('SETRANGE', KEYS[1], 0, string.sub(record, 1, 1))
  else
    redis.call('SET', KEYS[1], '')
    redis.call('DEL', KEYS[1])
  end
end";

/// Returns the record, or that there is none, in a form that WAIT can confirm.
pub(super) static READ_FOR_GOOD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(format!(
        r"{WRITE_NOTHING}
local record = redis.call('GET', KEYS[1])
write_nothing(record)
return record"
    ))
});

/// Removes the record and returns it in an array, if the claim holds. Otherwise
/// it returns the stored value, as it does with a record that it cannot take
/// apart: see [`REMOVE`].
///
/// A verifier that was rolled is in the extension area of layout 2.
pub(super) static DESTROY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(format!(
        r"{WRITE_NOTHING}
local function was_rolled(record, at)
  if #record < at + 1 then return false end
  local stop = at + 2 + struct.unpack('>H', record, at)
  at = at + 2
  if #record < stop - 1 then return false end
  while at + 3 <= stop do
    local tag, size = struct.unpack('>BH', record, at)
    at = at + 3
    if at + size > stop then return false end
    if tag == {FORMER_TAG} then
      for former = at, at + size - {FORMER_LEN}, {FORMER_LEN} do
        local verifier, rolled = struct.unpack('>c32I8', record, former)
        if verifier == ARGV[2] and rolled > tonumber(ARGV[4]) then return true end
      end
    end
    at = at + size
  end
  return false
end
local is_waited_for = ARGV[3] == '{WAITED_FOR}'
local record = redis.call('GET', KEYS[1])
if not record and is_waited_for then write_nothing(record) end
if not record or #record < {RECORD_MIN_LEN} then return record end
local layout, verifier, _, length = struct.unpack('>Bc32c32H', record)
if layout < 1 or layout > {LATEST} or length > {longest} or #record < {RECORD_MIN_LEN} + length then return record end
local holds = ARGV[1] == '{OPERATOR}'
  or ARGV[1] == '{PRESENTED}' and (verifier == ARGV[2] or layout > 1 and was_rolled(record, {RECORD_MIN_LEN} + length + 1))
  or ARGV[1] == '{PRINCIPAL}' and string.sub(record, {RECORD_MIN_LEN} + 1, {RECORD_MIN_LEN} + length) == ARGV[2]
if not holds then
  if is_waited_for then write_nothing(record) end
  return record
end
redis.call('DEL', KEYS[1])
return {{record}}",
        longest = Principal::MAX_LEN
    ))
});

/// Removes this value and returns it in an array. If there is another one, it
/// returns that.
pub(super) static REMOVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"local record = redis.call('GET', KEYS[1])
if record ~= ARGV[1] then return record end
redis.call('DEL', KEYS[1])
return {record}"
            .to_owned(),
    )
});

const PRESENTED: &str = "presented";
const PRINCIPAL: &str = "principal";
const OPERATOR: &str = "operator";
const WAITED_FOR: &str = "waited for";

/// Arguments of [`DESTROY`]. `is_waited_for`: a WAIT follows it.
pub(super) fn destroy_arguments(claim: &Claim, is_waited_for: bool) -> Vec<Vec<u8>> {
    let mut rolled_after = Moment::LAST;
    let (kind, value) = match claim {
        Claim::Presented { verifier, rolled_after: moment } => {
            rolled_after = *moment;
            (PRESENTED, verifier.as_bytes().to_vec())
        }
        Claim::Principal(principal) => (PRINCIPAL, principal.as_bytes().to_vec()),
        Claim::Operator => (OPERATOR, Vec::new()),
    };
    let waited_for = if is_waited_for { WAITED_FOR } else { "" };
    let rolled_after = rolled_after.unix_millis().to_string().into_bytes();
    vec![kind.as_bytes().to_vec(), value, waited_for.as_bytes().to_vec(), rolled_after]
}

/// Whole milliseconds, rounded up as [`Moment`] does when it adds.
pub(super) fn millis(span: Duration) -> u64 {
    (Moment::from_unix_millis(0) + span).unix_millis()
}
