//! The sessions of an application that are adopted, in the application's Redis.
//!
//! Each is one key, `PREFIX` and the id, a string. It is read and nothing else: the
//! user needs no right to write, and a replica will do. What makes a session of it
//! is [`Reading::read`].

use std::time::Duration;

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
    foreign::{Foreign, ForeignId, Reading, Source},
    store::{Result, StoreError},
};

/// The application's Redis.
pub struct ForeignRedis {
    servers: Servers,
    key_prefix: String,
    reading: Reading,
    timeout: Duration,
    pending: Semaphore,
}

const WAITING: &str = "too many sessions are being read from the application's redis";

const FETCH: &str = "read a session of the application";

/// What PTTL says of a key that is not there, and of one that stays.
const NO_KEY: i64 = -2;
const NO_END: i64 = -1;

impl ForeignRedis {
    /// Starts to connect and goes on trying. Needs a tokio runtime.
    pub fn start(options: &RedisOptions, reading: Reading) -> Self {
        Self {
            servers: Servers::start(options, None, Timekeeper::idle()),
            key_prefix: options.key_prefix.clone(),
            reading,
            timeout: options.timeout,
            pending: Semaphore::new(options.max_pending),
        }
    }

    async fn read(&self, id: &ForeignId) -> Result<Option<Foreign>> {
        let place = self.pending.try_acquire();
        let _place = place.map_err(|_| StoreError::overloaded(FETCH, WAITING))?;
        let key = format!("{}{}", self.key_prefix, id.expose());
        // No more than a session may have, however much there is; and an octet more,
        // to see that there is.
        let most = self.reading.most_bytes().to_string();
        let text = self.ask("GETRANGE", &key, vec![b"0".to_vec(), most.into_bytes()]);
        let life = self.ask("PTTL", &key, Vec::new());
        let both = async { tokio::try_join!(text, life) };
        let late = |_| Failure::Lost(format!("no answer within {:?}", self.timeout));
        let answers = timeout(self.timeout, both).await.map_err(late).and_then(|both| both);
        let (text, life) = answers.map_err(|why| self.failed(&why))?;
        let (text, life) = match (text, life) {
            (_, Value::Int(NO_KEY)) => return Ok(None),
            // Nothing, to the application as well.
            (Value::BulkString(text), _) if text.is_empty() => return Ok(None),
            (Value::BulkString(text), Value::Int(NO_END)) => (text, None),
            (Value::BulkString(text), Value::Int(millis)) => {
                (text, Some(Duration::from_millis(millis.unsigned_abs())))
            }
            _ => return Err(self.failed(&Failure::Absurd)),
        };
        let unfit = |why| StoreError::unreadable(FETCH, why);
        Ok(Some(self.reading.read(Bytes::from(text), life).map_err(unfit)?))
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

    /// The key is not told: who knows it knows the id.
    fn failed(&self, why: &Failure) -> StoreError {
        let why = match why {
            Failure::Refused { code, .. } if code == "WRONGTYPE" => {
                return StoreError::unreadable(FETCH, "its key holds something else than a string");
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
