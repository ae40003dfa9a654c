//! Tokens: signed session ids, in the format of npm's `cookie-signature`.
//!
//! A token is `id + "." + base64(HMAC-SHA256(secret, id))`, in the standard alphabet without
//! padding. The first secret signs. All secrets verify.

use std::{borrow::Cow, fmt, ops::RangeInclusive, sync::Arc};

use arc_swap::ArcSwap;
use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::percent_decode;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::id::{SessionId, are_same};

const SIGNATURE_LEN: usize = 32;
/// The length of 32 octets in base64 without padding.
const SIGNATURE_TEXT_LEN: usize = 43;
/// What express-session writes before a token.
const PREFIX: &[u8] = b"s:";
/// The length of an id of express-session: npm's `uid-safe` makes it of 24 bytes. An application
/// that moved here has such cookies out, whether its sessions are adopted or not.
const EXPRESS_ID_LEN: usize = 32;

/// A signing secret. Debug prints only the type. The memory is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The minimum length of a signing secret, in octets: the output length of the hash
    /// (RFC 2104, section 3).
    pub const MIN_SIGNING_LEN: usize = 32;

    /// Any octets. [`Keyring::new`] checks the length.
    pub fn new(secret: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(secret.into()))
    }

    /// In octets.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A keyring refuses an empty secret.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn begins_with(&self, beginning: &Self) -> bool {
        self.0.starts_with(&beginning.0)
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
    /// In octets: the id, a dot and the signature.
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
    /// There must be at least one secret, because there is no default.
    #[error("no secret is given; `sessiond secret` prints a fresh one")]
    Empty,
    /// The first secret is shorter than [`Secret::MIN_SIGNING_LEN`].
    #[error(
        "the first secret signs and is {len} bytes long, at least {} are needed; \
         `sessiond secret` prints a fresh one",
        Secret::MIN_SIGNING_LEN
    )]
    TooShortToSign {
        /// In octets.
        len: usize,
    },
    /// An empty secret would let anybody sign.
    #[error("secret number {position} is empty")]
    EmptySecret {
        /// Counted from 1.
        position: usize,
    },
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

/// Why other secrets must not take the place of those in force. Each would end sessions that
/// are live.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SuccessionError {
    /// A secret is the beginning of one in force.
    #[error(
        "secret number {position} is the beginning of one in force, as if the file were not \
         written to its end; write a file beside it and rename it"
    )]
    CutShort {
        /// Counted from 1.
        position: usize,
    },
    /// The signing secret is missing, so every cookie that is out would be invalid.
    #[error(
        "the secret that signs now is missing, and with it all users would be logged out; keep \
         it below the new one, and remove it with a later reload; a restart takes any secrets"
    )]
    SigningSecretMissing,
}

/// How other secrets differ from those in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Succession {
    /// How many secrets are new.
    pub added: usize,
    /// How many secrets are gone. What they signed is invalid.
    pub removed: usize,
    /// Another secret signs.
    pub signs_anew: bool,
    /// The secret that will sign was not known before. Another daemon may not know it either.
    pub signs_unverified: bool,
}

/// The secrets of an engine, ready to sign and verify. A clone is the same keyring: it has
/// whatever secrets [`replace`](Self::replace) brings.
#[derive(Clone)]
pub struct Keyring(Arc<ArcSwap<Keys>>);

struct Keys {
    secrets: Vec<Secret>,
    // Keyed states: the key schedule is computed once, and each signature clones a state.
    states: Vec<Hmac<Sha256>>,
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
        let states = secrets.iter().map(key).collect();
        Ok(Self(Arc::new(ArcSwap::from_pointee(Keys { secrets: secrets.to_vec(), states }))))
    }

    /// How the secrets of `next` differ from these, or why they must not take their place.
    /// `None`: they are the same.
    pub fn succession(&self, next: &Self) -> Result<Option<Succession>, SuccessionError> {
        let (now, next) = (self.0.load(), next.0.load());
        let (now, next) = (&now.secrets, &next.secrets);
        if now == next {
            return Ok(None);
        }
        let is_cut_short = |secret: &&Secret| {
            let longer = |known: &&Secret| known.len() > secret.len();
            !now.contains(secret)
                && now.iter().filter(longer).any(|known| known.begins_with(secret))
        };
        if let Some(index) = next.iter().position(|secret| is_cut_short(&secret)) {
            return Err(SuccessionError::CutShort { position: index + 1 });
        }
        if !next.contains(&now[0]) {
            return Err(SuccessionError::SigningSecretMissing);
        }
        Ok(Some(Succession {
            added: next.iter().filter(|secret| !now.contains(secret)).count(),
            removed: now.iter().filter(|secret| !next.contains(secret)).count(),
            signs_anew: now[0] != next[0],
            signs_unverified: !now.contains(&next[0]),
        }))
    }

    /// Signs and verifies with the secrets of `next` from now on.
    /// [`succession`](Self::succession) says whether that is wise.
    pub fn replace(&self, next: &Self) {
        self.0.store(next.0.load_full());
    }

    /// Signs with the first secret.
    pub fn sign(&self, id: &SessionId) -> Token {
        let text = id.to_text();
        let mut token = String::with_capacity(Token::LEN);
        token.push_str(std::str::from_utf8(&text).expect("base64url is ASCII"));
        token.push('.');
        BASE64.encode_string(signature(&self.0.load().states[0], &text), &mut token);
        Token(token)
    }

    /// Verifies a cookie-value or token in any of its four spellings: raw or
    /// percent-encoded, with or without the `s:` prefix of express-session.
    ///
    /// `None` if it is malformed, or not signed by a known secret.
    pub fn verify(&self, value: &[u8]) -> Option<Authentic> {
        self.verify_signed(&Signed::parse(value, 0..=usize::MAX)?)
    }

    pub(super) fn verify_signed(&self, signed: &Signed<'_>) -> Option<Authentic> {
        let (text, given) = (signed.text(), &signed.signature);
        let keys = self.0.load();
        let matched = keys.states.iter().position(|key| are_same(&signature(key, text), given))?;
        Some(Authentic { id: SessionId::from_text(text), outdated: matched != 0 })
    }
}

/// What has the shape of a token: a text, a dot and a signature, in any of the four spellings.
/// Nothing is verified yet, and nothing was hashed.
pub(super) struct Signed<'v> {
    /// Decoded, without prefix.
    token: Cow<'v, [u8]>,
    signature: [u8; SIGNATURE_LEN],
}

impl<'v> Signed<'v> {
    /// `None` if `value` has another shape, or if the length of its text is not in `text_len`.
    /// A value that is too long is not read.
    pub(super) fn parse(value: &'v [u8], text_len: RangeInclusive<usize>) -> Option<Self> {
        let longest = text_len.end().saturating_add(PREFIX.len() + 1 + SIGNATURE_TEXT_LEN);
        if value.len() > longest.saturating_mul("%2B".len()) {
            return None;
        }
        let mut token: Cow<'_, [u8]> = match memchr::memchr(b'%', value) {
            Some(_) => percent_decode(value).into(),
            None => value.into(),
        };
        if token.starts_with(PREFIX) {
            match &mut token {
                Cow::Borrowed(value) => *value = &value[PREFIX.len()..],
                Cow::Owned(value) => drop(value.drain(..PREFIX.len())),
            }
        }
        let len = token.len().checked_sub(1 + SIGNATURE_TEXT_LEN)?;
        let given = token[len..].strip_prefix(b".").filter(|_| text_len.contains(&len))?;
        let mut signature = [0; SIGNATURE_LEN];
        // Strict: refuses padding, dots and stray bits in the last character.
        BASE64.decode_slice_unchecked(given, &mut signature).ok()?;
        Some(Self { token, signature })
    }

    /// The text that is signed, if the signature is authentic.
    pub(super) fn text(&self) -> &[u8] {
        &self.token[..self.token.len() - 1 - SIGNATURE_TEXT_LEN]
    }

    /// Whether the text has the form of a session id: one that is made here, or one of
    /// express-session.
    pub(super) fn is_of_an_id(&self) -> bool {
        let text = self.text();
        // Each request comes here. A loop that ends at the first other octet looks at one octet
        // at a time; of this one the compiler makes comparisons of sixteen at once.
        matches!(text.len(), SessionId::TEXT_LEN | EXPRESS_ID_LEN)
            && text.iter().fold(true, |all, &octet| all & is_base64url(octet))
    }
}

/// Without a branch, so that several octets can be compared at once.
fn is_base64url(octet: u8) -> bool {
    let is_letter = (octet | 0x20).wrapping_sub(b'a') < 26;
    let is_digit = octet.wrapping_sub(b'0') < 10;
    is_letter | is_digit | (octet == b'-') | (octet == b'_')
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

    // Made with Node's crypto, as cookie-signature 1.2.2 does it. The first text has the form of
    // a session id.
    const VECTORS: [(&str, &str, &str); 3] = [
        (
            "s3Cur3",
            "0123456789abcdefghijklmnopqrstuvwxyz0000",
            "Zn+KQqlQk+RXJEUhE0aov0ZG8EZy/JQsmd3qfn7/KXc",
        ),
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
                let found = verified.id.map(|id| id.to_text().to_vec());
                let ours = (id.len() == SessionId::TEXT_LEN).then(|| id.as_bytes().to_vec());
                assert_eq!(found, ours, "expected a text of our form to be an id, found {id}");
            }
        }
    }

    #[test]
    fn refuses_what_is_not_exactly_signed() {
        let (secret, id, signature) = VECTORS[0];
        let keyring = keyring(&[secret]);
        for (why, value) in [
            ("last character changed", format!("{id}.{}d", &signature[..42])),
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
        // 43 characters carry 258 bits for 256: "c" and "d" decode to the same octets.
        let twin = format!("{id}.{}d", &signature[..42]);
        assert!(keyring(&[secret]).verify(twin.as_bytes()).is_none());
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
    fn secrets_are_replaced_only_if_the_signing_one_stays() {
        const NEW: &str = "another signing secret of at least 32 bytes";
        let of = |secrets: &[&str]| {
            Keyring::new(&secrets.iter().map(|secret| Secret::new(*secret)).collect::<Vec<_>>())
                .expect("the first secret is long enough")
        };
        let now = of(&[LONG, "older"]);
        let succession = |secrets: &[&str]| now.succession(&of(secrets));
        let change = |added, removed, signs_anew, signs_unverified| {
            Ok(Some(Succession { added, removed, signs_anew, signs_unverified }))
        };
        assert_eq!(succession(&[LONG, "older"]), Ok(None));
        assert_eq!(succession(&[LONG, NEW, "older"]), change(1, 0, false, false));
        assert_eq!(succession(&[NEW, LONG]), change(1, 1, true, true));
        assert_eq!(succession(&[LONG]), change(0, 1, false, false));
        let missing = Err(SuccessionError::SigningSecretMissing);
        assert_eq!(succession(&[NEW, "older"]), missing);
        let cut_short = |position| Err(SuccessionError::CutShort { position });
        assert_eq!(succession(&[LONG, "old"]), cut_short(2));
        assert_eq!(succession(&[&LONG[..35]]), cut_short(1));

        let clone = now.clone();
        now.replace(&of(&[NEW, LONG]));
        assert_eq!(now.succession(&of(&[LONG, NEW])), change(0, 0, true, false));
        let id = SessionId::from_text(&[b'A'; SessionId::TEXT_LEN]).expect("base64url");
        let token = of(&[NEW]).sign(&id);
        let verified = clone.verify(token.expose().as_bytes());
        assert!(verified.is_some_and(|found| !found.outdated), "expected a clone to know the new");
        assert_eq!(clone.sign(&id), token, "expected the new secret to sign");
    }

    #[test]
    fn an_authentic_text_that_is_no_id_is_told_apart() {
        let keyring = keyring(&[]);
        let text = "65f2c9a0-5d5b-4f0e-9d0e-6f5c3d1c1b11";
        let signed = format!(
            "{text}.{}",
            BASE64.encode(signature(&keyring.0.load().states[0], text.as_bytes()))
        );
        let verified = keyring.verify(signed.as_bytes()).expect("it is signed");
        assert!(verified.id.is_none());
    }

    #[test]
    fn a_shape_is_judged_without_a_secret() {
        let (_, id, signature) = VECTORS[0];
        let own = "i".repeat(SessionId::TEXT_LEN);
        let of_an_id = |value: &str| {
            Signed::parse(value.as_bytes(), 1..=300).map(|signed| signed.is_of_an_id())
        };
        for value in [
            format!("{id}.{signature}"),
            format!("{own}.{signature}"),
            format!("s:{own}.{signature}"),
            format!("s%3A{own}.{}", signature.replace('/', "%2f").replace('+', "%2b")),
            format!("{own}%2e{signature}"),
        ] {
            assert_eq!(of_an_id(&value), Some(true), "{value}");
        }
        for value in [
            format!("{}.{signature}", &own[1..]),
            format!("a{own}.{signature}"),
            format!("65f2c9a0-5d5b-4f0e-9d0e-6f5c3d1c1b11.{signature}"),
            format!("{}+.{signature}", &own[1..]),
            format!("x.{signature}"),
        ] {
            assert_eq!(of_an_id(&value), Some(false), "only another application's: {value}");
        }
        for value in [
            String::new(),
            own.clone(),
            format!("{own}{signature}"),
            format!(".{signature}"),
            format!("{own}.{signature}="),
            format!("{own}.{}", &signature[1..]),
            format!("{own}.{}-", &signature[..42]),
            format!("{}.{signature}", "x".repeat(301)),
            format!("{}{own}.{signature}", "%41".repeat(301)),
        ] {
            assert_eq!(of_an_id(&value), None, "{value}");
        }
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
        fn own_tokens_verify_and_changed_ones_do_not(bytes in prop::array::uniform30(any::<u8>()), at in 0..Token::LEN, flip in 1u8..) {
            let keyring = keyring(&["an older secret"]);
            let text = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(bytes);
            let id = SessionId::from_text(text.as_bytes()).expect("30 bytes");
            let token = keyring.sign(&id);
            prop_assert_eq!(token.expose().len(), Token::LEN);
            let verified = keyring.verify(token.expose().as_bytes()).expect("own token");
            prop_assert!(!verified.outdated);
            let signed = Signed::parse(token.expose().as_bytes(), 1..=SessionId::TEXT_LEN);
            prop_assert!(signed.is_some_and(|signed| signed.is_of_an_id()));
            let mut changed = token.expose().as_bytes().to_vec();
            changed[at] ^= flip;
            prop_assert!(keyring.verify(&changed).is_none());
        }
    }
}
