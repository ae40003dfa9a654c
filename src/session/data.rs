//! Session data: a JSON object, kept as text.
//!
//! A member that a change does not name keeps its exact bytes. Reformatting would damage
//! 64-bit integers and long decimals. serde_json decides what is valid JSON; this file only
//! finds where the members are.

use std::{collections::HashMap, fmt};

use bytes::Bytes;
use serde_json::value::RawValue;

/// The most levels of arrays and objects. The data itself is the first level.
pub const MAX_DEPTH: usize = 64;

/// A checked JSON object. Debug prints only its length.
#[derive(Clone, PartialEq, Eq)]
pub struct Data(Bytes);

/// Why a text cannot be session data. The message quotes nothing of the text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DataError {
    /// Not JSON, or cut short.
    #[error("expected a JSON object, found invalid JSON at line {line}, column {column}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// In octets, counted from 1. 0: at the beginning of the line.
        column: usize,
    },
    /// Not UTF-8.
    #[error("expected a JSON object, found octets that are not UTF-8")]
    Encoding,
    /// Valid JSON, such as an array or null, that has no members.
    #[error("expected a JSON object, found another JSON value")]
    NotAnObject,
    /// More than [`MAX_DEPTH`] levels.
    #[error("expected at most {MAX_DEPTH} levels of arrays and objects")]
    TooDeep,
    /// A top-level key cannot be compared with others as text.
    #[error("a key holds an unpaired surrogate, which no text can")]
    BadKey,
}

impl Data {
    /// An object without members, not an absent text.
    pub const EMPTY: Data = Data(Bytes::from_static(b"{}"));

    /// Checks that `text` is a JSON object with at most [`MAX_DEPTH`] levels.
    pub fn parse(text: Bytes) -> Result<Self, DataError> {
        let checked = std::str::from_utf8(&text).map_err(|_| DataError::Encoding)?;
        if let Err(error) = serde_json::from_str::<&RawValue>(checked) {
            return Err(DataError::Syntax { line: error.line(), column: error.column() });
        }
        if !checked.trim_start_matches(WHITESPACE).starts_with('{') {
            return Err(DataError::NotAnObject);
        }
        if depth(checked.as_bytes()) > MAX_DEPTH {
            return Err(DataError::TooDeep);
        }
        let data = Self(text);
        data.members()?;
        Ok(data)
    }

    /// Accepts a text that [`parse`](Self::parse) or [`merge`](Self::merge) produced and a
    /// store has kept. Checks only the encoding: `None` if it is not UTF-8.
    pub fn from_stored(text: Bytes) -> Option<Self> {
        std::str::from_utf8(&text).is_ok().then_some(Self(text))
    }

    /// The JSON text, valid UTF-8.
    pub fn text(&self) -> &Bytes {
        &self.0
    }

    /// This data without the keys of `unset`, then with the members of `set`.
    ///
    /// Keys are compared as text, after their escapes are decoded. Members keep their order:
    /// a key that exists keeps its place, and a new key goes last. If `set` has a key twice,
    /// the last one counts.
    pub fn merge(&self, unset: &[String], set: &Data) -> Result<Data, DataError> {
        let mut merged: Vec<Option<Member<'_>>> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for member in self.members()? {
            place(&mut merged, &mut places, member);
        }
        for key in unset {
            if let Some(at) = places.remove(key) {
                merged[at] = None;
            }
        }
        for member in set.members()? {
            place(&mut merged, &mut places, member);
        }
        Ok(write(merged.into_iter().flatten()))
    }

    fn members(&self) -> Result<Vec<Member<'_>>, DataError> {
        members(&self.0)
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({} bytes)", self.0.len())
    }
}

/// One top-level member, as it was written.
struct Member<'d> {
    key: String,
    /// The key with its quotes and escapes.
    raw_key: &'d [u8],
    raw_value: &'d [u8],
}

fn place<'d>(
    merged: &mut Vec<Option<Member<'d>>>,
    places: &mut HashMap<String, usize>,
    member: Member<'d>,
) {
    match places.get(&member.key) {
        Some(&at) => merged[at] = Some(member),
        None => {
            places.insert(member.key.clone(), merged.len());
            merged.push(Some(member));
        }
    }
}

fn write<'d>(members: impl Iterator<Item = Member<'d>>) -> Data {
    let mut text = vec![b'{'];
    for member in members {
        if text.len() > 1 {
            text.push(b',');
        }
        text.extend_from_slice(member.raw_key);
        text.push(b':');
        text.extend_from_slice(member.raw_value);
    }
    text.push(b'}');
    // Without spare capacity, because a record keeps it for a long time.
    Data(text.into_boxed_slice().into())
}

const WHITESPACE: [char; 4] = [' ', '\t', '\n', '\r'];

fn is_whitespace(octet: u8) -> bool {
    WHITESPACE.contains(&char::from(octet))
}

/// Walks over a JSON text that is known to be valid, token by token.
struct Scanner<'d> {
    text: &'d [u8],
    at: usize,
}

impl<'d> Scanner<'d> {
    fn new(text: &'d [u8]) -> Self {
        Self { text, at: 0 }
    }

    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(|&octet| is_whitespace(octet)) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn string(&mut self) {
        self.at += 1;
        while let Some(&octet) = self.text.get(self.at) {
            self.at += if octet == b'\\' { 2 } else { 1 };
            if octet == b'"' {
                return;
            }
        }
    }

    /// Steps over one string, or over one octet outside strings.
    fn step(&mut self, octet: u8) {
        if octet == b'"' {
            self.string();
        } else {
            self.at += 1;
        }
    }

    /// Steps over one value, up to the comma or brace that follows it.
    fn value(&mut self) -> &'d [u8] {
        let from = self.at;
        let mut until = from;
        let mut depth = 0usize;
        while let Some(octet) = self.peek() {
            match octet {
                b'{' | b'[' => depth += 1,
                b',' if depth == 0 => break,
                b'}' | b']' if depth == 0 => break,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.step(octet);
            until = self.at;
        }
        &self.text[from..until]
    }
}

fn depth(text: &[u8]) -> usize {
    let mut scanner = Scanner::new(text);
    let (mut depth, mut deepest) = (0usize, 0);
    while let Some(octet) = scanner.peek() {
        match octet {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
        scanner.step(octet);
    }
    deepest
}

/// The top-level members of a valid JSON object.
fn members(text: &[u8]) -> Result<Vec<Member<'_>>, DataError> {
    let mut scanner = Scanner::new(text);
    let mut members = Vec::new();
    scanner.peek();
    scanner.at += 1; // {
    while scanner.peek() == Some(b'"') {
        let from = scanner.at;
        scanner.string();
        let raw_key = &text[from..scanner.at.min(text.len())];
        scanner.peek();
        scanner.at += 1; // :
        scanner.peek();
        let raw_value = scanner.value();
        let key = serde_json::from_slice(raw_key).map_err(|_| DataError::BadKey)?;
        members.push(Member { key, raw_key, raw_value });
        if scanner.peek() == Some(b',') {
            scanner.at += 1;
            scanner.peek();
        }
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn data(text: &str) -> Data {
        Data::parse(Bytes::copy_from_slice(text.as_bytes())).expect("a JSON object")
    }

    fn merged(old: &str, unset: &[&str], set: &str) -> String {
        let unset: Vec<_> = unset.iter().map(|key| (*key).to_owned()).collect();
        let merged = data(old).merge(&unset, &data(set)).expect("both are valid");
        String::from_utf8(merged.text().to_vec()).expect("data is text")
    }

    #[test]
    fn members_that_are_not_named_keep_their_bytes() {
        let old = r#" { "n" : 9007199254740993.10 , "t":"\u00e9\/", "a":[ 1 , {"n":2 } ],"\u006e2":1e400 } "#;
        assert_eq!(
            merged(old, &[], r#"{"new":0}"#),
            r#"{"n":9007199254740993.10,"t":"\u00e9\/","a":[ 1 , {"n":2 } ],"\u006e2":1e400,"new":0}"#
        );
    }

    #[test]
    fn unset_comes_before_set() {
        assert_eq!(merged(r#"{"a":1,"b":2}"#, &["a", "x"], r#"{"a":3}"#), r#"{"b":2,"a":3}"#);
        assert_eq!(merged(r#"{"a":1,"b":2}"#, &[], r#"{"a":3}"#), r#"{"a":3,"b":2}"#);
        assert_eq!(merged(r#"{"a":1}"#, &["a"], "{}"), "{}");
    }

    #[test]
    fn keys_are_compared_as_text() {
        assert_eq!(merged(r#"{"\u0061":1}"#, &[], r#"{"a":2}"#), r#"{"a":2}"#);
        assert_eq!(merged(r#"{"\u0061":1}"#, &["a"], "{}"), "{}");
        assert_eq!(merged("{}", &[], r#"{"a":1,"a":2}"#), r#"{"a":2}"#);
        assert_eq!(merged(r#"{"":1,"\"}":2}"#, &["\"}"], "{}"), r#"{"":1}"#);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let nested =
            |levels| format!("{}{}", "{\"a\":".repeat(levels - 1), "{}") + &"}".repeat(levels - 1);
        data(&nested(MAX_DEPTH));
        let too_deep = nested(MAX_DEPTH + 1);
        let flood = "[".repeat(200_000);
        for (text, error) in [
            ("", DataError::Syntax { line: 1, column: 0 }),
            ("{\"a\":1,}", DataError::Syntax { line: 1, column: 8 }),
            ("{} {}", DataError::Syntax { line: 1, column: 4 }),
            ("[]", DataError::NotAnObject),
            ("null", DataError::NotAnObject),
            ("\"{}\"", DataError::NotAnObject),
            ("{\"\\ud800\":1}", DataError::BadKey),
            (&too_deep, DataError::TooDeep),
        ] {
            let found = Data::parse(Bytes::copy_from_slice(text.as_bytes()));
            assert_eq!(found, Err(error), "{text}");
        }
        assert!(Data::parse(flood.into()).is_err(), "no stack is used up");
        assert_eq!(Data::parse(Bytes::from_static(b"{\"\xff\":1}")), Err(DataError::Encoding));
    }

    #[test]
    fn errors_and_debug_quote_nothing() {
        let text = Bytes::from_static(br#"{"secret": hunter2}"#);
        let error = Data::parse(text).expect_err("hunter2 is not quoted");
        let shown = format!("{error} {error:?} {:?}", data(r#"{"secret":"hunter2"}"#));
        assert!(!shown.contains("hunter2") && !shown.contains("secret"), "{shown}");
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                object(inner).prop_map(|map| serde_json::to_value(map).expect("a map of values")),
            ]
        })
    }

    fn object(
        value: impl Strategy<Value = serde_json::Value>,
    ) -> impl Strategy<Value = BTreeMap<String, serde_json::Value>> {
        proptest::collection::btree_map("[a-d\"\\\\é\u{1}]{0,2}", value, 0..6)
    }

    fn parsed(data: &Data) -> BTreeMap<String, serde_json::Value> {
        serde_json::from_slice(data.text()).expect("merged data is a JSON object")
    }

    proptest! {
        #[test]
        fn merge_is_the_merge_of_maps(
            old in object(json()), unset in proptest::collection::vec("[a-d]{0,2}", 0..3),
            set in object(json()), pretty in any::<bool>(),
        ) {
            let text = |map: &BTreeMap<_, _>| {
                if pretty { serde_json::to_string_pretty(map) } else { serde_json::to_string(map) }
            };
            let old_data = data(&text(&old).expect("serializable"));
            let set_data = data(&text(&set).expect("serializable"));
            let mut expected = parsed(&old_data);
            expected.retain(|key, _| !unset.contains(key));
            expected.extend(parsed(&set_data));
            let merged = old_data.merge(&unset, &set_data).expect("both are valid");
            prop_assert_eq!(parsed(&merged), expected);
            prop_assert!(Data::parse(merged.text().clone()).is_ok());
        }

        #[test]
        fn any_octets_are_judged_without_a_panic(text in any::<Vec<u8>>()) {
            let _ = Data::parse(text.into());
        }

        #[test]
        fn near_json_is_judged_as_serde_judges_it(text in "[{}\\[\\]:,\"\\\\a0 ]{0,24}") {
            let ours = Data::parse(text.clone().into()).is_ok();
            let theirs = serde_json::from_str::<BTreeMap<String, serde_json::Value>>(&text).is_ok();
            prop_assert_eq!(ours, theirs, "{}", text);
        }
    }
}
