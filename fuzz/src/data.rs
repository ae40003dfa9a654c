//! Session data: compares parse and merge with a model that uses serde_json only.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;
use sessiond::session::data::{Data, DataError};

/// An object as serde_json reads it: keys are decoded, values are unchanged.
type Model<'t> = BTreeMap<String, &'t RawValue>;

fn model(text: &[u8]) -> Option<Model<'_>> {
    serde_json::from_slice(text).ok()
}

fn parse(text: &[u8]) -> Option<Data> {
    let parsed = Data::parse(Bytes::copy_from_slice(text));
    match (&parsed, model(text)) {
        (Ok(_), Some(_)) | (Err(DataError::TooDeep), _) => {}
        (Err(_), None) => {}
        (found, expected) => panic!(
            "{:?}: expected an object: {}; found {found:?}",
            String::from_utf8_lossy(text),
            expected.is_some()
        ),
    }
    parsed.ok()
}

/// The input: text, NUL, text, and then any number of times NUL and a key.
pub fn run(input: &[u8]) {
    let mut parts = input.split(|&octet| octet == 0);
    let (stored, set) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (parsed_stored, parsed_set) = (parse(stored), parse(set));
    let (Some(parsed_stored), Some(parsed_set)) = (parsed_stored, parsed_set) else {
        return;
    };
    let unset: Vec<_> = parts.map(|key| String::from_utf8_lossy(key).into_owned()).collect();

    let merged = parsed_stored.merge(&unset, &parsed_set).expect("both were parsed");
    let mut expected = model(stored).expect("it was parsed");
    for key in &unset {
        expected.remove(key);
    }
    expected.extend(model(set).expect("it was parsed"));

    let text = merged.text();
    let found = model(text).expect("a merge gives an object");
    let raw = |model: &Model<'_>| -> Vec<(String, String)> {
        model.iter().map(|(key, value)| (key.clone(), value.get().to_owned())).collect()
    };
    assert_eq!(raw(&found), raw(&expected), "the members after the merge");
    let again = Data::parse(text.clone()).expect("the result of a merge parses");
    let still = again.merge(&[], &Data::EMPTY).expect("it was parsed");
    assert_eq!(still.text(), text, "expected no change by an empty merge");
}
