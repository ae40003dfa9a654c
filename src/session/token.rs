//! Tokens: signed session ids, in the format of npm's `cookie-signature`.
//!
//! A token is `id + "." + base64(HMAC-SHA256(secret, id))`, in the standard alphabet without
//! padding. The first secret signs. All secrets verify.

use std::{borrow::Cow, fmt};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::percent_decode;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::id::{SessionId, are_same};

const SIGNATURE_LEN: usize = 32;
/// The length of 32 octets in base64 without padding.
const SIGNATURE_TEXT_LEN: usize = 43;
/// The most octets of a value that is looked at. A user agent keeps no longer cookie (RFC
/// 6265bis, section 5.6).
const MAX_VALUE_LEN: usize = 4096;

/// A signing secret. Debug prints only the type. The memory is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The minimum length of a signing secret, in octets: the output length of the hash
    /// (RFC 2104, section 3).
    pub const MIN_SIGNING_LEN: usize = 32;

    pub fn new(secret: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(secret.into()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A signed session id. It is a credential, so Debug prints only the type.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub const LEN: usize = SessionId::TEXT_LEN + 1 + SIGNATURE_TEXT_LEN;

    /// The token itself. Send it to its owner and use it nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Why a keyring cannot be made from the secrets.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyringError {
    #[error("no secret is given; `sessiond secret` prints a fresh one")]
    Empty,
    #[error(
        "the first secret signs and is {len} bytes long, at least {} are needed; \
         `sessiond secret` prints a fresh one",
        Secret::MIN_SIGNING_LEN
    )]
    TooShortToSign { len: usize },
    #[error("secret number {position} is empty")]
    EmptySecret { position: usize },
}

/// The content of a verified token.
#[derive(Debug, Clone)]
pub struct Authentic {
    /// The signed id. `None` if a known secret signed a text that does not have the form of a
    /// session id (for example an id of an older application).
    pub id: Option<SessionId>,
    /// An older secret matched. The browser should get a new signature.
    pub outdated: bool,
}

/// The secrets of an engine, ready to sign and verify.
#[derive(Clone)]
pub struct Keyring {
    // Keyed states: the key schedule is computed once, and each signature clones a state.
    keys: Vec<Hmac<Sha256>>,
}

impl Keyring {
    /// The first secret signs. All secrets verify. Fails if there is no secret, if one is
    /// empty, or if the first is shorter than [`Secret::MIN_SIGNING_LEN`].
    pub fn new(secrets: &[Secret]) -> Result<Self, KeyringError> {
        let first = secrets.first().ok_or(KeyringError::Empty)?;
        if let Some(index) = secrets.iter().position(Secret::is_empty) {
            return Err(KeyringError::EmptySecret { position: index + 1 });
        }
        if first.len() < Secret::MIN_SIGNING_LEN {
            return Err(KeyringError::TooShortToSign { len: first.len() });
        }
        Ok(Self { keys: secrets.iter().map(key).collect() })
    }

    pub fn sign(&self, id: &SessionId) -> Token {
        let text = id.to_text();
        let mut token = String::with_capacity(Token::LEN);
        token.push_str(std::str::from_utf8(&text).expect("base64url is ASCII"));
        token.push('.');
        BASE64.encode_string(signature(&self.keys[0], &text), &mut token);
        Token(token)
    }

    /// Verifies a cookie-value or token in any of its four spellings: raw or
    /// percent-encoded, with or without the `s:` prefix of express-session.
    ///
    /// `None` if it is malformed, or not signed by a known secret.
    pub fn verify(&self, value: &[u8]) -> Option<Authentic> {
        self.verify_and(value, |_| ()).map(|(authentic, ())| authentic)
    }

    /// Like [`verify`](Self::verify), but also passes the signed text to `take` and returns its
    /// result.
    pub fn verify_and<T>(
        &self,
        value: &[u8],
        take: impl FnOnce(&[u8]) -> T,
    ) -> Option<(Authentic, T)> {
        if value.len() > MAX_VALUE_LEN {
            return None;
        }
        let value: Cow<'_, [u8]> = match value.contains(&b'%') {
            true => percent_decode(value).into(),
            false => value.into(),
        };
        let signed = value.strip_prefix(b"s:").unwrap_or(&value);
        let (text, dot_and_given) =
            signed.split_at_checked(signed.len().checked_sub(1 + SIGNATURE_TEXT_LEN)?)?;
        let given = dot_and_given.strip_prefix(b".")?;
        let mut bytes = [0; SIGNATURE_LEN];
        // Strict: refuses padding, dots and stray bits in the last character.
        BASE64.decode_slice_unchecked(given, &mut bytes).ok()?;
        let matched = self.keys.iter().position(|key| are_same(&signature(key, text), &bytes))?;
        let authentic = Authentic { id: SessionId::from_text(text), outdated: matched != 0 };
        Some((authentic, take(text)))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring")
    }
}

fn key(secret: &Secret) -> Hmac<Sha256> {
    Hmac::new_from_slice(&secret.0).expect("HMAC takes a key of any length")
}

fn signature(key: &Hmac<Sha256>, text: &[u8]) -> [u8; SIGNATURE_LEN] {
    key.clone().chain_update(text).finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONG: &str = "a signing secret of at least 32 bytes";

    fn keyring(others: &[&str]) -> Keyring {
        let secrets: Vec<_> = [&[LONG], others].concat().into_iter().map(Secret::new).collect();
        Keyring::new(&secrets).expect("the first secret is long enough")
    }

    // Made with Node's crypto, as cookie-signature 1.2.2 does it.
    const VECTORS: [(&str, &str, &str); 2] = [
        (
            "s3Cur3",
            "0123456789abcdefghijklmnopqrstuv",
            "XzlWZIW9gywO/88cGQyDQqRwcxImZ1L3E5AuZ+RVJ+Y",
        ),
        (
            "keyboard cat",
            "Zm9vYmFyYmF6cXV4XzAxMjM0NTY3ODlh",
            "j8jsIffGDN7lUg3F8dtL4nRiyTZ+3xVdCqkmHB4sung",
        ),
    ];

    #[test]
    fn signs_as_cookie_signature_does() {
        for (secret, id, expected) in VECTORS {
            let made = signature(&key(&Secret::new(secret)), id.as_bytes());
            assert_eq!(BASE64.encode(made), expected, "secret {secret:?}");
        }
    }

    #[test]
    fn accepts_all_four_spellings() {
        for (secret, id, signature) in VECTORS {
            let keyring = keyring(&[secret]);
            let raw = format!("{id}.{signature}");
            let encoded = raw.replace('/', "%2F").replace('+', "%2B");
            for value in [
                raw.clone(),
                encoded.clone(),
                format!("s:{raw}"),
                format!("s%3A{encoded}"),
                format!("s%3a{}", encoded.replace("%2F", "%2f").replace("%2B", "%2b")),
            ] {
                let verified = keyring.verify(value.as_bytes());
                let verified = verified.unwrap_or_else(|| panic!("{value} should verify"));
                assert!(verified.outdated, "an older secret signed {value}");
                let id_text = verified.id.expect("the id is ours").to_text();
                assert_eq!(id_text.as_slice(), id.as_bytes());
            }
        }
    }

    #[test]
    fn refuses_what_is_not_exactly_signed() {
        let (secret, id, signature) = VECTORS[0];
        let keyring = keyring(&[secret]);
        for (why, value) in [
            ("last character changed", format!("{id}.{}Z", &signature[..42])),
            ("no dot", format!("{id}{signature}")),
            ("padded with =", format!("{id}.{signature}=")),
            ("empty signature", format!("{id}.")),
            ("another value's", format!("{id}.{}", VECTORS[1].2)),
            ("plus as a space", format!("{id}.{}", signature.replace('+', " "))),
            ("prefix in upper case", format!("S:{id}.{signature}")),
            ("two prefixes", format!("s:s:{id}.{signature}")),
            ("nothing", String::new()),
            ("unsigned id", id.to_owned()),
        ] {
            assert!(keyring.verify(value.as_bytes()).is_none(), "{why}: {value}");
        }
    }

    #[test]
    fn stray_bits_in_the_last_character_are_refused() {
        let (secret, id, signature) = VECTORS[0];
        // 43 characters carry 258 bits for 256: "Y" and "Z" decode to the same octets.
        let twin = format!("{id}.{}Z", &signature[..42]);
        assert!(keyring(&[secret]).verify(twin.as_bytes()).is_none());
    }

    #[test]
    fn a_value_that_no_browser_keeps_is_not_looked_at() {
        let keyring = keyring(&[]);
        let value = |len: usize| {
            let text = "x".repeat(len - 1 - SIGNATURE_TEXT_LEN);
            format!("{text}.{}", BASE64.encode(signature(&keyring.keys[0], text.as_bytes())))
        };
        assert!(keyring.verify(value(MAX_VALUE_LEN).as_bytes()).is_some());
        assert!(keyring.verify(value(MAX_VALUE_LEN + 1).as_bytes()).is_none());
    }

    #[test]
    fn first_secret_signs_and_must_be_long() {
        let short = Keyring::new(&[Secret::new("short")]);
        assert_eq!(short.err(), Some(KeyringError::TooShortToSign { len: 5 }));
        assert_eq!(Keyring::new(&[]).err(), Some(KeyringError::Empty));
        let hollow = Keyring::new(&[Secret::new(LONG), Secret::new("")]);
        assert_eq!(hollow.err(), Some(KeyringError::EmptySecret { position: 2 }));
    }

    #[test]
    fn an_authentic_text_that_is_no_id_is_told_apart() {
        let keyring = keyring(&[]);
        let text = "65f2c9a0-5d5b-4f0e-9d0e-6f5c3d1c1b11";
        let signed =
            format!("{text}.{}", BASE64.encode(signature(&keyring.keys[0], text.as_bytes())));
        let verified = keyring.verify(signed.as_bytes()).expect("it is signed");
        assert!(verified.id.is_none());
    }

    #[test]
    fn debug_shows_no_secret() {
        let secret = Secret::new(LONG);
        assert_eq!(format!("{secret:?} {:?}", keyring(&[])), "Secret Keyring");
    }

    proptest! {
        #[test]
        fn any_octets_are_refused_without_a_panic(value in any::<Vec<u8>>()) {
            prop_assert!(keyring(&[]).verify(&value).is_none());
        }

        #[test]
        fn own_tokens_verify_and_changed_ones_do_not(bytes in any::<[u8; 24]>(), at in 0..Token::LEN, flip in 1u8..) {
            let keyring = keyring(&["an older secret"]);
            let text = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(bytes);
            let id = SessionId::from_text(text.as_bytes()).expect("24 bytes");
            let token = keyring.sign(&id);
            prop_assert_eq!(token.expose().len(), Token::LEN);
            let verified = keyring.verify(token.expose().as_bytes()).expect("own token");
            prop_assert!(!verified.outdated);
            let mut changed = token.expose().as_bytes().to_vec();
            changed[at] ^= flip;
            prop_assert!(keyring.verify(&changed).is_none());
        }
    }
}
