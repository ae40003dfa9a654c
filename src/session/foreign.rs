//! The sessions of an application that keeps its own: their ids, where they are kept, and
//! how one of them is read.
//!
//! [`adoption`](super::adoption) makes sessions of ours from them.

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{
    data::{Data, DataError},
    id::SessionId,
    record::Principal,
    store,
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
}
