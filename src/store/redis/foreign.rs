//! Adopted sessions of an application, in the application's Redis.
//!
//! Each session is one string key, `PREFIX` followed by the id. The daemon only
//! reads it: the user needs no write permission, and a replica is enough.
//! [`Reading::read`] turns the value into a session.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use redis::Value;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    RedisOptions, Servers,
    command::{Command, Verb},
    failure::Failure,
    time::Timekeeper,
};
use crate::session::{
    foreign::{Foreign, ForeignId, Nameless, Reading, Source},
    store::{Result, StoreError},
};

/// The application's Redis.
pub struct ForeignRedis {
    servers: Servers,
    key_prefix: String,
    reading: Reading,
    timeout: Duration,
    pending: Semaphore,
    /// A session was adopted without its principal, and this was logged.
    nameless: AtomicBool,
}

const WAITING: &str = "too many sessions are being read from the application's redis";

const FETCH: &str = "read a session of the application";

/// The answers of PTTL for a missing key, and for a key without expiry.
const NO_KEY: i64 = -2;
const NO_END: i64 = -1;

impl ForeignRedis {
    /// Starts to connect, and keeps trying. Needs a tokio runtime.
    pub fn start(options: &RedisOptions, reading: Reading) -> Self {
        Self {
            servers: Servers::start(options, None, Arc::default(), Timekeeper::idle()),
            key_prefix: options.key_prefix.clone(),
            reading,
            timeout: options.timeout,
            pending: Semaphore::new(options.max_pending),
            nameless: AtomicBool::new(false),
        }
    }

    async fn read(&self, id: &ForeignId) -> Result<Option<Foreign>> {
        let place = self.pending.try_acquire();
        let _place = place.map_err(|_| StoreError::overloaded(FETCH, WAITING))?;
        let key = format!("{}{}", self.key_prefix, id.expose());
        // Reads no more than a session may have, and one octet more to detect a
        // larger value.
        let most = self.reading.most_bytes().to_string();
        let text = self.ask("GETRANGE", &key, vec![b"0".to_vec(), most.into_bytes()]);
        let life = self.ask("PTTL", &key, Vec::new());
        let both = async { tokio::try_join!(text, life) };
        let late = |_| Failure::Lost(format!("no answer within {:?}", self.timeout));
        let answers = timeout(self.timeout, both).await.map_err(late).and_then(|both| both);
        let (text, life) = answers.map_err(|why| self.failed(&why))?;
        let (text, life) = match (text, life) {
            (_, Value::Int(NO_KEY)) => return Ok(None),
            // The application also treats an empty value as no session.
            (Value::BulkString(text), _) if text.is_empty() => return Ok(None),
            (Value::BulkString(text), Value::Int(NO_END)) => (text, None),
            (Value::BulkString(text), Value::Int(millis)) => {
                (text, Some(Duration::from_millis(millis.unsigned_abs())))
            }
            _ => return Err(self.failed(&Failure::Absurd)),
        };
        let unfit = |why| StoreError::unreadable(FETCH, why);
        let (found, nameless) = self.reading.read(Bytes::from(text), life).map_err(unfit)?;
        if let Some(nameless) = nameless {
            self.tell(nameless);
        }
        Ok(Some(found))
    }

    /// Once, because it is likely to be the same with every session of the application.
    fn tell(&self, found: Nameless) {
        if !self.nameless.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                key_prefix = self.key_prefix,
                pointer = self.reading.principal,
                %found,
                "a session of the application is adopted as anonymous, because adopt.principal \
                 finds no principal in it; \"log out everywhere\" will miss it, and it is not \
                 logged again"
            );
        }
    }

    async fn ask(
        &self,
        command: &'static str,
        key: &str,
        arguments: Vec<Vec<u8>>,
    ) -> std::result::Result<Value, Failure> {
        let verb = Verb::Plain(command);
        self.servers.run(&Command { verb, key, arguments, durable: false }).await
    }

    /// The error does not contain the key, because the key reveals the id.
    fn failed(&self, why: &Failure) -> StoreError {
        let why = match why {
            Failure::Refused { code, .. } if code == "WRONGTYPE" => {
                return StoreError::unreadable(FETCH, "its key does not hold a string");
            }
            Failure::Refused { code, text } if code == "NOPERM" => {
                let prefix = &self.key_prefix;
                format!("{code} {text}; its user needs ~{prefix}* +getrange +pttl +time")
            }
            why => why.to_string(),
        };
        StoreError::unavailable(FETCH, format!("the application's redis: {why}"))
    }
}

impl Source for ForeignRedis {
    fn fetch<'a>(&'a self, id: &'a ForeignId) -> BoxFuture<'a, Result<Option<Foreign>>> {
        self.read(id).boxed()
    }
}
