//! Bearer tokens: which callers are admitted at all (RFC 6750, section 2.1).

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tonic::Status;

use crate::service::fault::{Fault, Reason};

/// Opens a service to callers that bring one of the tokens. Keeps hashes, so
/// that all comparisons are of one length. Prints its type only.
#[derive(Clone)]
pub struct BearerAuth {
    hashes: Arc<[[u8; 32]]>,
}

impl BearerAuth {
    /// Keeps only SHA-256 hashes of the tokens. Without tokens, every call is refused.
    pub fn new<'t>(tokens: impl IntoIterator<Item = &'t [u8]>) -> Self {
        Self { hashes: tokens.into_iter().map(|token| Sha256::digest(token).into()).collect() }
    }

    /// Refuses a caller that brings none of the tokens.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), Status> {
        let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let Some((scheme, token)) = given.and_then(|given| given.split_at_checked(7)) else {
            return Err(required());
        };
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return Err(required());
        }
        if !self.knows(token.trim_ascii()) {
            let message =
                "the bearer token is none of the daemon's; expected one of listen.auth.token_file";
            return Err(Fault::new(Reason::TokenUnknown, message).into());
        }
        Ok(())
    }

    fn knows(&self, token: &[u8]) -> bool {
        let hash: [u8; 32] = Sha256::digest(token).into();
        // Every hash is compared, so that the time does not tell which one it was.
        let any = self.hashes.iter().fold(Choice::from(0), |any, known| any | known.ct_eq(&hash));
        any.into()
    }
}

impl fmt::Debug for BearerAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerAuth")
    }
}

fn required() -> Status {
    let message = "expected the metadata \"authorization: Bearer TOKEN\"";
    Fault::new(Reason::TokenRequired, message).into()
}
