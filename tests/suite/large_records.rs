//! The largest records that the sled store accepts. If a leaf with several of them did not fit
//! into sled's log, sled would write it to a file of its own, which a power loss can remove.

use std::fs;

use bytes::Bytes;
use sessiond::{
    session::{
        clock::Moment,
        data::Data,
        id::{PublicId, VerifierHash},
        record::{Claim, Principal, Record},
        store::Store,
    },
    store::sled::MOST_DATA_BYTES,
};

use crate::support::sled;

fn id(number: u8) -> PublicId {
    PublicId::from_bytes([number; 12])
}

fn record() -> Record {
    let data = format!(r#"{{"a":"{}"}}"#, "x".repeat(MOST_DATA_BYTES - 8));
    assert_eq!(data.len(), MOST_DATA_BYTES);
    Record {
        verifier: VerifierHash::from_bytes([1; 32]),
        version: 1,
        create_time: Moment::from_unix_millis(1_000_000),
        deadline: Moment::from_unix_millis(2_000_000),
        duration: None,
        principal: Principal::new(&[b'a'; Principal::MAX_LEN]).expect("the longest"),
        data: Data::parse(Bytes::from(data)).expect("an object"),
        extension: Default::default(),
    }
}

/// Leaves grow until they are split, and merge when they have become small. At every size they
/// must stay in the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_of_them_stays_in_the_log() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let (_database, store) = sled::open(sled::options(directory.path()));
    let put_in = async |numbers: std::ops::Range<u8>| {
        let created = numbers.map(|number| store.create(id(number), record()));
        for created in futures_util::future::join_all(created).await {
            created.expect("the store works").expect("the id is free");
        }
    };
    let take_out = async |numbers: std::ops::Range<u8>| {
        let destroyed = numbers.map(|number| store.destroy(id(number), Claim::Operator));
        for destroyed in futures_util::future::join_all(destroyed).await {
            destroyed.expect("the store works").expect("the session exists");
        }
    };
    put_in(0..120).await;
    for first in [0, 30, 60, 90] {
        take_out(first..first + 25).await;
    }
    for first in [0, 30, 60, 90] {
        put_in(first..first + 12).await;
        put_in(first + 12..first + 25).await;
    }
    let files = fs::read_dir(directory.path().join("data/blobs")).expect("sled's folder");
    assert_eq!(files.count(), 0, "expected every leaf in the log, found files of sled");
}
