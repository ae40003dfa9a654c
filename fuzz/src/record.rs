//! The record codec: stored bytes may be damaged in any way.

use sessiond::store::codec::{decode, encode};

pub(crate) fn run(input: &[u8]) {
    let Ok(record) = decode(input.to_vec().into()) else {
        return;
    };
    let mut again = Vec::new();
    encode(&record, &mut again);
    assert_eq!(again, input, "expected a record that decodes to encode to the same bytes");
}
