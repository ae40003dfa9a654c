//! Adoption: the sessions of an application that kept its own before.
//!
//! An authentic cookie whose id is unknown here may be one of that application's.
//! Its record is read there and becomes a session of ours, with an id of ours; the
//! browser gets a new cookie. What is there is never changed.
//!
//! A [mark](Engine::adopt) under the application's id says which session that is.
//! It is made once, in a store of its own, and outlives the session: whoever comes
//! with the old cookie again is led to that session, and to no other when it has
//! ended. So of two requests in parallel one makes the session and both get it, and
//! nothing that was ended here is adopted again.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    clock::Moment,
    credential::{Absence, Presented, Proven},
    data::{Data, DataError},
    engine::{CookieUpdate, Engine, Session},
    error::Result,
    event::EventKind,
    id::{PublicId, SessionId},
    lifetime::MAX_DURATION,
    record::{Claim, Principal, Record},
    store::{self, Certainty, Store, StoreError},
};

/// An id that the application gave, as a known secret has signed it: a credential.
/// Prints its type only.
#[derive(Clone, PartialEq, Eq)]
pub struct ForeignId(Box<str>);

impl ForeignId {
    pub const MAX_LEN: usize = 256;

    /// `None` when no application would give such an id.
    pub fn new(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        (1..=Self::MAX_LEN).contains(&text.len()).then(|| Self(text.into()))
    }

    /// The id itself, for the application's store and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Where its mark is, and what the first id of its session ends in.
    pub(super) fn derived(&self) -> SessionId {
        SessionId::derived(self.0.as_bytes())
    }
}

impl fmt::Debug for ForeignId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ForeignId")
    }
}

/// Where the application keeps its sessions. Nothing is changed there.
pub trait Source: Send + Sync + 'static {
    /// The session under `id`; `None`: there is none. What makes no sense is an
    /// error, and so is a source that can not be asked.
    fn fetch<'a>(&'a self, id: &'a ForeignId) -> BoxFuture<'a, store::Result<Option<Foreign>>>;
}

/// A session of the application, as it goes on here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    pub data: Data,
    pub principal: Principal,
    /// Its own idle lifetime there.
    pub duration: Option<Duration>,
    /// How long it had to live there; `None`: for ever.
    pub life: Option<Duration>,
}

/// How the application writes a session: a JSON object of what is kept for the
/// user, with members of the library's among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `cookie` is the library's: its `originalMaxAge` is the idle lifetime. Its
    /// `expires` is of the last change, and not of the last request.
    ExpressSession,
    /// `__cust_dur` is the library's: the session's own idle lifetime.
    HyperExpressSession,
}

impl Format {
    /// The member that is the library's, and where the idle lifetime is.
    fn of_the_library(self) -> (&'static str, &'static str) {
        match self {
            Self::ExpressSession => ("cookie", "/cookie/originalMaxAge"),
            Self::HyperExpressSession => ("__cust_dur", "/__cust_dur"),
        }
    }
}

/// How a record of the application becomes a session of ours.
#[derive(Debug, Clone)]
pub struct Reading {
    pub format: Format,
    /// Where the principal is (RFC 6901); empty: nowhere.
    pub principal: String,
    pub max_data_bytes: usize,
}

/// Why a record of the application becomes no session. Quotes nothing of it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unfit {
    #[error("the application's record: {0}")]
    Data(#[from] DataError),
    #[error(
        "the application's record has more than {limit_bytes} bytes of data, which is the engine's \
         max_data_bytes"
    )]
    TooLarge { limit_bytes: usize },
}

impl Reading {
    /// What the library itself may take in a record.
    const LIBRARY_BYTES: usize = 16 << 10;

    /// The longest record that is worth reading.
    pub fn most_bytes(&self) -> usize {
        self.max_data_bytes.saturating_add(Self::LIBRARY_BYTES)
    }

    /// The record `text`, which has `life` to live.
    pub fn read(&self, text: Bytes, life: Option<Duration>) -> std::result::Result<Foreign, Unfit> {
        let too_large = Unfit::TooLarge { limit_bytes: self.max_data_bytes };
        if text.len() > self.most_bytes() {
            return Err(too_large);
        }
        let (member, lifetime) = self.format.of_the_library();
        let stored = Data::parse(text)?;
        let data = stored.merge(&[member.to_owned()], &Data::EMPTY)?;
        if data.text().len() > self.max_data_bytes {
            return Err(too_large);
        }
        // It is JSON, and of a bounded depth; null stands for what is not there.
        let value = serde_json::from_slice::<Value>(stored.text()).unwrap_or_default();
        let millis = value.pointer(lifetime).and_then(Value::as_f64).filter(|ms| *ms >= 1.0);
        Ok(Foreign {
            principal: self.principal(&value),
            duration: millis.map(|millis| Duration::from_millis(millis as u64)),
            data,
            life,
        })
    }

    /// Text or a whole number; anything else is nobody.
    fn principal(&self, value: &Value) -> Principal {
        let named = (!self.principal.is_empty()).then(|| value.pointer(&self.principal)).flatten();
        let text = match named {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) if !number.is_f64() => number.to_string(),
            _ => return Principal::default(),
        };
        Principal::new(text.as_bytes()).unwrap_or_default()
    }
}

/// What an engine has for adopting.
pub struct Adoption {
    /// The marks. Swept also when nothing is adopted any more.
    pub marks: Arc<dyn Store>,
    /// `None`: nothing is adopted.
    pub from: Option<Application>,
}

/// Whose sessions are adopted.
pub struct Application {
    pub source: Arc<dyn Source>,
    /// How long a mark stays, at least: it stays as long as the application's record
    /// had to live.
    pub remember: Duration,
}

const ADOPT: &str = "adopt a session of the application";

impl Engine {
    /// Whether what is unknown here may be a session of the application.
    pub(super) fn adopts(&self) -> bool {
        self.adoption.as_ref().is_some_and(|adoption| adoption.from.is_some())
    }

    /// The first of the presented sessions that is live, touched if `slide`, and
    /// adopted if it has to be.
    pub(super) async fn find_or_adopt(
        &self,
        presented: &Presented,
        slide: bool,
    ) -> Result<std::result::Result<(Session, CookieUpdate), Absence>> {
        let absence = match self.find(presented, slide).await? {
            Ok(live) => return Ok(Ok(live)),
            Err(absence) => absence,
        };
        match self.adopt(presented).await? {
            None => Ok(Err(absence)),
            Some(adopted) => {
                let found = self.find(&Presented::adopted(adopted), slide).await?;
                Ok(found.map_err(|other| other.max(absence)))
            }
        }
    }

    /// What the application's ids in a credential prove here, once their sessions
    /// are adopted. `None`: nothing.
    pub(super) async fn adopt(&self, presented: &Presented) -> Result<Option<Vec<Proven>>> {
        let mut proven = Vec::new();
        let Some(Adoption { marks, from: Some(from) }) = &self.adoption else {
            return Ok(None);
        };
        for foreign in presented.foreign() {
            // Theirs look like ours: one that is known here, alive or not, is ours.
            if let Some(own) = SessionId::from_text(foreign.expose().as_bytes())
                && self.store.read(own.public(), Certainty::Current).await?.is_some()
            {
                continue;
            }
            let derived = foreign.derived();
            // For good: were it lost after the session has ended, or was rolled, the
            // application's record would be adopted once more.
            let adopted = match marks.read(derived.public(), Certainty::Durable).await? {
                Some(mark) => Some(marked(&mark)?),
                None => self.take_over(foreign, marks.as_ref(), from).await?,
            };
            proven.extend(adopted.map(|session| {
                let id = derived.with_public(session);
                // What the browser has is to be replaced.
                Proven { verifier: id.verifier_hash(), id, outdated: true }
            }));
        }
        Ok((!proven.is_empty()).then_some(proven))
    }

    /// Makes a session of the application's, and the mark that leads to it. The
    /// mark comes last: nobody gets at a session that has none, and of several
    /// that are made at the same time the one that is marked stays.
    async fn take_over(
        &self,
        foreign: &ForeignId,
        marks: &dyn Store,
        from: &Application,
    ) -> Result<Option<PublicId>> {
        let Some(found) = from.source.fetch(foreign).await? else {
            return Ok(None);
        };
        let now = self.clock.now();
        let (derived, life) = (foreign.derived(), found.life);
        let (session, record) = self.create_adopted(&derived, found, now).await?;
        let mark = Record {
            verifier: derived.verifier_hash(),
            version: 1,
            create_time: now,
            // What is there for ever is remembered for ever.
            deadline: now + life.map_or(Duration::MAX, |life| life.max(from.remember)),
            duration: None,
            principal: Principal::default(),
            data: mark_data(session),
        };
        if marks.create(derived.public(), mark).await?.is_some() {
            self.emit(session, &record.principal, now, EventKind::Created);
            return Ok(Some(session));
        }
        // Another request was quicker. If this fails, what nobody can get at ends
        // by itself.
        let _ = self.store.destroy(session, Claim::Verifier(record.verifier)).await;
        let mark = marks.read(derived.public(), Certainty::Durable).await?;
        Ok(mark.map(|mark| marked(&mark)).transpose()?)
    }

    async fn create_adopted(
        &self,
        derived: &SessionId,
        found: Foreign,
        now: Moment,
    ) -> Result<(PublicId, Arc<Record>)> {
        let lifetime = &self.policy.lifetime;
        let own = found.duration.map(|own| own.min(MAX_DURATION));
        let duration = own.filter(|own| *own != lifetime.duration);
        let deadline = lifetime.deadline(now, duration, now);
        let record = Record {
            verifier: derived.verifier_hash(),
            version: 1,
            create_time: now,
            deadline: found.life.map_or(deadline, |life| deadline.min(now + life)),
            duration,
            principal: found.principal,
            data: found.data,
        };
        loop {
            let id = SessionId::generate(self.entropy.as_ref()).public();
            if let Some(record) = self.store.create(id, record.clone()).await? {
                return Ok((id, record));
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Marked {
    session: String,
}

fn mark_data(session: PublicId) -> Data {
    let text = serde_json::to_string(&Marked { session: session.to_string() });
    Data::parse(text.expect("a text is JSON").into()).expect("an object")
}

/// The session that a mark leads to.
fn marked(mark: &Record) -> store::Result<PublicId> {
    let Marked { session } = serde_json::from_slice(mark.data.text())
        .map_err(|_| StoreError::unreadable(ADOPT, "its mark is none"))?;
    PublicId::from_text(session.as_bytes())
        .ok_or_else(|| StoreError::unreadable(ADOPT, "its mark names no session"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(format: Format, principal: &str) -> Reading {
        Reading { format, principal: principal.to_owned(), max_data_bytes: 200 }
    }

    fn read(format: Format, principal: &str, text: &str) -> Foreign {
        let text = Bytes::copy_from_slice(text.as_bytes());
        reading(format, principal).read(text, None).expect("a session")
    }

    fn principal(text: &str) -> Principal {
        Principal::new(text.as_bytes()).expect("short")
    }

    #[test]
    fn express_session_is_read_without_its_cookie() {
        let record = r#"{"cookie":{"originalMaxAge":1800000,"expires":"2001-01-01T00:00:00.000Z","httpOnly":true,"path":"/"},"n":9007199254740993.10,"passport":{"user":"ann"}}"#;
        let found = read(Format::ExpressSession, "/passport/user", record);
        assert_eq!(
            found.data.text().as_ref(),
            br#"{"n":9007199254740993.10,"passport":{"user":"ann"}}"#,
            "other members keep their exact bytes"
        );
        assert_eq!(found.duration, Some(Duration::from_secs(1800)));
        assert_eq!(found.principal, principal("ann"));
        let found = read(Format::ExpressSession, "", r#"{"cookie":{"originalMaxAge":null}}"#);
        assert_eq!((found.data, found.duration), (Data::EMPTY, None), "a browser-session cookie");
        assert!(found.principal.is_anonymous());
    }

    #[test]
    fn a_custom_duration_is_read_and_not_kept_as_data() {
        let record = r#"{"__cust_dur":2700000,"cookie":"kept","visits":3}"#;
        let found = read(Format::HyperExpressSession, "/visits", record);
        assert_eq!(found.data.text().as_ref(), br#"{"cookie":"kept","visits":3}"#);
        assert_eq!(found.duration, Some(Duration::from_secs(2700)));
        assert_eq!(found.principal, principal("3"));
        assert_eq!(read(Format::HyperExpressSession, "", r#"{"__cust_dur":"x"}"#).duration, None);
    }

    #[test]
    fn what_names_nobody_is_nobody() {
        let long = format!(r#"{{"u":"{}"}}"#, "x".repeat(Principal::MAX_LEN + 1));
        let of = |text: &str| {
            let reading = Reading { max_data_bytes: 1000, ..reading(Format::ExpressSession, "/u") };
            reading.read(Bytes::copy_from_slice(text.as_bytes()), None).expect("a session")
        };
        for text in ["{}", r#"{"u":null}"#, r#"{"u":{"id":1}}"#, r#"{"u":1.5}"#, &long] {
            assert!(of(text).principal.is_anonymous(), "{text}");
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let read = |text: &[u8]| {
            reading(Format::ExpressSession, "").read(Bytes::copy_from_slice(text), None)
        };
        assert!(matches!(read(b"not json"), Err(Unfit::Data(DataError::Syntax { .. }))));
        assert_eq!(read(b"[1]"), Err(Unfit::Data(DataError::NotAnObject)));
        assert_eq!(read(b"\xff"), Err(Unfit::Data(DataError::Encoding)));
        assert_eq!(read(b""), Err(Unfit::Data(DataError::Syntax { line: 1, column: 0 })));
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(200));
        assert_eq!(read(large.as_bytes()), Err(Unfit::TooLarge { limit_bytes: 200 }));
        let library = format!(r#"{{"cookie":{{"path":"{}"}}}}"#, "x".repeat(200));
        read(library.as_bytes()).expect("what is the library's does not count");
        let huge = format!(r#"{{"cookie":{{"path":"{}"}}}}"#, "x".repeat(20 << 10));
        assert_eq!(read(huge.as_bytes()), Err(Unfit::TooLarge { limit_bytes: 200 }));
    }

    #[test]
    fn a_mark_leads_to_its_session() {
        let session = PublicId::from_bytes([7; 12]);
        let mut mark = Record {
            verifier: SessionId::derived(b"x").verifier_hash(),
            version: 1,
            create_time: Moment::from_unix_millis(0),
            deadline: Moment::from_unix_millis(1),
            duration: None,
            principal: Principal::default(),
            data: mark_data(session),
        };
        assert_eq!(marked(&mark).expect("a mark"), session);
        mark.data = Data::EMPTY;
        marked(&mark).expect_err("no mark");
    }
}
