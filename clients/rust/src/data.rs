//! Session data: a JSON object whose values keep their exact text until they are read.

use std::{collections::BTreeMap, fmt};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    error::{Error, Result},
    finite,
};

/// The text of one value.
pub(crate) type Text = Box<RawValue>;

/// Session data: top-level keys, each with a JSON value.
///
/// A value keeps its exact text until it is replaced, so that numbers that another language
/// has stored stay as they are.
///
/// ```
/// # fn main() -> sessiond_client::Result<()> {
/// let mut data = sessiond_client::Data::new();
/// data.insert("cart", ["tea"])?;
/// assert_eq!(data.get::<Vec<String>>("cart")?, Some(vec!["tea".to_owned()]));
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct Data(BTreeMap<String, Text>);

impl Data {
    /// No data.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the value of a key. `None`: there is no such key.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] with reason `INVALID_DATA` if the value is none of a `T`.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.0.get(key).map(|text| read(key, text)).transpose()
    }

    /// The JSON text of the value of a key.
    pub fn get_text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|text| text.get())
    }

    /// Keeps a value under a key.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] with reason `INVALID_DATA` if the value is not what JSON can
    /// hold: a number that is not finite, a map whose keys are no strings. The data stay as
    /// they were.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Serialize) -> Result<()> {
        let key = key.into();
        let text = write(&key, &value)?;
        self.0.insert(key, text);
        Ok(())
    }

    /// Removes a key. Returns whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        self.0.remove(key).is_some()
    }

    /// Removes a key, and reads its value.
    ///
    /// # Errors
    ///
    /// As [`Data::get`]. The data stay as they were then.
    pub fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>> {
        let value = self.get(key)?;
        self.0.remove(key);
        Ok(value)
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether there is such a key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Data from the text of a JSON object.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] with reason `INVALID_DATA` if it is none.
    pub fn from_json(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::new());
        }
        // The text of serde_json's error can have data in it.
        serde_json::from_str(text)
            .map(Self)
            .map_err(|_| Error::invalid_data("expected the text of a JSON object"))
    }

    /// Data from a value that serde makes a JSON object of: a struct, a map, `json!({..})`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] with reason `INVALID_DATA` if JSON cannot hold it, or if it
    /// is no object.
    pub fn from_value(value: impl Serialize) -> Result<Self> {
        Self::from_json(write("", &value)?.get())
    }

    /// The text of the data: a JSON object, on as many lines as its values have.
    pub fn to_json(&self) -> String {
        let length: usize = self.0.iter().map(|(key, text)| key.len() + text.get().len() + 4).sum();
        let mut out = Vec::with_capacity(length + 2);
        // Writing text to memory cannot fail.
        serde_json::to_writer(&mut out, &self.0).expect("texts of JSON");
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    pub(crate) fn text(&self, key: &str) -> Option<&Text> {
        self.0.get(key)
    }

    pub(crate) fn put(&mut self, key: String, text: Text) {
        self.0.insert(key, text);
    }

    pub(crate) fn texts(&self) -> impl Iterator<Item = (&String, &Text)> {
        self.0.iter()
    }

    /// What a write has to send to make `after` of these data.
    pub(crate) fn difference(&self, after: &Self) -> Difference {
        let mut difference = Difference::default();
        for (key, text) in &after.0 {
            if !self.0.get(key).is_some_and(|before| same(before, text)) {
                difference.set.put(key.clone(), text.clone());
            }
        }
        difference.unset =
            self.0.keys().filter(|key| !after.0.contains_key(*key)).cloned().collect();
        difference
    }
}

/// Names the keys, not the values: these may be secret.
impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl PartialEq for Data {
    /// Whether both have the same values. White space and the order of nested members do not
    /// count; the spelling of a number does.
    fn eq(&self, other: &Self) -> bool {
        self.difference(other).is_empty()
    }
}

/// Top-level keys to set and to remove.
#[derive(Debug, Clone, Default)]
pub(crate) struct Difference {
    pub(crate) set: Data,
    pub(crate) unset: Vec<String>,
}

impl Difference {
    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.unset.is_empty()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.set.keys().chain(self.unset.iter().map(String::as_str))
    }
}

/// The value of a text.
pub(crate) fn read<T: DeserializeOwned>(key: &str, text: &RawValue) -> Result<T> {
    serde_json::from_str(text.get()).map_err(|error| {
        // The text of serde_json's error can have data in it.
        let what = std::any::type_name::<T>();
        let at = (error.line(), error.column());
        Error::invalid_data(format!("the key {key:?}: expected {what}, see {at:?} of its text"))
    })
}

/// The text of a value.
pub(crate) fn write<T: Serialize + ?Sized>(key: &str, value: &T) -> Result<Text> {
    let refused = |what| {
        Error::invalid_data(match key {
            "" => format!("the data: {what}"),
            _ => format!("the key {key:?}: {what}"),
        })
    };
    finite::check(value).map_err(refused)?;
    // The text of another error comes from the value's own Serialize, and can have data in it.
    serde_json::value::to_raw_value(value)
        .map_err(|_| refused("the value is not what JSON can hold"))
}

/// Whether two texts have the same value.
pub(crate) fn same(a: &RawValue, b: &RawValue) -> bool {
    let (a, b) = (a.get().trim(), b.get().trim());
    a == b || same_inside(a, b).unwrap_or(false)
}

fn same_inside(a: &str, b: &str) -> Option<bool> {
    let kind = a.bytes().next()?;
    if b.bytes().next()? != kind {
        return Some(false);
    }
    Some(match kind {
        b'{' => {
            let a: BTreeMap<String, &RawValue> = serde_json::from_str(a).ok()?;
            let b: BTreeMap<String, &RawValue> = serde_json::from_str(b).ok()?;
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        b'[' => {
            let a: Vec<&RawValue> = serde_json::from_str(a).ok()?;
            let b: Vec<&RawValue> = serde_json::from_str(b).ok()?;
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        b'"' => {
            let a: String = serde_json::from_str(a).ok()?;
            let b: String = serde_json::from_str(b).ok()?;
            a == b
        }
        // Numbers that are spelled differently may differ beyond what a float can hold.
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn raw(text: &str) -> Text {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    #[test]
    fn the_order_of_members_and_white_space_do_not_count() {
        for (a, b) in [
            (r#"{"a":1,"b":[1, 2]}"#, r#"{ "b":[1,2],"a":1}"#),
            (r#""\u00e9""#, "\"é\""),
            ("[{}]", "[ {} ]"),
        ] {
            assert!(same(&raw(a), &raw(b)), "expected {a} to be {b}");
        }
        for (a, b) in [
            ("12345678901234567890123", "12345678901234567890124"),
            ("1", "1.0"),
            ("null", "false"),
            (r#"{"a":1}"#, r#"{"a":1,"b":1}"#),
            ("[1,2]", "[2,1]"),
        ] {
            assert!(!same(&raw(a), &raw(b)), "expected {a} not to be {b}");
        }
    }

    #[test]
    fn exact_text_survives() {
        let text = r#"{"big":12345678901234567890,"e":1.50}"#;
        let mut data = Data::from_json(text).expect("an object");
        data.insert("new", true).expect("JSON");
        assert_eq!(data.to_json(), r#"{"big":12345678901234567890,"e":1.50,"new":true}"#);
        let debug = format!("{data:?}");
        assert_eq!(debug, r#"{"big", "e", "new"}"#, "expected keys and no values");
    }

    #[test]
    fn what_json_cannot_hold_is_refused_without_its_content() {
        #[derive(Serialize)]
        struct Deep {
            secret: Vec<Option<f64>>,
        }
        let mut data = Data::new();
        data.insert("ok", [1.5, -0.0]).expect("finite numbers");
        let deep = Deep { secret: vec![None, Some(f64::NAN)] };
        let error = data.insert("a", deep).expect_err("NaN is no JSON");
        assert!(error.to_string().contains("not finite"), "found {error}");
        let keys = HashMap::from([(vec![1], "secret")]);
        let error = data.insert("a", keys).expect_err("keys are texts");
        assert!(!error.to_string().contains("secret"), "expected no data in {error}");
        assert_eq!(data.len(), 1, "expected what is refused to change nothing");
        for text in ["[]", "1", "{\"secret\":", "nul", "{} {}"] {
            let error = Data::from_json(text).expect_err("no object");
            assert!(!error.to_string().contains("secret"), "expected no data in {error}");
        }
        data.insert("text", "secret").expect("a text");
        let error = data.get::<u8>("text").expect_err("no number");
        assert!(!error.to_string().contains("secret"), "expected no data in {error}");
    }

    #[test]
    fn a_difference_has_what_changed() {
        let before = Data::from_json(r#"{"a":{"x":1,"y":2},"b":1,"c":1}"#).expect("an object");
        let after = Data::from_json(r#"{"a":{"y":2,"x":1},"b":2,"d":null}"#).expect("an object");
        let difference = before.difference(&after);
        assert_eq!(difference.set.to_json(), r#"{"b":2,"d":null}"#);
        assert_eq!(difference.unset, ["c"]);
        assert!(before == before.clone() && before != after, "expected them to differ");
    }
}
