//! Session ids: 30 random bytes. 12 are public; 18 are secret and called the verifier. OWASP
//! ASVS 5.0 (7.2.3) wants at least 128 bits that nobody can guess; the verifier has 144.
//!
//! The public half is the key of the record. A record keeps only the hash of the verifier,
//! so a leaked store holds no usable id. Rolling an id replaces the verifier and keeps the
//! public half, so the record stays where it is.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The source of random bytes: the operating system's generator, or a test's.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes` with unpredictable octets.
    fn fill(&self, bytes: &mut [u8]);
}

/// The public half of a session id and the key of its record. It is not a credential and is
/// safe to log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicId([u8; 12]);

impl PublicId {
    /// In octets.
    pub const LEN: usize = 12;
    /// Octets of the text form.
    pub const TEXT_LEN: usize = 16;
    /// The first id in order.
    pub const LEAST: Self = Self([0; 12]);
    /// The last id in order.
    pub const MOST: Self = Self([0xff; 12]);

    /// For an id that was stored or sent. New ones come from [`SessionId::generate`].
    pub const fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// The form in which stores keep it.
    pub const fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }

    /// 16 characters of base64url.
    pub fn to_text(self) -> [u8; Self::TEXT_LEN] {
        let mut text = [0; Self::TEXT_LEN];
        BASE64URL.encode_slice(self.0, &mut text).expect("12 bytes are 16 characters of base64url");
        text
    }

    /// `None` if `text` is not 16 characters of base64url.
    pub fn from_text(text: &[u8]) -> Option<Self> {
        if text.len() != Self::TEXT_LEN {
            return None;
        }
        let mut bytes = [0; Self::LEN];
        BASE64URL.decode_slice_unchecked(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_text()).expect("base64url is ASCII"))
    }
}

impl fmt::Debug for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicId({self})")
    }
}

/// SHA-256 of a verifier. A record keeps it to recognise the valid id.
#[derive(Clone, Copy)]
pub struct VerifierHash([u8; 32]);

impl VerifierHash {
    /// In octets.
    pub const LEN: usize = 32;

    /// For a hash that was stored or sent.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The form in which stores keep it.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first bytes of the hash: enough to tell verifiers apart.
    pub fn prefix(&self) -> [u8; 12] {
        *self.0.first_chunk().expect("a hash of 32 bytes has 12")
    }
}

/// Compares two digests in constant time. Compares 8 bytes at a time, because subtle takes as
/// long for one octet as for one such word.
pub(super) fn are_same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let words = |digest: &[u8; 32]| {
        let mut words = [0; 4];
        for (word, octets) in words.iter_mut().zip(digest.as_chunks().0) {
            *word = u64::from_ne_bytes(*octets);
        }
        words
    };
    words(one).ct_eq(&words(other)).into()
}

impl PartialEq for VerifierHash {
    fn eq(&self, other: &Self) -> bool {
        are_same(&self.0, &other.0)
    }
}

impl Eq for VerifierHash {}

impl fmt::Debug for VerifierHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifierHash")
    }
}

/// Domain separation: other SHA-256 hashes of the same text differ from a derived id.
const DERIVATION: &[u8] = b"sessiond: the id of an application\0";

/// A whole session id. Together with its signature it is the credential of the session.
#[derive(Clone)]
pub struct SessionId {
    public: PublicId,
    verifier: Verifier,
}

const VERIFIER_LEN: usize = 18;
const ID_LEN: usize = PublicId::LEN + VERIFIER_LEN;

type Verifier = [u8; VERIFIER_LEN];

impl SessionId {
    /// Octets of the text form.
    pub const TEXT_LEN: usize = 40;

    /// A new id for a new session.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut public = [0; 12];
        entropy.fill(&mut public);
        Self::rolled(PublicId(public), entropy)
    }

    /// A new id for the session `public`, with a new verifier.
    pub fn rolled(public: PublicId, entropy: &dyn Entropy) -> Self {
        let mut verifier = [0; VERIFIER_LEN];
        entropy.fill(&mut verifier);
        Self { public, verifier }
    }

    /// An id that depends only on `text`, which may be an application's id. The public half
    /// is the key of a record about that text. The verifier proves knowledge of the text.
    pub fn derived(text: &[u8]) -> Self {
        let digest = Sha256::new().chain_update(DERIVATION).chain_update(text).finalize();
        Self::from_bytes(digest.first_chunk().expect("a digest of 32 bytes has 30"))
    }

    /// The same verifier with another public half.
    pub fn with_public(&self, public: PublicId) -> Self {
        Self { public, ..self.clone() }
    }

    /// The half that is the key of the record and safe to log.
    pub fn public(&self) -> PublicId {
        self.public
    }

    /// SHA-256 of the secret half, as a record keeps it.
    pub fn verifier_hash(&self) -> VerifierHash {
        VerifierHash(Sha256::digest(self.verifier).into())
    }

    fn from_bytes(bytes: &[u8; ID_LEN]) -> Self {
        let mut id = Self { public: PublicId::LEAST, verifier: [0; VERIFIER_LEN] };
        let (public, verifier) = bytes.split_at(PublicId::LEN);
        id.public.0.copy_from_slice(public);
        id.verifier.copy_from_slice(verifier);
        id
    }

    /// 40 characters of base64url.
    pub fn to_text(&self) -> [u8; Self::TEXT_LEN] {
        let mut bytes = [0; ID_LEN];
        bytes[..PublicId::LEN].copy_from_slice(&self.public.0);
        bytes[PublicId::LEN..].copy_from_slice(&self.verifier);
        let mut text = [0; Self::TEXT_LEN];
        BASE64URL.encode_slice(bytes, &mut text).expect("30 bytes are 40 characters of base64url");
        text
    }

    /// `None` if `text` is not 40 characters of base64url.
    pub fn from_text(text: &[u8]) -> Option<Self> {
        if text.len() != Self::TEXT_LEN {
            return None;
        }
        let mut bytes = [0; ID_LEN];
        BASE64URL.decode_slice_unchecked(text, &mut bytes).ok()?;
        Some(Self::from_bytes(&bytes))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionId").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Counter(std::sync::atomic::AtomicU8);

    impl Entropy for Counter {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill_with(|| self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        }
    }

    #[test]
    fn rolling_keeps_the_public_half_and_changes_the_verifier() {
        let entropy = Counter(0.into());
        let id = SessionId::generate(&entropy);
        let rolled = SessionId::rolled(id.public(), &entropy);
        assert_eq!(id.public(), rolled.public());
        assert_ne!(id.verifier_hash(), rolled.verifier_hash());
    }

    #[test]
    fn digests_are_the_same_when_every_bit_is() {
        let digest = [0x5a; 32];
        assert!(are_same(&digest, &digest.clone()));
        for bit in 0..256 {
            let mut other = digest;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!are_same(&digest, &other), "bit {bit}");
        }
    }

    #[test]
    fn debug_shows_no_verifier() {
        let id = SessionId::generate(&Counter(0.into()));
        let text = String::from_utf8(id.to_text().to_vec()).expect("ASCII");
        let debug = format!("{id:?} {:?}", id.verifier_hash());
        assert!(debug.contains(&text[..16]), "{debug}");
        assert!(!debug.contains(&text[16..]), "{debug}");
    }

    proptest! {
        #[test]
        fn text_round_trips(bytes in any::<[u8; ID_LEN]>()) {
            let text = BASE64URL.encode(bytes);
            let id = SessionId::from_text(text.as_bytes()).expect("any 30 bytes are an id");
            prop_assert_eq!(id.to_text().to_vec(), text.as_bytes());
            prop_assert_eq!(id.public().to_string(), &text[..16]);
            prop_assert_eq!(PublicId::from_text(&text.as_bytes()[..16]), Some(id.public()));
        }

        #[test]
        fn other_text_is_no_id(text in any::<Vec<u8>>()) {
            if let Some(id) = SessionId::from_text(&text) {
                prop_assert_eq!(id.to_text().to_vec(), &text[..]);
            }
            if let Some(id) = PublicId::from_text(&text) {
                prop_assert_eq!(id.to_string().into_bytes(), text);
            }
        }
    }
}
