//! Page sizes and page tokens, as AIP-158 has them.
//!
//! A token says where the next page begins, and is good for its [`Question`] only. It is no
//! secret and gives nobody anything. A digest keeps a caller from continuing with another
//! question, or from a place it was not given. A token stays good over a restart.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use sha2::{Digest, Sha256};

use super::{
    fault::{Fault, Reason},
    input::invalid,
};
use crate::session::{id::PublicId, record::Principal};

/// Sessions on a page of a list, unless another size is asked for.
pub(super) const LIST_SIZE: usize = 50;

/// A larger page size means this one.
const MOST_SIZE: usize = 1000;

/// The first octet of a token: how the rest is laid out.
const LAYOUT: u8 = 2;
const DIGEST_LEN: usize = 8;
/// The longest name of an engine and the longest cursor of a store take less.
const MOST_TEXT_LEN: usize = 1024;

/// The page size that is asked for; 0 means `default`.
pub(super) fn size(asked: i32, default: usize) -> Result<usize, Fault> {
    match usize::try_from(asked) {
        Ok(0) => Ok(default),
        Ok(size) => Ok(size.min(MOST_SIZE)),
        Err(_) => Err(invalid("page_size", format!("expected 0 or more, found {asked}"))),
    }
}

/// What a caller goes through page by page.
#[derive(Debug, Clone, Copy)]
pub(super) enum Question<'q> {
    /// The sessions of a principal in an engine.
    List { engine: &'q str, principal: &'q Principal },
    /// The same, asked by the principal.
    ListOwn { engine: &'q str },
    /// The records of an engine, or of all engines if the name is empty.
    Export { engine: &'q str },
}

/// Where a page begins: octets that mean something to the one who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PageToken {
    pub place: Vec<u8>,
}

impl PageToken {
    pub(super) fn new(place: impl Into<Vec<u8>>) -> Self {
        Self { place: place.into() }
    }

    /// The text that callers see.
    pub(super) fn to_text(&self, question: Question<'_>) -> String {
        let digest = digest(question, &self.place);
        BASE64URL.encode([&[LAYOUT], self.place.as_slice(), &digest].concat())
    }

    /// Reads the text of a token to `question`; `None`: the first page is meant.
    pub(super) fn from_text(text: &str, question: Question<'_>) -> Result<Option<Self>, Fault> {
        if text.is_empty() {
            return Ok(None);
        }
        Self::decode(text, question).map(Some).ok_or_else(bad_token)
    }

    fn decode(text: &str, question: Question<'_>) -> Option<Self> {
        // Before anything is decoded: a token may be as long as a message.
        if text.len() > MOST_TEXT_LEN {
            return None;
        }
        let bytes = BASE64URL.decode(text).ok()?;
        let (&LAYOUT, rest) = bytes.split_first()? else { return None };
        let (place, given) = rest.split_last_chunk()?;
        (digest(question, place) == *given).then(|| Self::new(place))
    }
}

/// The id that a page of a list of sessions comes after; `None`: it is the first page.
pub(super) fn after(token: &str, question: Question<'_>) -> Result<Option<PublicId>, Fault> {
    let token = PageToken::from_text(token, question)?;
    let after = token.map(|token| token.place.try_into().map(PublicId::from_bytes));
    after.transpose().map_err(|_| bad_token())
}

/// The token of the page after this id.
pub(super) fn next(after: PublicId, question: Question<'_>) -> String {
    PageToken::new(*after.as_bytes()).to_text(question)
}

/// The fault of a token that is not one of ours, or is the answer to another question.
pub(super) fn bad_token() -> Fault {
    let problem = "expected the next_page_token of an answer to the same question, or nothing for \
                   the first page";
    Fault::at(Reason::InvalidArgument, "page_token", problem)
}

fn digest(question: Question<'_>, place: &[u8]) -> [u8; DIGEST_LEN] {
    let (call, engine, principal): (_, _, &[u8]) = match question {
        Question::List { engine, principal } => ("list", engine, principal.as_bytes()),
        Question::ListOwn { engine } => ("list own", engine, b""),
        Question::Export { engine } => ("export", engine, b""),
    };
    let mut digest = Sha256::new_with_prefix("sessiond page token\0");
    // The call and the engine's name hold no NUL, and the length separates the rest.
    for part in [call.as_bytes(), b"\0", engine.as_bytes(), b"\0"] {
        digest.update(part);
    }
    digest.update((principal.len() as u64).to_be_bytes());
    digest.update(principal);
    digest.update(place);
    *digest.finalize().first_chunk().expect("SHA-256 is longer")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_bounded() {
        let of = |asked| size(asked, 50).map_err(|fault| fault.reason);
        assert_eq!(of(0), Ok(50));
        assert_eq!((of(1), of(1000), of(i32::MAX)), (Ok(1), Ok(1000), Ok(1000)));
        assert_eq!(of(-1), Err(Reason::InvalidArgument));
    }

    #[test]
    fn a_token_is_good_for_its_question_only() {
        let principal = |name: &[u8]| Principal::new(name).expect("short");
        let (ann, bob, nobody) = (principal(b"ann"), principal(b"bob"), Principal::default());
        let list = |engine, principal| Question::List { engine, principal };
        let questions = [
            list("default", &ann),
            list("shop", &ann),
            list("default", &bob),
            list("shop", &nobody),
            Question::Export { engine: "" },
            Question::Export { engine: "shop" },
        ];
        let token = PageToken::new([0, 7, 254, 255]);
        for (at, question) in questions.into_iter().enumerate() {
            let text = token.to_text(question);
            for (other_at, other) in questions.into_iter().enumerate() {
                let read = PageToken::from_text(&text, other).ok();
                let expected = (at == other_at).then(|| Some(token.clone()));
                assert_eq!(read, expected, "{question:?} and {other:?}");
            }
            for octet in 0..text.len() {
                let mut other = text.clone().into_bytes();
                other[octet] = if other[octet] == b'A' { b'B' } else { b'A' };
                let other = String::from_utf8(other).expect("ASCII");
                PageToken::from_text(&other, question).expect_err("octet {octet} was changed");
            }
            assert_eq!(PageToken::from_text("", question).expect("the first page"), None);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(text in "\\PC{1,40}|[A-Za-z0-9_-]{1,60}") {
            let question = Question::Export { engine: "" };
            prop_assert!(PageToken::from_text(&text, question).is_err());
        }
    }
}
