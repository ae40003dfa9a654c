//! A browser's cookies: it keeps what Set-Cookie sets.

use sessiond::grpc::pb::{Credential, credential::Kind};

/// Keeps one cookie, as a browser would.
#[derive(Clone, Default)]
pub(crate) struct Browser {
    /// `name=value`.
    pub cookie: Option<String>,
}

impl Browser {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Processes the Set-Cookie values of an answer.
    pub(crate) fn learn(&mut self, set_cookie: &[String]) {
        for line in set_cookie {
            let pair = line.split(';').next().expect("a Set-Cookie value has a pair").to_owned();
            let deleted = line.contains("; Max-Age=0;");
            self.cookie = (!deleted).then_some(pair);
        }
    }

    /// A browser that has received `set_cookie`.
    pub(crate) fn with(set_cookie: &[String]) -> Self {
        let mut browser = Self::new();
        browser.learn(set_cookie);
        assert!(browser.cookie.is_some(), "expected a cookie to be set");
        browser
    }

    /// The Cookie header of its next request.
    pub(crate) fn header(&self) -> String {
        self.cookie.clone().unwrap_or_default()
    }

    /// The credential that a frontend passes on.
    pub(crate) fn credential(&self) -> Option<Credential> {
        cookie_header(self.header())
    }
}

pub(crate) fn cookie_header(header: impl Into<Vec<u8>>) -> Option<Credential> {
    Some(Credential { kind: Some(Kind::CookieHeader(header.into().into())) })
}

pub(crate) fn token(token: impl Into<Vec<u8>>) -> Option<Credential> {
    Some(Credential { kind: Some(Kind::Token(token.into().into())) })
}
