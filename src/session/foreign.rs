//! The sessions that an application keeps in its own store: their ids, the store, and how
//! a record is read.
//!
//! [`adoption`](super::adoption) creates sessions from them.

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

/// A session id of the application, signed by a known secret. It is a credential, so Debug
/// prints only the type.
#[derive(Clone, PartialEq, Eq)]
pub struct ForeignId(Box<str>);

impl ForeignId {
    /// In bytes. A longer signed text is not looked up.
    pub const MAX_LEN: usize = 256;

    /// `None` if the text is empty, longer than [`MAX_LEN`](Self::MAX_LEN) bytes or not UTF-8.
    pub fn new(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        (1..=Self::MAX_LEN).contains(&text.len()).then(|| Self(text.into()))
    }

    /// The id itself. Send it to the application's store and use it nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// An id derived from this one. Its public id is the key of the mark; its verifier is the
    /// verifier of the adopted session's first id.
    pub(super) fn derived(&self) -> SessionId {
        SessionId::derived(self.0.as_bytes())
    }
}

impl fmt::Debug for ForeignId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ForeignId")
    }
}

/// The store of the application's sessions. It is only read.
pub trait Source: Send + Sync + 'static {
    /// Reads the session under `id`; `None` if there is none. Fails if the record is
    /// malformed, or if the source cannot be reached.
    fn fetch<'a>(&'a self, id: &'a ForeignId) -> BoxFuture<'a, store::Result<Option<Foreign>>>;
}

/// A session of the application, as it is adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Without the members of the session library. All other members keep their exact bytes.
    pub data: Data,
    /// Empty: anonymous.
    pub principal: Principal,
    /// The idle timeout that it had there.
    pub duration: Option<Duration>,
    /// The time it had left there; `None`: no end.
    pub life: Option<Duration>,
}

/// The format of the application's records: a JSON object that holds the user's data and
/// also members of the session library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `cookie` belongs to the library. Its `originalMaxAge` is the idle timeout, in
    /// milliseconds. Its `expires` is not used, because it dates from the last change and not
    /// from the last request.
    ExpressSession,
    /// `__cust_dur` belongs to the library. It is the session's own idle timeout, in
    /// milliseconds.
    HyperExpressSession,
}

impl Format {
    /// The library's member, and the JSON Pointer (RFC 6901) to the idle timeout.
    fn of_the_library(self) -> (&'static str, &'static str) {
        match self {
            Self::ExpressSession => ("cookie", "/cookie/originalMaxAge"),
            Self::HyperExpressSession => ("__cust_dur", "/__cust_dur"),
        }
    }
}

/// How to read a record of the application.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Which library wrote the records.
    pub format: Format,
    /// The JSON Pointer (RFC 6901) to the principal. Empty: the records hold no principal.
    pub principal: String,
    /// The most bytes of data, without the members of the library.
    pub max_data_bytes: usize,
}

/// Why a record of the application cannot be adopted. The message quotes nothing of it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unfit {
    /// Not a JSON object that session data can be.
    #[error("the application's record: {0}")]
    Data(#[from] DataError),
    /// Too much data, or too much of it is the library's.
    #[error(
        "the application's record has more than {limit_bytes} bytes of data, which is the engine's \
         max_data_bytes"
    )]
    TooLarge {
        /// The engine's `max_data_bytes`.
        limit_bytes: usize,
    },
}

impl Reading {
    /// The bytes that the library's own members may take in a record.
    const LIBRARY_BYTES: usize = 16 << 10;

    /// The size limit of a whole record, in bytes.
    pub fn most_bytes(&self) -> usize {
        self.max_data_bytes.saturating_add(Self::LIBRARY_BYTES)
    }

    /// Reads the record `text`, which has `life` left. Fails if it is not a JSON object or too
    /// large.
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
        // `text` is known to be JSON of a bounded depth. Null has none of the members.
        let value = serde_json::from_slice::<Value>(stored.text()).unwrap_or_default();
        let millis = value.pointer(lifetime).and_then(Value::as_f64).filter(|ms| *ms >= 1.0);
        Ok(Foreign {
            principal: self.principal(&value),
            duration: millis.map(|millis| Duration::from_millis(millis as u64)),
            data,
            life,
        })
    }

    /// The principal: a text or a whole number. Anything else means anonymous.
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
