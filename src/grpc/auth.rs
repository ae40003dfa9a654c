//! Which callers are admitted to a listener: by bearer token (RFC 6750, section 2.1), or by the
//! certificate of their connection.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use tonic::Status;

use crate::service::{
    access::{Access, Caller, Origin, Refusals, Role},
    fault::{Fault, Reason},
};

/// Opens a listener to callers with its role.
pub struct Guard {
    /// Who may call. It may be replaced at any time, and counts for the calls that begin then.
    pub access: Arc<ArcSwap<Access>>,
    /// What callers must be admitted to.
    pub role: Role,
    /// Is told of callers that are refused.
    pub refusals: Arc<dyn Refusals>,
}

impl Guard {
    /// Who calls. Refuses a caller that does not have the role.
    pub fn admit(&self, headers: &HeaderMap, origin: &Origin) -> Result<Caller, Status> {
        let access = self.access.load();
        let token = if access.tokens.is_empty() { None } else { bearer(headers) };
        access.admit(token, origin, self.role).map_err(|reason| {
            self.refusals.refused(reason.name(), origin.remote);
            Fault::new(reason, self.explain(reason)).into()
        })
    }

    fn explain(&self, reason: Reason) -> String {
        match reason {
            Reason::TokenRequired => {
                "expected the metadata \"authorization: Bearer TOKEN\"".to_owned()
            }
            Reason::TokenUnknown => "the bearer token is none of the daemon's; expected one of \
                                     listen.auth.token_file"
                .to_owned(),
            _ => format!(
                "the caller does not have the role {:?}, which this listener is for; roles are \
                 given in listen.auth.token_file and listen.auth.subjects",
                self.role.name()
            ),
        }
    }
}

/// The token that a caller bears. `None`: there is none, or the header has another form.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes)?;
    let (scheme, token) = given.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}
