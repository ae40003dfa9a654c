//! Tokens: a cookie-value verifies exactly if it was signed.

use std::sync::LazyLock;

use sessiond::session::{
    id::SessionId,
    token::{Keyring, Secret, Token},
};

/// The first secret signs; both verify.
const SECRETS: [&str; 2] =
    ["the secret that signs, long enough", "an older secret, long enough as well"];

/// The fuzzer cannot guess a signature. So one octet of the input stands for a whole, correctly
/// signed token.
pub(crate) const CURRENT: u8 = 0xff;
pub(crate) const OLDER: u8 = 0xfe;

pub(crate) static KEYRING: LazyLock<Keyring> = LazyLock::new(|| keyring(&SECRETS));

/// A token of each secret.
pub(crate) static TOKENS: LazyLock<[Token; 2]> = LazyLock::new(|| {
    [
        keyring(&SECRETS[..1]).sign(&id(b"0123456789abcdefghijklmnopqrstuvwxyzABCD")),
        keyring(&SECRETS[1..]).sign(&id(b"Zm9vYmFyYmF6cXV4XzAxMjM0NTY3ODlhYmNkZWZn")),
    ]
});

pub(crate) fn keyring(secrets: &[&str]) -> Keyring {
    let secrets: Vec<_> = secrets.iter().copied().map(Secret::new).collect();
    Keyring::new(&secrets).expect("the first secret is long enough")
}

pub(crate) fn id(text: &[u8; SessionId::TEXT_LEN]) -> SessionId {
    SessionId::from_text(text).expect("base64url")
}

/// The input, with whole tokens in place of the octets that stand for them.
pub(crate) fn expand(input: &[u8]) -> Vec<u8> {
    let mut expanded = Vec::with_capacity(input.len());
    for &octet in input {
        match octet {
            CURRENT => expanded.extend_from_slice(TOKENS[0].expose().as_bytes()),
            OLDER => expanded.extend_from_slice(TOKENS[1].expose().as_bytes()),
            other => expanded.push(other),
        }
    }
    expanded
}

pub fn run(input: &[u8]) {
    // The first octets of an input say which octet to damage, and how.
    let [at, flip, text @ ..] = input else {
        return;
    };
    let mut value = expand(text);
    let len = value.len();
    if len > 0 {
        value[usize::from(*at) % len] ^= flip;
    }
    let verified = KEYRING.verify(&value);
    let signed = signed_by(&value);
    match (&verified, signed) {
        (None, None) => {}
        (Some(authentic), Some(number)) => {
            assert_eq!(authentic.outdated, number == 1, "expected the secret that signed");
            let id = authentic.id.as_ref().expect("both tokens are of ids");
            let text = id.to_text();
            assert!(TOKENS[number].expose().as_bytes().starts_with(&text), "expected its id");
        }
        (found, expected) => panic!(
            "{:?}: expected to verify: {}; found: {}",
            String::from_utf8_lossy(&value),
            expected.is_some(),
            found.is_some()
        ),
    }
}

/// The number of the token that a value contains, according to the specification: after
/// percent-decoding and without one leading `s:`.
fn signed_by(value: &[u8]) -> Option<usize> {
    let decoded: Vec<u8> = percent_encoding::percent_decode(value).collect();
    let bare = decoded.strip_prefix(b"s:").unwrap_or(&decoded);
    TOKENS.iter().position(|token| token.expose().as_bytes() == bare)
}
