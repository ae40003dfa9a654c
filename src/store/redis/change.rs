//! How records change: by a create, by a write, and by a touch that sets the session's own idle
//! timeout. Each is sent with what was read, and Redis refuses it if that is out of date.

use std::sync::Arc;

use redis::Value;
use tokio::time::sleep;

use super::{
    FIRST_VERSION, REPLACE, RedisStore, STEP_ASIDE, TOUCH_IT,
    command::{Command, Verb},
    decode,
    failure::Failure,
    principals,
};
use crate::{
    session::{
        clock::Moment,
        id::PublicId,
        lifetime::Times,
        record::{Record, Touch},
        store::{Certainty, Change, Result, StoreError, Touched},
    },
    store::codec,
};

/// Merging into more data than this takes as long as some ten operations. Another thread does
/// it, so that it holds nobody up.
const LARGE_DATA_BYTES: usize = 64 << 10;

/// Makes the new record from the stored one, or refuses.
pub(super) trait Decide<R>:
    Fn(&Record) -> std::result::Result<Record, R> + Clone + Send + 'static
{
}

impl<R, F> Decide<R> for F where
    F: Fn(&Record) -> std::result::Result<Record, R> + Clone + Send + 'static
{
}

impl RedisStore {
    /// Keeps a record if there is none under `id`.
    pub(super) async fn add(
        &self,
        doing: &'static str,
        id: PublicId,
        record: Arc<Record>,
        now: Moment,
    ) -> Result<Option<Arc<Record>>> {
        let key = self.key(id);
        // With the first version, whatever its own is: to the index, a record that does not
        // exist yet is one that is being created.
        self.index(id, &record, FIRST_VERSION, now).await?;
        let arguments =
            vec![self.encode(&record), b"NX".to_vec(), b"PX".to_vec(), self.life(&record, now)];
        let verb = Verb::Plain("SET");
        let command = Command { verb, key: &key, arguments, durable: true };
        match self.run(doing, command).await? {
            Value::Okay => Ok(Some(record)),
            Value::Nil => Ok(None),
            _ => Err(Failure::Absurd.while_doing(doing, &key)),
        }
    }

    /// Changes a record. `decide` makes the new record from the stored one, or refuses. It may
    /// be called several times. `None`: there is no record.
    pub(super) async fn replace<R>(
        &self,
        doing: &'static str,
        id: PublicId,
        now: Moment,
        decide: impl Decide<R>,
    ) -> Result<Option<std::result::Result<Change, R>>>
    where
        R: Send + 'static,
    {
        let key = self.key(id);
        let _turn = self.shared.turns.take(id).await;
        let mut stored = self.get(doing, &key, Certainty::Current).await?;
        loop {
            let Some(bytes) = stored else {
                return Ok(None);
            };
            let header = bytes.get(..codec::HEADER_LEN).unwrap_or_default().to_vec();
            let before = decode(bytes, doing, &key)?;
            let (before, decided) = decided(doing, before, decide.clone()).await?;
            let after = match decided {
                Ok(record) => record,
                Err(refusal) => return Ok(Some(Err(refusal))),
            };
            let comes_first = principals::comes_first(&before, &after, now);
            if comes_first {
                // Again in each round: the entry may have been dropped since the last one.
                self.index(id, &after, after.version, now).await?;
            }
            let arguments = vec![header, self.encode(&after), self.life(&after, now)];
            let verb = Verb::Script(&REPLACE);
            let command = Command { verb, key: &key, arguments, durable: true };
            stored = match self.run(doing, command).await? {
                Value::Int(1) => {
                    let change = Change { before: Arc::new(before), after: Arc::new(after) };
                    self.follow(id, &change, comes_first, now);
                    return Ok(Some(Ok(change)));
                }
                found => super::bytes(found, doing, &key)?,
            };
            // Another daemon was faster, and may have more writers waiting.
            sleep(STEP_ASIDE.mul_f64(rand::random())).await;
        }
    }

    /// A touch that may change how long the session lives. It is rare, and may move the
    /// deadline further than the index of principals allows for, so it goes the way of a write.
    pub(super) async fn touch_for(&self, id: PublicId, touch: Touch) -> Result<Option<Touched>> {
        let decide = move |before: &Record| {
            let Some(Times { deadline, duration, .. }) = touch.apply(before) else {
                return Err(Arc::new(before.clone()));
            };
            Ok(Record { deadline, duration, ..before.clone() })
        };
        let replaced = self.replace(TOUCH_IT, id, touch.now, decide).await?;
        Ok(replaced.map(|replaced| match replaced {
            Ok(Change { before, after }) => {
                Touched { moved: before.deadline != after.deadline, record: after }
            }
            Err(record) => Touched { record, moved: false },
        }))
    }
}

/// What is decided about a record.
async fn decided<R: Send + 'static>(
    doing: &'static str,
    before: Record,
    decide: impl Decide<R>,
) -> Result<(Record, std::result::Result<Record, R>)> {
    let is_large = before.data.text().len() > LARGE_DATA_BYTES;
    let work = move || {
        let decided = decide(&before);
        (before, decided)
    };
    if !is_large {
        return Ok(work());
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(decided) => Ok(decided),
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::unavailable(doing, "the daemon has stopped")),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use bytes::Bytes;

    use super::*;
    use crate::session::{
        data::Data,
        id::VerifierHash,
        record::{Extension, Principal},
    };

    async fn decides(data: String) -> ThreadId {
        let data = Data::parse(Bytes::from(data)).expect("JSON");
        let before = Record {
            verifier: VerifierHash::from_bytes([1; 32]),
            version: 1,
            create_time: Moment::from_unix_millis(0),
            deadline: Moment::from_unix_millis(1),
            duration: None,
            principal: Principal::new(b"").expect("short"),
            data,
            extension: Extension::default(),
        };
        let decide = |_: &Record| Err::<Record, _>(thread::current().id());
        let (_, decided) = decided("test it", before, decide).await.expect("it runs");
        decided.expect_err("the thread")
    }

    #[tokio::test]
    async fn large_data_is_merged_on_another_thread() {
        let here = thread::current().id();
        assert_eq!(decides(r#"{"a":1}"#.to_owned()).await, here);
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(LARGE_DATA_BYTES));
        assert_ne!(decides(large).await, here, "expected another thread");
    }
}
