//! Page sizes and page tokens, as AIP-158 has them.
//!
//! A token says after which session the next page begins, and is good for the
//! engine and the principal it was given for. It is no secret and gives nobody
//! anything; a digest keeps a caller from going on with another question, or
//! from somewhere it was not told of. It stays good over a restart.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use sha2::{Digest, Sha256};

use super::fault::{Fault, Reason};
use crate::session::{id::PublicId, record::Principal};

/// Larger ones are taken for this.
const MOST_SIZE: usize = 1000;

const LAYOUT: u8 = 1;
const DIGEST_LEN: usize = 8;
const TOKEN_LEN: usize = 1 + PublicId::LEN + DIGEST_LEN;
const TEXT_LEN: usize = TOKEN_LEN / 3 * 4;

/// What `page_size` asks for; 0 leaves it to us, and that is `default`.
pub fn size(asked: i32, default: usize) -> Result<usize, Fault> {
    match usize::try_from(asked) {
        Ok(0) => Ok(default),
        Ok(size) => Ok(size.min(MOST_SIZE)),
        Err(_) => {
            let problem = format!("expected 0 or more, found {asked}");
            Err(Fault::at(Reason::InvalidArgument, "page_size", problem))
        }
    }
}

/// Asks for the sessions after this one.
pub fn token(engine: &str, principal: &Principal, after: PublicId) -> String {
    let mut bytes = [LAYOUT; TOKEN_LEN];
    bytes[1..=PublicId::LEN].copy_from_slice(after.as_bytes());
    bytes[1 + PublicId::LEN..].copy_from_slice(&digest(engine, principal, after));
    BASE64URL.encode(bytes)
}

/// After which session the page begins; `None`: the first page.
pub fn after(token: &str, engine: &str, principal: &Principal) -> Result<Option<PublicId>, Fault> {
    if token.is_empty() {
        return Ok(None);
    }
    let known =
        decode(token).filter(|(after, digested)| *digested == digest(engine, principal, *after));
    let (after, _) = known.ok_or_else(|| {
        let problem = "expected the next_page_token of an answer to the same question, or nothing \
                       for the first page";
        Fault::at(Reason::InvalidArgument, "page_token", problem)
    })?;
    Ok(Some(after))
}

fn decode(token: &str) -> Option<(PublicId, [u8; DIGEST_LEN])> {
    // Before anything is decoded: a token may be as long as a message.
    if token.len() != TEXT_LEN {
        return None;
    }
    let bytes: [u8; TOKEN_LEN] = BASE64URL.decode(token).ok()?.try_into().ok()?;
    let (layout, rest) = bytes.split_first()?;
    let (after, digest) = rest.split_first_chunk()?;
    (*layout == LAYOUT).then_some((PublicId::from_bytes(*after), digest.try_into().ok()?))
}

fn digest(engine: &str, principal: &Principal, after: PublicId) -> [u8; DIGEST_LEN] {
    let mut digest = Sha256::new_with_prefix("sessiond page token\0");
    // An engine's name has no NUL.
    for part in [engine.as_bytes(), b"\0", after.as_bytes(), principal.as_bytes()] {
        digest.update(part);
    }
    *digest.finalize().first_chunk().expect("SHA-256 is longer")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ann() -> Principal {
        Principal::new(b"ann").expect("short")
    }

    #[test]
    fn sizes_are_bounded() {
        let of = |asked| size(asked, 50).map_err(|fault| fault.reason);
        assert_eq!(of(0), Ok(50));
        assert_eq!((of(1), of(1000), of(i32::MAX)), (Ok(1), Ok(1000), Ok(1000)));
        assert_eq!(of(-1), Err(Reason::InvalidArgument));
    }

    #[test]
    fn a_token_is_good_for_its_question_only() {
        let id = PublicId::from_bytes([7; 12]);
        let token = token("default", &ann(), id);
        assert_eq!(after(&token, "default", &ann()).expect("ours"), Some(id));
        after(&token, "shop", &ann()).expect_err("another engine");
        let bob = Principal::new(b"bob").expect("short");
        after(&token, "default", &bob).expect_err("another principal");
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).expect("ASCII");
            after(&other, "default", &ann()).expect_err("octet {at} was changed");
        }
        assert_eq!(after("", "default", &ann()).expect("the first page"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(text in "\\PC{1,40}|[A-Za-z0-9_-]{28}") {
            prop_assert!(after(&text, "default", &ann()).is_err());
        }
    }
}
