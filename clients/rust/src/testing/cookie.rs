//! Ids, tokens and cookies as the daemon makes and reads them, so that a test sees what a
//! browser would see.

use std::time::{Duration, SystemTime};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::EngineOptions;
use crate::{
    pb::{self, SessionState},
    wire::trim,
};

pub(super) const MAX_HEADER_BYTES: usize = 64 << 10;
const MAX_CANDIDATES: usize = 8;
const PUBLIC_CHARS: usize = 16;
const ID_CHARS: usize = 40;
const SIGNATURE_CHARS: usize = 43;

/// What a record keeps of the secret half of an id.
pub(super) type Verifier = [u8; 32];

/// A session id: 16 characters that are public, 24 that are secret.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) id: String,
    secret: String,
}

fn random(octets: usize) -> String {
    let octets: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(octets).collect();
    BASE64_URL_SAFE_NO_PAD.encode(octets)
}

pub(super) fn random_key() -> Vec<u8> {
    random(32).into_bytes()
}

impl Identity {
    pub(super) fn new() -> Self {
        Self { id: random(12), secret: random(18) }
    }

    /// Another id for the same session.
    pub(super) fn rolled(&self) -> Self {
        Self { id: self.id.clone(), secret: random(18) }
    }

    pub(super) fn verifier(&self) -> Verifier {
        Sha256::digest(&self.secret).into()
    }

    pub(super) fn token(&self, key: &[u8]) -> String {
        let text = format!("{}{}", self.id, self.secret);
        let signature = BASE64_STANDARD_NO_PAD.encode(signed(key, &text).finalize().into_bytes());
        format!("{text}.{signature}")
    }
}

fn signed(key: &[u8], text: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(text.as_bytes());
    mac
}

/// The ids that a credential proves, and why there is no session if none of them is live.
pub(super) fn present(
    credential: Option<&pb::Credential>,
    engine: &EngineOptions,
    key: &[u8],
) -> (Vec<Identity>, SessionState) {
    use pb::credential::Kind;
    let values = match credential.and_then(|credential| credential.kind.as_ref()) {
        None => vec![],
        Some(Kind::CookieHeader(header)) if header.len() > MAX_HEADER_BYTES => {
            return (vec![], SessionState::Invalid);
        }
        Some(Kind::CookieHeader(header)) => cookie_values(header, &engine.cookie_name),
        Some(Kind::Token(token)) => vec![token.as_ref()],
    };
    if values.is_empty() {
        return (vec![], SessionState::None);
    }
    let shaped = values.into_iter().filter_map(of_shape).take(MAX_CANDIDATES);
    let proven: Vec<_> =
        shaped.filter_map(|(text, signature)| prove(&text, &signature, key)).collect();
    let state = if proven.is_empty() { SessionState::Invalid } else { SessionState::NotFound };
    (proven, state)
}

fn cookie_values<'a>(header: &'a [u8], name: &str) -> Vec<&'a [u8]> {
    let value = |pair: &'a [u8]| {
        let equals = pair.iter().position(|&octet| octet == b'=')?;
        let value = trim(&pair[equals + 1..]);
        let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        (trim(&pair[..equals]) == name.as_bytes()).then(|| quoted.unwrap_or(value))
    };
    header.split(|&octet| octet == b';').filter_map(value).collect()
}

/// Id and signature of a value of a token's shape. It may have the prefix of express-session,
/// and be percent-encoded.
fn of_shape(value: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(value).ok()?;
    let bare = ["s:", "s%3A", "s%3a"].iter().find_map(|prefix| text.strip_prefix(prefix));
    let text = bare.unwrap_or(text);
    let mut text = text.to_owned();
    for (escape, plain) in [("%2b", "+"), ("%2B", "+"), ("%2f", "/"), ("%2F", "/")] {
        text = text.replace(escape, plain);
    }
    let (id, signature) = text.split_once('.')?;
    let fits =
        id.len() == ID_CHARS && signature.len() == SIGNATURE_CHARS && id.bytes().all(is_base64url);
    fits.then(|| (id.to_owned(), signature.to_owned()))
}

/// Whether a text can be the public half of an id.
pub(super) fn is_public(text: &str) -> bool {
    text.len() == PUBLIC_CHARS && text.bytes().all(is_base64url)
}

fn is_base64url(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_')
}

fn prove(text: &str, signature: &str, key: &[u8]) -> Option<Identity> {
    let signature = BASE64_STANDARD_NO_PAD.decode(signature).ok()?;
    signed(key, text).verify_slice(&signature).ok()?;
    let (id, secret) = text.split_at(PUBLIC_CHARS);
    Some(Identity { id: id.to_owned(), secret: secret.to_owned() })
}

/// The value of a Set-Cookie line. `max_age`: `None` is not persistent.
pub(super) fn set_cookie(
    engine: &EngineOptions,
    token: &str,
    max_age: Option<Duration>,
    now: SystemTime,
) -> String {
    let age = max_age.map_or_else(String::new, |age| {
        let expires = httpdate::fmt_http_date(now + age);
        format!("; Max-Age={}; Expires={expires}", age.as_nanos().div_ceil(1_000_000_000))
    });
    let EngineOptions { cookie_name, .. } = engine;
    format!("{cookie_name}={}{token}{age}{}", engine.prefix(), attributes(engine))
}

/// The value of the Set-Cookie line that deletes the cookie.
pub(super) fn deletion(engine: &EngineOptions) -> String {
    let name = &engine.cookie_name;
    let attributes = attributes(engine);
    format!("{name}=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT{attributes}")
}

fn attributes(engine: &EngineOptions) -> String {
    let name = &engine.cookie_name;
    let is_secure = name.starts_with("__Host-") || name.starts_with("__Secure-");
    format!("; Path=/; HttpOnly{}; SameSite=Lax", if is_secure { "; Secure" } else { "" })
}
