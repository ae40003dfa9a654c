//! Session data: a JSON object, kept as text.
//!
//! A member that a change does not name keeps its exact bytes. Reformatting would damage
//! 64-bit integers and long decimals. serde_json decides what is valid JSON; this file only
//! finds where the members are.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde_json::value::RawValue;

/// The most levels of arrays and objects. The data itself is the first level.
pub const MAX_DEPTH: usize = 64;

/// To parse or to merge text of this many bytes takes as long as some ten operations, if its
/// members are short (`cargo bench --bench parts`, "4096 keys"). What is longer goes to another
/// thread than the one that serves.
pub const LARGE_BYTES: usize = 16 << 10;

/// The most top-level keys of one session's data.
pub const MAX_KEYS: usize = 4096;

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
    /// More than [`MAX_KEYS`] keys.
    #[error("expected at most {MAX_KEYS} top-level keys; put them into an object below one key")]
    TooManyKeys,
    /// A top-level key cannot be compared with others as text.
    #[error("a key holds an unpaired surrogate, which no text can")]
    BadKey,
}

impl Data {
    /// An object without members, not an absent text.
    pub const EMPTY: Data = Data(Bytes::from_static(b"{}"));

    /// Checks that `text` is a JSON object with at most [`MAX_DEPTH`] levels and
    /// [`MAX_KEYS`] keys.
    pub fn parse(text: Bytes) -> Result<Self, DataError> {
        let checked = std::str::from_utf8(&text).map_err(|_| DataError::Encoding)?;
        // First, because it costs less than the rest and stops where a bound is exceeded.
        check_bounds(&text)?;
        if let Err(error) = serde_json::from_str::<&RawValue>(checked) {
            return Err(DataError::Syntax { line: error.line(), column: error.column() });
        }
        if !checked.trim_start_matches(WHITESPACE).starts_with('{') {
            return Err(DataError::NotAnObject);
        }
        for member in members(&text) {
            member.key()?;
        }
        Ok(Self(text))
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
    /// the last one counts. Fails if there would be more than [`MAX_KEYS`] keys, and more
    /// than there were.
    ///
    /// This data is scanned once and copied in spans. Only the keys that `unset` and `set`
    /// name are sorted, so a small change of large data costs little more than a copy.
    pub fn merge(&self, unset: &[String], set: &Data) -> Result<Data, DataError> {
        let mut changes = changes(unset, set)?;
        let mut merged = Merged::with_capacity(self.0.len() + set.0.len());
        let mut before = 0;
        for member in members(&self.0) {
            before += 1;
            let key = member.key()?;
            match changes.binary_search_by(|change| change.key.as_ref().cmp(key.as_ref())) {
                Err(_) => merged.keep(&self.0, &member),
                Ok(at) => {
                    let change = &mut changes[at];
                    if !change.removes
                        && let Some(value) = change.value.take()
                    {
                        merged.put(&self.0, &value);
                    }
                }
            }
        }
        let mut last: Vec<_> = changes
            .into_iter()
            .filter_map(|Change { value, order, .. }| Some((order, value?)))
            .collect();
        last.sort_unstable_by_key(|(order, _)| *order);
        for (_, value) in last {
            merged.put(&self.0, &value);
        }
        let (data, after) = merged.end(&self.0);
        if after > MAX_KEYS && after > before {
            return Err(DataError::TooManyKeys);
        }
        Ok(data)
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({} bytes)", self.0.len())
    }
}

/// What a merge does to one key.
struct Change<'d> {
    key: Cow<'d, [u8]>,
    /// The member that was there is removed. A value then goes last.
    removes: bool,
    /// The member to write; taken when it has its place.
    value: Option<Member<'d>>,
    /// The position of the key in `set`.
    order: usize,
}

/// The changes, sorted by key, each key once.
fn changes<'d>(unset: &'d [String], set: &'d Data) -> Result<Vec<Change<'d>>, DataError> {
    let mut changes: Vec<_> = unset
        .iter()
        .map(|key| Change { key: key.as_bytes().into(), removes: true, value: None, order: 0 })
        .collect();
    for (order, member) in members(&set.0).enumerate() {
        changes.push(Change { key: member.key()?, removes: false, value: Some(member), order });
    }
    // Stable: of the same key, a removal comes first, and then the values in their order.
    changes.sort_by(|one, other| one.key.cmp(&other.key));
    changes.dedup_by(|later, first| {
        let same = later.key == first.key;
        if same && let Some(value) = later.value.take() {
            if first.value.is_none() {
                first.order = later.order;
            }
            first.value = Some(value);
        }
        same
    });
    Ok(changes)
}

/// The text that a merge writes.
struct Merged {
    text: Vec<u8>,
    keys: usize,
    /// Octets of the old text that are kept and not copied yet: whole members with one comma
    /// between them and no white space around their colons.
    span: std::ops::Range<usize>,
}

impl Merged {
    fn with_capacity(capacity: usize) -> Self {
        let mut text = Vec::with_capacity(capacity);
        text.push(b'{');
        Self { text, keys: 0, span: 0..0 }
    }

    /// Keeps a member of `old`.
    fn keep(&mut self, old: &[u8], member: &Member<'_>) {
        let Member { from, until, raw_key, raw_value } = *member;
        if raw_key.len() + 1 + raw_value.len() != until - from {
            return self.put(old, member);
        }
        self.keys += 1;
        if !self.span.is_empty() && self.span.end + 1 == from {
            self.span.end = until;
        } else {
            self.copy_span(old);
            self.span = from..until;
        }
    }

    /// Writes a member.
    fn put(&mut self, old: &[u8], member: &Member<'_>) {
        self.copy_span(old);
        self.separate();
        self.keys += 1;
        self.text.extend_from_slice(member.raw_key);
        self.text.push(b':');
        self.text.extend_from_slice(member.raw_value);
    }

    fn copy_span(&mut self, old: &[u8]) {
        let span = std::mem::take(&mut self.span);
        if !span.is_empty() {
            self.separate();
            self.text.extend_from_slice(&old[span]);
        }
    }

    fn separate(&mut self) {
        if self.text.len() > 1 {
            self.text.push(b',');
        }
    }

    /// The data, and how many keys it has.
    fn end(mut self, old: &[u8]) -> (Data, usize) {
        self.copy_span(old);
        self.text.push(b'}');
        // Without spare capacity, because a record keeps it for a long time.
        (Data(self.text.into_boxed_slice().into()), self.keys)
    }
}

/// One top-level member, as it was written.
struct Member<'d> {
    /// Where it begins and ends in the text.
    from: usize,
    until: usize,
    /// The key with its quotes and escapes.
    raw_key: &'d [u8],
    raw_value: &'d [u8],
}

impl<'d> Member<'d> {
    /// The key as text, without quotes and escapes.
    fn key(&self) -> Result<Cow<'d, [u8]>, DataError> {
        if memchr::memchr(b'\\', self.raw_key).is_none() {
            let inner = self.raw_key.get(1..self.raw_key.len().saturating_sub(1));
            return Ok(inner.unwrap_or_default().into());
        }
        let key = serde_json::from_slice::<String>(self.raw_key);
        key.map(|key| key.into_bytes().into()).map_err(|_| DataError::BadKey)
    }
}

const WHITESPACE: [char; 4] = [' ', '\t', '\n', '\r'];

fn is_whitespace(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t' | b'\n' | b'\r')
}

/// Walks over a JSON text, token by token. It judges nothing, and stays within the text
/// whatever that holds.
struct Scanner<'d> {
    text: &'d [u8],
    at: usize,
}

impl<'d> Scanner<'d> {
    fn new(text: &'d [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The octet after any white space.
    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(|&octet| is_whitespace(octet)) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    /// Steps over one octet, if there is one.
    fn step(&mut self) {
        self.at = self.text.len().min(self.at + 1);
    }

    /// Steps over a string, which begins here.
    fn string(&mut self) -> &'d [u8] {
        let from = self.at;
        self.step();
        while let Some(next) = memchr::memchr2(b'"', b'\\', &self.text[self.at..]) {
            self.at += next;
            if self.text[self.at] == b'"' {
                self.step();
                return &self.text[from..self.at];
            }
            self.at = self.text.len().min(self.at + 2);
        }
        self.at = self.text.len();
        &self.text[from..]
    }

    /// Steps over one value, up to the comma or brace that follows it.
    fn value(&mut self) -> &'d [u8] {
        let from = self.at;
        let mut depth = 0usize;
        while let Some(&octet) = self.text.get(self.at) {
            match octet {
                b'"' => {
                    self.string();
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b',' if depth == 0 => break,
                b'}' | b']' if depth == 0 => break,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
        }
        let value = &self.text[from..self.at];
        let len = value.iter().rposition(|&octet| !is_whitespace(octet)).map_or(0, |last| last + 1);
        &value[..len]
    }
}

/// Checks the levels and, of an object, the top-level keys.
fn check_bounds(text: &[u8]) -> Result<(), DataError> {
    let mut scanner = Scanner::new(text);
    let is_object = scanner.peek() == Some(b'{');
    let (mut depth, mut keys) = (0usize, 1);
    while let Some(&octet) = text.get(scanner.at) {
        match octet {
            b'"' => {
                scanner.string();
                continue;
            }
            b'{' | b'[' if depth == MAX_DEPTH => return Err(DataError::TooDeep),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 1 && is_object => {
                keys += 1;
                if keys > MAX_KEYS {
                    return Err(DataError::TooManyKeys);
                }
            }
            _ => {}
        }
        scanner.at += 1;
    }
    Ok(())
}

/// The top-level members of a valid JSON object.
fn members(text: &[u8]) -> impl Iterator<Item = Member<'_>> {
    let mut scanner = Scanner::new(text);
    scanner.peek();
    scanner.step(); // {
    std::iter::from_fn(move || {
        if scanner.peek() == Some(b',') {
            scanner.step();
        }
        if scanner.peek() != Some(b'"') {
            return None;
        }
        let from = scanner.at;
        let raw_key = scanner.string();
        scanner.peek();
        scanner.step(); // :
        scanner.peek();
        let value_from = scanner.at;
        let raw_value = scanner.value();
        Some(Member { from, until: value_from + raw_value.len(), raw_key, raw_value })
    })
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

    fn keys(count: usize) -> String {
        let members: Vec<_> = (0..count).map(|number| format!("\"k{number}\":0")).collect();
        format!("{{{}}}", members.join(","))
    }

    #[test]
    fn keys_are_bounded() {
        let most = data(&keys(MAX_KEYS));
        let more = Bytes::from(keys(MAX_KEYS + 1));
        assert_eq!(Data::parse(more.clone()), Err(DataError::TooManyKeys));
        data(&format!("{{\"a\":{}}}", String::from_utf8_lossy(&more)));
        let list = format!("{{\"a\":[{}]}}", "0,".repeat(MAX_KEYS) + "0");
        data(&list);
        let one = data(r#"{"one":1}"#);
        assert_eq!(most.merge(&[], &one), Err(DataError::TooManyKeys));
        most.merge(&["k0".to_owned()], &one).expect("one goes and one comes");
        // Kept by a release without this bound: it may shrink and may not grow.
        let stored = Data::from_stored(more).expect("UTF-8");
        let known = data(r#"{"k1":1}"#);
        stored.merge(&[], &known).expect("it has as many keys as before");
        stored.merge(&["k0".to_owned()], &known).expect("it has fewer keys");
        assert_eq!(stored.merge(&[], &one), Err(DataError::TooManyKeys));
    }

    #[test]
    fn a_key_that_is_stored_twice_is_changed_as_one() {
        let stored = Data::from_stored(Bytes::from_static(br#"{"a":1,"b":2,"a":3,"c":4}"#));
        let stored = stored.expect("UTF-8");
        let text = |unset: &[String], set: &str| {
            let merged = stored.merge(unset, &data(set)).expect("valid");
            String::from_utf8(merged.text().to_vec()).expect("text")
        };
        assert_eq!(text(&[], r#"{"a":5}"#), r#"{"a":5,"b":2,"c":4}"#);
        assert_eq!(text(&["a".to_owned()], "{}"), r#"{"b":2,"c":4}"#);
        assert_eq!(text(&["a".to_owned()], r#"{"d":1,"a":6}"#), r#"{"b":2,"c":4,"d":1,"a":6}"#);
    }

    #[test]
    fn what_is_stored_and_no_json_is_merged_without_a_panic() {
        for text in
            ["", "{", "{\"", "{\"a", "{\"a\\", "{\"a\":", "{\"a\":\"\\", "}", "[,", "{\"a\":1}}"]
        {
            let stored = Data::from_stored(text.into()).expect("UTF-8");
            let _ = stored.merge(&["a".to_owned()], &data(r#"{"b":1}"#));
        }
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
