//! Records and changes to test a store with.

use std::time::Duration;

use bytes::Bytes;

use crate::session::{
    clock::Moment,
    data::Data,
    id::{PublicId, VerifierHash},
    lifetime::{Granularity, Lifetime},
    record::{Claim, Edit, Principal, Record, Touch, Update},
};

/// When [`record`] was created.
pub const NOW: Moment = Moment::from_unix_millis(1_000_000);
/// The idle timeout of [`LIFETIME`].
pub const DURATION: Duration = Duration::from_secs(100);
/// The granularity of [`LIFETIME`]: a touch within it moves nothing.
pub const GRANULARITY: Duration = Duration::from_secs(10);
/// How long the id from before a roll can still end the session.
pub const ROLL_GRACE: Duration = Duration::from_secs(60);
/// The rules that the touches and updates of the suite carry. There is no absolute timeout.
pub const LIFETIME: Lifetime =
    Lifetime { duration: DURATION, granularity: Granularity::Fixed(GRANULARITY), absolute: None };

/// A different id for each number, in the order of the numbers.
pub fn id(number: u32) -> PublicId {
    let mut bytes = [7; 12];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    PublicId::from_bytes(bytes)
}

/// A different hash for each octet. No verifier belongs to it.
pub fn verifier(octet: u8) -> VerifierHash {
    VerifierHash::from_bytes([octet; 32])
}

/// The claim of the session whose verifier is [`verifier`].
pub fn own(octet: u8) -> Claim {
    Claim::valid_id(verifier(octet))
}

/// # Panics
///
/// If `name` is longer than a principal may be.
pub fn principal(name: &str) -> Principal {
    Principal::new(name.as_bytes()).expect("a short name")
}

/// # Panics
///
/// If `text` is not a JSON object.
pub fn json(text: &str) -> Data {
    Data::parse(Bytes::copy_from_slice(text.as_bytes())).expect("a JSON object")
}

/// A record at version 1, with [`verifier`] 1, of the principal `ann`.
pub fn record() -> Record {
    Record {
        verifier: verifier(1),
        version: 1,
        create_time: NOW,
        deadline: LIFETIME.deadline(NOW, None, NOW),
        duration: None,
        principal: principal("ann"),
        data: json(r#"{"a":1,"b":2}"#),
        extension: Default::default(),
    }
}

/// An update of [`record`], which sets one member. If you let it roll, the next verifier
/// is [`verifier`] 2.
pub fn update(now: Moment) -> Update {
    Update {
        verifier: verifier(1),
        lifetime: LIFETIME,
        now,
        if_version: None,
        edit: Edit { replace: false, unset: vec![], set: json(r#"{"a":3}"#), limit_bytes: 1000 },
        next_verifier: verifier(2),
        roll_grace: ROLL_GRACE,
        roll: false,
        principal: None,
        duration: None,
        persistent: None,
        label: None,
    }
}

/// A touch of [`record`].
pub fn touch(now: Moment) -> Touch {
    Touch { verifier: verifier(1), lifetime: LIFETIME, now, duration: None }
}
