//! The redis store: Redis 7 or Valkey, one server, behind Sentinels, or a cluster.
//!
//! Each session is one key, `PREFIX:ENGINE:PUBLIC_ID`. Its value is a string with the record
//! as [`codec`] writes it. Several daemons may share it; this process caches nothing.
//!
//! | verb | what is sent | round trips |
//! |---|---|---|
//! | read | GET | 1 |
//! | touch | a script: gives the record, and moves its deadline if that is due | 1 |
//! | touch that sets the idle timeout | as write | 2, and 1 more each time it was not |
//! | create | SET NX PX | 1 |
//! | write | GET, then a script: replaces the record if it is still the one that was read | 2, and 1 more each time it was not |
//! | destroy | a script: removes the record if the claim holds | 1 |
//! | scan | INFO and SCAN, then GETs, all at once | 2 |
//! | restore | as write, or as create where there is none | 2, and 1 more each time it was not |
//! | list | a script on the index, then GETs, all at once | 2, and 1 more when an entry is to be dropped |
//!
//! If changes wait for replicas, a durable list sends one more script for each session that
//! no longer belongs to the principal. So does a restore of a record that exists. A durable
//! read is that script.
//!
//! A session that becomes a principal's, by a create or a write, costs one more: its
//! entry in the index of [`principals`] comes first. So does one whose life a write
//! makes much longer.
//!
//! Redis itself removes what is over: each key lives for `expiry_grace` longer than
//! its session. So there is no index by deadline, nothing to sweep, and nobody knows
//! how many sessions there are.
//!
//! | file | holds |
//! |---|---|
//! | [`options`] | where and how records are kept |
//! | [`work`] | how an operation runs: its executor, its time, its turn |
//! | [`url`] | where Redis is |
//! | [`command`] | what is asked of it |
//! | [`change`] | how records change |
//! | [`principals`] | which sessions are whose |
//! | [`scan`] | all records, one server after the other |
//! | [`foreign`] | the sessions of an application that are adopted: another Redis, read only |
//! | [`servers`] | one server or a cluster: who is asked |
//! | [`server`], [`link`] | one server, and a connection that is kept up |
//! | [`wait_batcher`] | changes that wait for replicas |
//! | [`cluster`], [`slots`] | who holds which slot |
//! | [`connect`] | how connections are made, and how Sentinels are asked |
//! | [`spans`] | the spans of commands, for traces |
//! | [`source`] | passwords and certificates, read at each connection |
//! | [`needs`] | what is needed of a server, and what is missing there |
//! | [`time`] | whose time it is |
//! | [`failure`] | what can go wrong, and what it means |

mod change;
mod cluster;
mod command;
mod connect;
mod database;
mod failure;
mod foreign;
mod link;
mod needs;
mod options;
mod principals;
mod scan;
mod server;
mod servers;
mod slots;
mod source;
mod spans;
mod time;
mod url;
mod wait_batcher;
mod work;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use redis::Value;
use tokio::{sync::Semaphore, time::timeout};

use self::{
    command::{
        Command, DESTROY, READ_FOR_GOOD, REMOVE, REPLACE, TOUCH, Verb, destroy_arguments, millis,
        touch_arguments,
    },
    connect::Traffic,
    failure::Failure,
    needs::Needs,
    servers::Servers,
    time::Timekeeper,
    work::{RuntimeExecutors, Turns},
};
pub use self::{
    connect::{Login, Tls},
    foreign::ForeignRedis,
    options::RedisOptions,
    source::{Source, SourceError},
    url::{Address, EXPECTED as EXPECTED_URL, RedisUrl, Target, UnfitUrl},
    wait_batcher::Wait,
};
use super::codec::{self, Layout};
use crate::session::{
    clock::{Clock, Moment},
    id::PublicId,
    record::{Claim, Principal, Record, Touch, Update},
    store::{
        BulkStore, Certainty, Cursor, Listed, Removed, Restored, Result, Scanned, Store,
        StoreError, StoreErrorKind, Swept, Touched, Written,
    },
};

/// Redis with a store for each engine. A clone is another handle.
#[derive(Clone)]
pub struct RedisDatabase {
    shared: Arc<Shared>,
}

struct Shared {
    servers: Servers,
    needs: Arc<Needs>,
    traffic: Arc<Traffic>,
    key_prefix: String,
    timeout: Duration,
    connect_timeout: Duration,
    expiry_grace: Duration,
    pending: Arc<Semaphore>,
    turns: Turns,
    executors: RuntimeExecutors,
    /// Replicas have to confirm what is changed.
    waits: bool,
    record_layout: Layout,
    /// For what a list confirms in the background.
    confirming: Arc<Semaphore>,
    /// Redis has refused a change for lack of memory.
    full: AtomicBool,
}

impl RedisDatabase {
    /// Starts to connect, and keeps trying. Aligns `clock` with the time of Redis. Needs a
    /// tokio runtime.
    pub fn start(options: RedisOptions, clock: Arc<dyn Clock>) -> Self {
        let needs = Arc::new(Needs::new(&options.key_prefix, options.wait.is_some()));
        let traffic = Arc::<Traffic>::default();
        let (tried, counted) = (Some(Arc::clone(&needs)), Arc::clone(&traffic));
        let servers = Servers::start(&options, tried, counted, Timekeeper::new(clock));
        let shared = Shared {
            servers,
            needs,
            traffic,
            key_prefix: options.key_prefix,
            timeout: options.timeout,
            connect_timeout: options.connect_timeout,
            expiry_grace: options.expiry_grace,
            pending: Arc::new(Semaphore::new(options.max_pending)),
            turns: Turns::new(),
            executors: RuntimeExecutors::default(),
            waits: options.wait.is_some(),
            record_layout: options.record_layout,
            confirming: Arc::new(Semaphore::new(1)),
            full: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Waits for the outcome of the first attempt to connect, for a bounded time.
    pub async fn first_contact(&self) -> Result<()> {
        let shared = &self.shared;
        let outcome = timeout(shared.connect_timeout * 2, shared.servers.tried()).await;
        let late = || Err(Failure::Unreached("it takes too long".to_owned()));
        outcome.unwrap_or_else(|_| late()).map_err(|why| why.while_doing(CONNECT, ""))
    }

    /// The store of the engine called `name`.
    pub fn store(&self, name: &str) -> RedisStore {
        let prefix = format!("{}:{name}:", self.shared.key_prefix);
        RedisStore { prefix: prefix.into(), shared: Arc::clone(&self.shared) }
    }
}

/// Records of one engine, in Redis. A clone is another handle.
#[derive(Clone)]
pub struct RedisStore {
    /// Of its keys.
    prefix: Arc<str>,
    shared: Arc<Shared>,
}

const CONNECT: &str = "reach redis";
const USE: &str = "use redis";
const READ: &str = "read a record";
const TOUCH_IT: &str = "touch a record";
const CREATE: &str = "keep a new record";
const WRITE: &str = "change a record";
const DESTROY_IT: &str = "remove a record";
const LIST: &str = "list the sessions of a principal";
const SCAN: &str = "read all records";
const RESTORE: &str = "keep a record of another store";

/// Records that are read in one batch.
const READ_AT_ONCE: usize = 100;
/// The version of a new record.
const FIRST_VERSION: u64 = 1;

/// A writer that lost against another one waits for a random time up to this.
const STEP_ASIDE: Duration = Duration::from_millis(5);

impl RedisStore {
    fn key(&self, id: PublicId) -> String {
        format!("{}{id}", self.prefix)
    }

    async fn run(&self, doing: &'static str, command: Command<'_>) -> Result<Value> {
        let outcome = self.shared.servers.run(&command).await;
        let outcome = outcome.map_err(|why| why.while_doing(doing, command.key));
        self.tell_of_memory(&command, &outcome);
        outcome
    }

    /// Logs the lack of memory once when it begins and once when it ends. Callers get an
    /// error each time.
    fn tell_of_memory(&self, command: &Command<'_>, outcome: &Result<Value>) {
        let full = &self.shared.full;
        match outcome {
            Err(error)
                if error.kind == StoreErrorKind::Full && !full.swap(true, Ordering::Relaxed) =>
            {
                let cause = std::error::Error::source(error).map(ToString::to_string);
                tracing::error!(
                    cause,
                    "redis has no memory left: creations and changes are refused"
                );
            }
            Ok(answer) if full.load(Ordering::Relaxed) && command.has_stored(answer) => {
                full.store(false, Ordering::Relaxed);
                tracing::info!("redis has memory again");
            }
            _ => {}
        }
    }

    async fn record(
        &self,
        doing: &'static str,
        id: PublicId,
        certainty: Certainty,
    ) -> Result<Option<Record>> {
        let key = self.key(id);
        let found = self.get(doing, &key, certainty).await?;
        found.map(|bytes| decode(bytes, doing, &key)).transpose()
    }

    async fn get(
        &self,
        doing: &'static str,
        key: &str,
        certainty: Certainty,
    ) -> Result<Option<Bytes>> {
        let durable = certainty == Certainty::Durable && self.shared.waits;
        let verb = if durable { Verb::Script(&READ_FOR_GOOD) } else { Verb::Plain("GET") };
        let get = Command { verb, key, arguments: Vec::new(), durable };
        bytes(self.run(doing, get).await?, doing, key)
    }

    /// Reads one of several records. An unreadable one is no error.
    async fn found(
        &self,
        doing: &'static str,
        id: PublicId,
        certainty: Certainty,
    ) -> Result<Found> {
        match self.record(doing, id, certainty).await {
            Ok(Some(record)) => Ok(Found::Record(Arc::new(record))),
            Ok(None) => Ok(Found::Nothing),
            Err(error) if error.kind == StoreErrorKind::Unreadable => Ok(Found::Unreadable(error)),
            Err(error) => Err(error),
        }
    }

    fn encode(&self, record: &Record) -> Vec<u8> {
        let mut bytes = Vec::new();
        codec::encode(record, self.shared.record_layout, &mut bytes);
        bytes
    }

    /// Whether a record that is at least as late as `record` is stored durably.
    async fn has_as_late(&self, id: PublicId, record: &Record) -> Result<bool> {
        if !self.shared.waits {
            return Ok(true);
        }
        let found = self.record(RESTORE, id, Certainty::Durable).await?;
        Ok(found.is_some_and(|found| !record.is_later_than(&found)))
    }

    /// How long a key is to live, in milliseconds.
    fn life(&self, record: &Record, now: Moment) -> Vec<u8> {
        self.life_until(record.deadline, now)
    }

    fn life_until(&self, end: Moment, now: Moment) -> Vec<u8> {
        let life = millis(end.since(now)).saturating_add(millis(self.shared.expiry_grace));
        life.clamp(1, MAX_LIFE).to_string().into_bytes()
    }
}

/// What a GET has found.
enum Found {
    Record(Arc<Record>),
    /// Left as it is, for a repair.
    Unreadable(StoreError),
    Nothing,
}

impl Found {
    fn may_be_of(&self, principal: &Principal) -> bool {
        match self {
            Found::Record(record) => record.principal == *principal,
            Found::Unreadable(_) => true,
            Found::Nothing => false,
        }
    }
}

/// The longest life, in milliseconds. Redis counts in 63 bits from 1970 on; a few thousand
/// years are enough.
const MAX_LIFE: u64 = 1 << 47;

/// The value of the key. `None`: there is no such key.
fn bytes(value: Value, doing: &'static str, key: &str) -> Result<Option<Bytes>> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes.into())),
        _ => Err(Failure::Absurd.while_doing(doing, key)),
    }
}

fn decode(bytes: Bytes, doing: &'static str, key: &str) -> Result<Record> {
    let unreadable = |error| StoreError::unreadable(doing, format!("{key}: {error}"));
    codec::decode(bytes).map_err(unreadable)
}

#[async_trait]
impl Store for RedisStore {
    /// With [`Certainty::Durable`], as many replicas confirm it as confirm a change.
    async fn read(&self, id: PublicId, certainty: Certainty) -> Result<Option<Arc<Record>>> {
        self.bounded(READ, move |store| async move {
            Ok(store.record(READ, id, certainty).await?.map(Arc::new))
        })
        .await
    }

    async fn touch(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        self.bounded(TOUCH_IT, move |store| async move {
            if touch.duration.is_some() {
                return store.touch_for(id, touch).await;
            }
            let key = store.key(id);
            let arguments = touch_arguments(&touch, store.shared.expiry_grace);
            let verb = Verb::Script(&TOUCH);
            let command = Command { verb, key: &key, arguments, durable: false };
            let (found, deadline) = match store.shared.servers.run(&command).await {
                Ok(Value::Array(answer)) => {
                    let [record, deadline] = <[_; 2]>::try_from(answer)
                        .map_err(|_| Failure::Absurd.while_doing(TOUCH_IT, &key))?;
                    let deadline = redis::from_redis_value::<u64>(deadline)
                        .map_err(|_| Failure::Absurd.while_doing(TOUCH_IT, &key))?;
                    (bytes(record, TOUCH_IT, &key)?, Some(Moment::from_unix_millis(deadline)))
                }
                Ok(found) => (bytes(found, TOUCH_IT, &key)?, None),
                // Redis takes no changes, or not this one. What it can read is answered.
                Err(why) if why.is_refused() => {
                    let read = store.get(READ, &key, Certainty::Current).await;
                    (read.map_err(|_| why.while_doing(TOUCH_IT, &key))?, None)
                }
                Err(why) => return Err(why.while_doing(TOUCH_IT, &key)),
            };
            let Some(bytes) = found else {
                return Ok(None);
            };
            let mut record = decode(bytes, TOUCH_IT, &key)?;
            let before = record.deadline;
            record.deadline = deadline.unwrap_or(before);
            let record = Arc::new(record);
            store.renew(id, before, &record, touch.now);
            Ok(Some(Touched { record, moved: deadline.is_some() }))
        })
        .await
    }

    async fn create(&self, id: PublicId, record: Record) -> Result<Option<Arc<Record>>> {
        self.bounded(CREATE, move |store| async move {
            let now = record.create_time;
            store.add(CREATE, id, Arc::new(record), now).await
        })
        .await
    }

    async fn write(&self, id: PublicId, update: Arc<Update>) -> Result<Option<Written>> {
        self.bounded(WRITE, move |store| async move {
            let (now, merged) = (update.now, update.edit.merged_bytes());
            store.replace(WRITE, id, now, merged, move |before| update.apply(before)).await
        })
        .await
    }

    async fn destroy(&self, id: PublicId, claim: Claim) -> Result<Option<Removed>> {
        self.bounded(DESTROY_IT, move |store| async move {
            let key = store.key(id);
            let mut verb = &DESTROY;
            let mut arguments = destroy_arguments(&claim, store.shared.waits);
            loop {
                let command =
                    Command { verb: Verb::Script(verb), key: &key, arguments, durable: true };
                let answer = match store.run(DESTROY_IT, command).await {
                    // The key holds a value of another type.
                    Err(error) if error.kind == StoreErrorKind::Unreadable => {
                        let verb = Verb::Plain("DEL");
                        let delete =
                            Command { verb, key: &key, arguments: Vec::new(), durable: true };
                        store.run(DESTROY_IT, delete).await?;
                        return Ok(Some(Removed::Unreadable));
                    }
                    answer => answer?,
                };
                // If the record was removed, it is in an array.
                let (found, removed) = match answer {
                    Value::Array(answer) => {
                        let [record] = <[_; 1]>::try_from(answer)
                            .map_err(|_| Failure::Absurd.while_doing(DESTROY_IT, &key))?;
                        (record, true)
                    }
                    found => (found, false),
                };
                let Some(bytes) = bytes(found, DESTROY_IT, &key)? else {
                    return Ok(None);
                };
                match (decode(bytes.clone(), DESTROY_IT, &key), removed) {
                    (Ok(record), true) => {
                        store.unindex(id, &record);
                        return Ok(Some(Removed::Record(Arc::new(record))));
                    }
                    (Err(_), true) => return Ok(Some(Removed::Unreadable)),
                    (Ok(_), false) => return Ok(None),
                    // Only this process can tell that it cannot be read. Again if it was
                    // replaced in between.
                    (Err(_), false) => {
                        verb = &REMOVE;
                        arguments = vec![bytes.to_vec()];
                    }
                }
            }
        })
        .await
    }

    async fn list(
        &self,
        principal: Principal,
        after: Option<PublicId>,
        limit: usize,
        certainty: Certainty,
    ) -> Result<Listed> {
        self.bounded(LIST, move |store| async move {
            match certainty {
                Certainty::Current => store.list_current(principal, after, limit).await,
                Certainty::Durable => store.list_durable(&principal, after, limit).await,
            }
        })
        .await
    }

    /// Redis removes expired records by itself.
    async fn cleanup(&self, _: Moment, _: usize) -> Result<Swept> {
        Ok(Swept::default())
    }

    fn check(&self) -> Result<()> {
        self.shared.servers.check().map_err(|why| why.while_doing(USE, ""))
    }

    /// A Redis that has taken no changes since the start was never fit for use.
    fn check_reading(&self) -> Result<()> {
        if !self.shared.needs.were_met() {
            return self.check();
        }
        self.shared.servers.check_reading().map_err(|why| why.while_doing(USE, ""))
    }

    /// To count the keys, Redis would have to read all of them.
    fn count(&self) -> Option<u64> {
        None
    }
}

#[async_trait]
impl BulkStore for RedisStore {
    async fn scan(&self, from: Option<Cursor>, limit: usize) -> Result<Scanned> {
        self.bounded(SCAN, move |store| async move { store.scan_in_slice(from, limit).await }).await
    }

    async fn restore(&self, id: PublicId, record: Record, now: Moment) -> Result<Restored> {
        self.bounded(RESTORE, move |store| async move {
            let record = Arc::new(record);
            let newer = Arc::clone(&record);
            let decide = move |before: &Record| {
                if newer.is_later_than(before) { Ok(Record::clone(&newer)) } else { Err(()) }
            };
            // Again if the record came or went in between.
            loop {
                match store.replace(RESTORE, id, now, 0, decide.clone()).await? {
                    Some(Ok(change)) => return Ok(Restored::Replaced(change)),
                    // Whoever put it there may have had no confirmation.
                    Some(Err(())) if store.has_as_late(id, &record).await? => {
                        return Ok(Restored::Kept);
                    }
                    Some(Err(())) | None => {}
                }
                if let Some(record) = store.add(RESTORE, id, Arc::clone(&record), now).await? {
                    return Ok(Restored::Created(record));
                }
            }
        })
        .await
    }
}
