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
        store::{Certainty, Change, Result, Touched},
    },
    store::codec,
};

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
        decide: impl Fn(&Record) -> std::result::Result<Record, R>,
    ) -> Result<Option<std::result::Result<Change, R>>> {
        let key = self.key(id);
        let _turn = self.shared.turns.take(id).await;
        let mut stored = self.get(doing, &key, Certainty::Current).await?;
        loop {
            let Some(bytes) = stored else {
                return Ok(None);
            };
            let header = bytes.get(..codec::HEADER_LEN).unwrap_or_default().to_vec();
            let before = decode(bytes, doing, &key)?;
            let after = match decide(&before) {
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
        let decide = |before: &Record| {
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
