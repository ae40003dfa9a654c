//! The sessions that an application keeps in its own store: their ids, the store, and how
//! a record is read.
//!
//! [`adoption`](super::adoption) creates sessions from them.

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

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
    /// Nobody can say whose session it is.
    #[error(
        "the principal in the application's record holds an unpaired surrogate, which no text can"
    )]
    Principal,
}

/// What a record has in the place of the principal, if it cannot be one. It is not quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nameless {
    /// A text that is longer than [`Principal::MAX_LEN`].
    TooLong {
        /// Of the text in UTF-8.
        len_bytes: usize,
    },
    /// A list, an object, `true`, or a number that is not whole.
    NotText,
}

impl fmt::Display for Nameless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len_bytes } => {
                write!(f, "a text of {len_bytes} bytes, expected at most {}", Principal::MAX_LEN)
            }
            Self::NotText => f.write_str("a value that is neither text nor a whole number"),
        }
    }
}

impl Reading {
    /// The bytes that the library's own members may take in a record.
    const LIBRARY_BYTES: usize = 16 << 10;

    /// The size limit of a whole record, in bytes.
    pub fn most_bytes(&self) -> usize {
        self.max_data_bytes.saturating_add(Self::LIBRARY_BYTES)
    }

    /// Reads the record `text`, which has `life` left. Fails if it cannot be read, or if it is too
    /// large. A session of somebody whose name cannot be a principal is anonymous; then
    /// [`Nameless`] says why.
    ///
    /// Reads whatever `JSON.stringify` writes, also in members that are not looked at: half a
    /// surrogate pair, and numbers of any size.
    pub fn read(
        &self,
        text: Bytes,
        life: Option<Duration>,
    ) -> std::result::Result<(Foreign, Option<Nameless>), Unfit> {
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
        let named = (!self.principal.is_empty()).then(|| find(&stored, &self.principal));
        let (principal, nameless) = match named.flatten().map_or(Ok(Name::Nobody), name)? {
            Name::Nobody => (Principal::default(), None),
            Name::Somebody(text) => match Principal::new(text.as_bytes()) {
                Some(principal) => (principal, None),
                None => {
                    let len_bytes = text.len();
                    (Principal::default(), Some(Nameless::TooLong { len_bytes }))
                }
            },
            Name::Unnamed => (Principal::default(), Some(Nameless::NotText)),
        };
        let duration = find(&stored, lifetime).and_then(millis);
        Ok((Foreign { data, principal, duration, life }, nameless))
    }
}

/// What the value at the principal's place means.
enum Name {
    Nobody,
    Somebody(String),
    /// Somebody, whose name has no form that a principal can have.
    Unnamed,
}

fn name(value: &str) -> std::result::Result<Name, Unfit> {
    let whole = |number: &str| number.bytes().all(|octet| octet.is_ascii_digit());
    Ok(match value.as_bytes() {
        b"null" | b"false" | b"\"\"" => Name::Nobody,
        [b'"', ..] => Name::Somebody(serde_json::from_str(value).map_err(|_| Unfit::Principal)?),
        // With all its digits: an id can be larger than any integer type.
        _ if whole(value.strip_prefix('-').unwrap_or(value)) => Name::Somebody(value.to_owned()),
        _ => Name::Unnamed,
    })
}

/// A duration of at least a millisecond, rounded up. The libraries, too, ignore what is not a
/// number: `originalMaxAge` is null for a cookie that lasts until the browser closes.
fn millis(value: &str) -> Option<Duration> {
    let is_number = value.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    let millis = is_number.then(|| value.parse::<f64>().ok()).flatten()?;
    (millis >= 1.0).then(|| Duration::from_millis(millis.ceil() as u64))
}

/// The JSON text that a JSON Pointer (RFC 6901) names. As for `JSON.parse`, the last of several
/// members of one name counts.
///
/// Values that the pointer passes by are not decoded, so nothing in them can make it fail.
fn find<'d>(data: &'d Data, pointer: &str) -> Option<&'d str> {
    let mut value = serde_json::from_slice::<&RawValue>(data.text()).ok()?;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        let mut json = serde_json::Deserializer::from_str(value.get());
        value = match value.get().as_bytes().first() {
            Some(b'{') => json.deserialize_map(Step(&token)),
            Some(b'[') => json.deserialize_seq(Step(&token)),
            _ => return None,
        }
        .ok()??;
    }
    Some(value.get())
}

/// One reference token of a JSON Pointer.
struct Step<'t>(&'t str);

impl Step<'_> {
    /// As an array's index: digits without leading zeros (RFC 6901, section 4).
    fn index(&self) -> Option<usize> {
        let canonical = self.0 == "0" || !self.0.starts_with(['0', '+']);
        canonical.then(|| self.0.parse().ok()).flatten()
    }
}

impl<'d> Visitor<'d> for Step<'_> {
    type Value = Option<&'d RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'d>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_it) = members.next_key_seed(IsKey(self.0))? {
            match is_it {
                true => found = Some(members.next_value()?),
                false => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'d>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let (mut found, mut at) = (None, 0);
        while let Some(element) = elements.next_element()? {
            if Some(at) == self.index() {
                found = Some(element);
            }
            at += 1;
        }
        Ok(found)
    }
}

/// Compares a key as octets: one with half a surrogate pair is no text, and no pointer names it.
struct IsKey<'t>(&'t str);

impl<'d> DeserializeSeed<'d> for IsKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'d>>(self, key: D) -> Result<bool, D::Error> {
        key.deserialize_bytes(self)
    }
}

impl Visitor<'_> for IsKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<bool, E> {
        Ok(key == self.0.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reading(format: Format, principal: &str) -> Reading {
        Reading { format, principal: principal.to_owned(), max_data_bytes: 200 }
    }

    fn read(format: Format, principal: &str, text: &str) -> Foreign {
        let text = Bytes::copy_from_slice(text.as_bytes());
        let (found, nameless) = reading(format, principal).read(text, None).expect("a session");
        assert_eq!(nameless, None);
        found
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

    /// What `JSON.stringify` writes for half an emoji, and what no number holds: nothing that
    /// stands beside the principal and the duration can hide them.
    #[test]
    fn what_is_not_looked_at_hides_nothing() {
        for beside in [
            r#""nick":"ab\ud83d""#,
            r#""nick":"\udc00\ud83d""#,
            r#""deep":[{"a":["\ud83d"]}]"#,
            r#""deep":{"\ud83d":1}"#,
            r#""n":1e999"#,
            r#""n":[-1e999,{"m":1e-999}]"#,
            r#""n":123456789012345678901234567890"#,
            r#""passport":{"user":"bob"}"#,
        ] {
            let record = format!(
                r#"{{{beside},"cookie":{{"originalMaxAge":600000,"x":"\ud83d"}},"passport":{{"\udfff":1e999,"user":"ann"}}}}"#
            );
            let found = read(Format::ExpressSession, "/passport/user", &record);
            assert_eq!(found.principal, principal("ann"), "beside {beside}");
            assert_eq!(found.duration, Some(Duration::from_secs(600)), "beside {beside}");
        }
    }

    #[test]
    fn a_pointer_is_followed_as_rfc_6901_says() {
        let text = r#"{"a/b":{"m~n":"1","~1":"2"},"":{"":"3"},"l":["4",["5"]],"0":"6","\u0061":"7"," ":"8","d":{"x":"no","x":"9"}}"#;
        let data = Data::parse(Bytes::from_static(text.as_bytes())).expect("an object");
        for (pointer, value) in [
            ("/a~1b/m~0n", "1"),
            ("/a~1b/~01", "2"),
            ("//", "3"),
            ("/l/0", "4"),
            ("/l/1/0", "5"),
            ("/0", "6"),
            ("/a", "7"),
            ("/ ", "8"),
            ("/d/x", "9"),
        ] {
            assert_eq!(find(&data, pointer), Some(&*format!("\"{value}\"")), "{pointer}");
        }
        for pointer in ["/b", "/l/2", "/l/00", "/l/+0", "/l/-", "/l/", "/l/0/0", "/0/0", "/A"] {
            assert_eq!(find(&data, pointer), None, "{pointer}");
        }
    }

    #[test]
    fn a_principal_is_text_or_a_whole_number() {
        for (value, expected) in [
            ("\"ann\"", "ann"),
            ("\"\\u00e9\\ud83d\\ude00\"", "\u{e9}\u{1f600}"),
            ("7", "7"),
            ("0", "0"),
            ("-12", "-12"),
            ("9007199254740993", "9007199254740993"),
            ("340282366920938463463374607431768211456", "340282366920938463463374607431768211456"),
        ] {
            let record = format!(r#"{{"u":{value}}}"#);
            let found = read(Format::ExpressSession, "/u", &record);
            assert_eq!(found.principal, principal(expected), "{record}");
        }
    }

    #[test]
    fn what_names_nobody_is_nobody() {
        for text in ["{}", r#"{"u":null}"#, r#"{"u":false}"#, r#"{"u":""}"#] {
            assert!(read(Format::ExpressSession, "/u", text).principal.is_anonymous(), "{text}");
        }
        assert!(read(Format::ExpressSession, "/u/id", r#"{"u":"ann"}"#).principal.is_anonymous());
    }

    /// The session goes on, and the caller is told that no list will find it.
    #[test]
    fn a_name_that_cannot_be_a_principal_is_told() {
        let len_bytes = Principal::MAX_LEN + 1;
        let of = |value: &str| {
            let reading = Reading { max_data_bytes: 1000, ..reading(Format::ExpressSession, "/u") };
            reading.read(format!(r#"{{"u":{value}}}"#).into(), None)
        };
        for (value, why) in [
            (format!("\"{}\"", "x".repeat(len_bytes)), Nameless::TooLong { len_bytes }),
            ("9".repeat(len_bytes), Nameless::TooLong { len_bytes }),
            (r#"{"id":1}"#.to_owned(), Nameless::NotText),
            ("[1]".to_owned(), Nameless::NotText),
            ("1.5".to_owned(), Nameless::NotText),
            ("1e999".to_owned(), Nameless::NotText),
            ("true".to_owned(), Nameless::NotText),
        ] {
            let (found, nameless) = of(&value).expect("a session");
            assert!(found.principal.is_anonymous(), "{value}");
            assert_eq!(nameless, Some(why), "{value}");
        }
        let longest = "\u{e9}".repeat(Principal::MAX_LEN / 2);
        let (found, nameless) = of(&format!("\"{longest}\"")).expect("a session");
        assert_eq!((found.principal, nameless), (principal(&longest), None));
        assert_eq!(of(r#""ann\ud83d""#), Err(Unfit::Principal), "half an emoji is no name");
    }

    #[test]
    fn a_duration_is_a_number_of_milliseconds() {
        for (value, millis) in [
            ("600000", Some(600_000)),
            ("1", Some(1)),
            ("1.5", Some(2)),
            ("6e5", Some(600_000)),
            ("1e999", Some(u64::MAX)),
            ("0.5", None),
            ("0", None),
            ("-600000", None),
            ("null", None),
            ("false", None),
            ("\"600000\"", None),
            ("{}", None),
        ] {
            let record = format!(
                r#"{{"cookie":{{"originalMaxAge":{value},"expires":"2030-01-01T00:00:00.000Z"}},"u":"ann"}}"#
            );
            let found = read(Format::ExpressSession, "/u", &record);
            assert_eq!(found.duration, millis.map(Duration::from_millis), "{value}");
            assert_eq!(found.principal, principal("ann"), "{value}");
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

    /// JSON as text, with what a parsed value cannot hold: half surrogate pairs, numbers without
    /// bound, keys that come twice.
    fn json() -> impl Strategy<Value = String> {
        let string = prop_oneof![
            Just(r#""\ud83d""#.to_owned()),
            Just(r#""a\udc00b""#.to_owned()),
            Just(r#""\ud83d\ude00""#.to_owned()),
            "\"[a-z{}\\[\\],:é]{0,6}\"",
        ];
        let number = prop_oneof!["-?[1-9][0-9]{0,40}", Just("1e999".to_owned()), "0\\.[0-9]{1,30}"];
        let leaf = prop_oneof![string, number, "(null|true|false)"];
        leaf.prop_recursive(6, 40, 4, |inner| {
            let members = proptest::collection::vec((key(), inner.clone()), 0..4);
            prop_oneof![
                proptest::collection::vec(inner, 0..4)
                    .prop_map(|all| format!("[{}]", all.join(","))),
                members.prop_map(object),
            ]
        })
    }

    fn key() -> impl Strategy<Value = String> {
        "[a-c/~]{0,2}"
    }

    fn object(members: Vec<(String, String)>) -> String {
        let members = members.iter().map(|(key, value)| format!(" \"{key}\" : {value}"));
        format!("{{{}}}", members.collect::<Vec<_>>().join(" ,"))
    }

    proptest! {
        /// Whatever else a record holds, its principal and its duration are found, and what stays
        /// as data is what was there.
        #[test]
        fn an_owner_is_found_among_anything(
            beside in proptest::collection::vec((key(), json()), 0..5), deep in json(),
            at in any::<proptest::sample::Index>(), wrapped in 1..50usize, number in any::<bool>(),
        ) {
            let user = if number { "42" } else { "\"ann\"" };
            let passport = format!(r#"{{"user":"bob","x":{deep},"user":{user}}}"#);
            let nested = "[".repeat(wrapped) + &"]".repeat(wrapped);
            let mut members = beside;
            members.insert(at.index(members.len() + 1), ("passport".to_owned(), passport));
            members.push(("deep".to_owned(), nested));
            let data = object(members.clone());
            members.push(("cookie".to_owned(), format!(r#"{{"x":{deep},"originalMaxAge":5}}"#)));
            let reading = Reading {
                max_data_bytes: 1 << 20,
                ..reading(Format::ExpressSession, "/passport/user")
            };
            let (found, nameless) = reading.read(object(members).into(), None).expect("a session");
            prop_assert_eq!(nameless, None);
            prop_assert_eq!(found.principal, principal(if number { "42" } else { "ann" }));
            prop_assert_eq!(found.duration, Some(Duration::from_millis(5)));
            let expected = Data::parse(data.into()).expect("an object");
            prop_assert_eq!(found.data, expected.merge(&[], &Data::EMPTY).expect("the same"));
        }

        /// Where serde_json can hold a record as values, its own pointer finds the same.
        #[test]
        fn a_pointer_finds_what_serde_json_finds(
            members in proptest::collection::vec((key(), json()), 0..5), pointer in "(/([a-c]|~0|~1|0|1){0,2}){1,3}",
        ) {
            let text = object(members);
            let data = Data::parse(text.clone().into()).expect("an object");
            let found = find(&data, &pointer).map(serde_json::from_str::<serde_json::Value>);
            if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
                let found = found.transpose().expect("a part of what can be held");
                prop_assert_eq!(found.as_ref(), value.pointer(&pointer), "{} in {}", pointer, text);
            }
        }

        /// What is no record at all is refused, and never a session of nobody.
        #[test]
        fn what_is_read_is_read_in_full(text in "[{}\\[\\]:,\"\\\\ua0d83 ]{0,40}") {
            let reading = reading(Format::ExpressSession, "/a");
            if let Ok((found, _)) = reading.read(text.clone().into(), None) {
                let whole = Data::parse(text.into()).expect("what is read is an object");
                prop_assert_eq!(found.data, whole.merge(&["cookie".into()], &Data::EMPTY).expect("the same"));
            }
        }
    }
}
