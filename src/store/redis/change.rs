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
        data::LARGE_BYTES,
        id::PublicId,
        lifetime::Times,
        record::{Record, Touch},
        store::{Certainty, Change, Result, Touched, run_blocking},
    },
    store::codec,
};

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
    /// be called several times, and merges so many bytes. `None`: there is no record.
    pub(super) async fn replace<R>(
        &self,
        doing: &'static str,
        id: PublicId,
        now: Moment,
        merged: usize,
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
            let (before, decided) = decided(doing, before, merged, decide.clone()).await?;
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
        let replaced = self.replace(TOUCH_IT, id, touch.now, 0, decide).await?;
        Ok(replaced.map(|replaced| match replaced {
            Ok(Change { before, after }) => {
                Touched { moved: before.deadline != after.deadline, record: after }
            }
            Err(record) => Touched { record, moved: false },
        }))
    }
}

/// What is decided about a record. `merged`: how many bytes are merged into its data.
async fn decided<R: Send + 'static>(
    doing: &'static str,
    before: Record,
    merged: usize,
    decide: impl Decide<R>,
) -> Result<(Record, std::result::Result<Record, R>)> {
    let is_large = merged > 0 && before.data.text().len() + merged > LARGE_BYTES;
    let work = move || {
        let decided = decide(&before);
        (before, decided)
    };
    if is_large { run_blocking(doing, work).await } else { Ok(work()) }
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

    /// The thread on which something is decided about a record with this data.
    async fn decides(data: String, merged: usize) -> ThreadId {
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
        let (_, decided) = decided("test it", before, merged, decide).await.expect("it runs");
        decided.expect_err("the thread")
    }

    #[tokio::test]
    async fn large_data_is_merged_on_another_thread() {
        let here = thread::current().id();
        let small = || r#"{"a":1}"#.to_owned();
        let large = || format!(r#"{{"a":"{}"}}"#, "x".repeat(LARGE_BYTES));
        assert_eq!(decides(small(), 7).await, here, "little is merged");
        assert_ne!(decides(large(), 7).await, here, "into large data: expected another thread");
        assert_ne!(decides(small(), LARGE_BYTES).await, here, "much: expected another thread");
        assert_eq!(decides(large(), 0).await, here, "nothing is merged");
    }
}
