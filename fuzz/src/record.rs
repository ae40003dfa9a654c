//! The record codec: stored bytes may be damaged in any way.

use sessiond::store::codec::{Layout, decode, encode};

pub fn run(input: &[u8]) {
    let Ok(record) = decode(input.to_vec().into()) else {
        return;
    };
    // A later release may write its fields in another order.
    let mut again = Vec::new();
    encode(&record, Layout::LATEST, &mut again);
    assert_eq!(decode(again.into()), Ok(record), "expected the same record after encoding");
}
