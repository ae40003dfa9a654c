//! Cookies: reading the Cookie header, writing Set-Cookie (RFC 6265bis).

use std::{
    fmt::{self, Write},
    time::Duration,
};

use httpdate::fmt_http_date;
use serde::{Deserialize, Serialize};

use super::{
    clock::{Moment, WallOffset},
    token::Token,
};

/// The most octets of a Cookie header that is looked at. HTTP servers take less by default.
pub const MAX_HEADER_LEN: usize = 64 << 10;

/// The longest time a user agent keeps a cookie (RFC 6265bis, section 5.5).
pub const MAX_AGE_LIMIT: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// The most octets that a user agent accepts: in a cookie's name and value together, and in
/// one attribute's value (RFC 6265bis, section 5.6). Here the first limit applies to the
/// whole line.
const MAX_COOKIE_LEN: usize = 4096;
const MAX_ATTRIBUTE_LEN: usize = 1024;

/// The cookie-values of the cookies called `name`, in the header's order. The header is scanned
/// as far as the iterator is read.
///
/// The header is hostile input, so any octets are accepted. Names match exactly. Only SP and
/// HTAB are trimmed. A pair of double quotes around a value is removed (RFC 6265bis, section
/// 4.1.1).
pub fn values<'h>(header: &'h [u8], name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    pairs(header).filter_map(move |pair| {
        let equals = pair.iter().position(|&octet| octet == b'=')?;
        (trim(&pair[..equals]) == name.as_bytes()).then(|| unquote(trim(&pair[equals + 1..])))
    })
}

/// The parts of the header between semicolons.
fn pairs(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    // memchr, because splitting a long header octet by octet takes longer than checking a
    // signature.
    let mut from = 0;
    let ends = memchr::memchr_iter(b';', header).chain([header.len()]);
    ends.map(move |end| &header[std::mem::replace(&mut from, end + 1)..end])
}

fn trim(mut octets: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = octets {
        octets = rest;
    }
    octets
}

fn unquote(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

/// Which requests from other sites carry the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SameSite {
    /// None, not even a link from another site.
    Strict,
    /// Only navigations of the whole page with a safe method, such as a link.
    Lax,
    /// All of them. User agents require Secure with it.
    None,
    /// No SameSite attribute: the user agent's default applies.
    Unset,
}

/// How the cookie-value is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CookieFormat {
    /// The token, unchanged.
    Plain,
    /// The token after the `s:` prefix that express-session expects.
    Express,
}

/// The attributes of a session cookie, not yet checked; see [`Cookie::new`].
#[derive(Debug, Clone)]
pub struct CookieAttributes {
    /// A token of RFC 9110. A prefix such as `__Host-` requires certain attributes.
    pub name: String,
    /// Empty: no Domain attribute; the cookie belongs to the host that set it.
    pub domain: String,
    /// Empty: no Path attribute; the path is the directory of the request that set it.
    pub path: String,
    /// Sent over encrypted connections only. Required by SameSite=None and by Partitioned.
    pub secure: bool,
    /// Scripts cannot read it.
    pub http_only: bool,
    /// Which requests from other sites carry it.
    pub same_site: SameSite,
    /// A separate cookie for each top-level site (CHIPS). Requires Secure.
    pub partitioned: bool,
    /// Whether Max-Age and Expires are sent. If not, the browser decides when the cookie ends.
    pub persistent: bool,
    /// How values are written. Every spelling is read.
    pub format: CookieFormat,
}

impl CookieAttributes {
    /// Its prefix ties the cookie to one host, to HTTPS and to the path "/".
    pub const DEFAULT_NAME: &str = "__Host-session";
}

/// A cookie of one host, for all its paths, that no script can read and no unencrypted
/// connection carries: what RFC 6265bis, section 4.1.3.2, recommends for sessions.
impl Default for CookieAttributes {
    fn default() -> Self {
        Self {
            name: Self::DEFAULT_NAME.to_owned(),
            domain: String::new(),
            path: "/".to_owned(),
            secure: true,
            http_only: true,
            same_site: SameSite::Lax,
            partitioned: false,
            persistent: true,
            format: CookieFormat::Plain,
        }
    }
}

/// Why cookie attributes were refused. `key` is the attribute at fault.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{key}: {problem}")]
pub struct CookieError {
    /// The name of the field in [`CookieAttributes`].
    pub key: &'static str,
    /// What was expected. Quotes the name at most.
    pub problem: String,
}

/// The session cookie of an engine. Its attributes were checked when it was created.
#[derive(Debug)]
pub struct Cookie {
    name: String,
    format: CookieFormat,
    persistent: bool,
    /// Domain, Path and flags. They must be the same for setting and for deleting.
    /// Otherwise the browser would keep two cookies.
    scope: String,
}

impl Cookie {
    /// Fails if a user agent would refuse the cookie: RFC 6265bis, sections 4.1 and 5.6.
    pub fn new(attributes: CookieAttributes) -> Result<Self, CookieError> {
        check(&attributes)?;
        let cookie = Self {
            scope: scope(&attributes),
            name: attributes.name,
            format: attributes.format,
            persistent: attributes.persistent,
        };
        let longest =
            cookie.name.len() + cookie.scope.len() + "=s:".len() + Token::LEN + LIFETIME_LEN;
        if longest > MAX_COOKIE_LEN {
            return err(
                "name",
                format!(
                    "the Set-Cookie line would be {longest} bytes long, the limit is {MAX_COOKIE_LEN}"
                ),
            );
        }
        Ok(cookie)
    }

    /// The cookie-name, compared exactly.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it holds the token.
    pub fn format(&self) -> CookieFormat {
        self.format
    }

    /// Whether Set-Cookie has Max-Age and Expires, unless the session says otherwise.
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// The Set-Cookie value that hands `token` to the browser, until `expire_time` if it is
    /// `persistent`. `offset` says how to show the time.
    pub fn set(
        &self,
        token: &Token,
        persistent: bool,
        expire_time: Moment,
        now: Moment,
        offset: WallOffset,
    ) -> String {
        let mut line = String::with_capacity(256);
        let prefix = match self.format {
            CookieFormat::Plain => "",
            CookieFormat::Express => "s:",
        };
        let _ = write!(line, "{}={prefix}{}", self.name, token.expose());
        if persistent {
            let age = expire_time.since(now).min(MAX_AGE_LIMIT);
            let _ = write!(
                line,
                "; Max-Age={}; Expires={}",
                // Rounded up, because 0 would delete the cookie of a live session.
                age.as_millis().div_ceil(1000),
                fmt_http_date((offset.wall(now) + age).into())
            );
        }
        line.push_str(&self.scope);
        line
    }

    /// The Set-Cookie value that makes the browser delete the cookie.
    pub fn delete(&self) -> String {
        format!("{}=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT{}", self.name, self.scope)
    }
}

/// Octets of "; Max-Age=34560000; Expires=Thu, 01 Jan 1970 00:00:00 GMT".
const LIFETIME_LEN: usize = 59;

fn scope(attributes: &CookieAttributes) -> String {
    let mut scope = String::new();
    let domain = attributes.domain.trim_start_matches('.');
    if !domain.is_empty() {
        scope.push_str("; Domain=");
        scope.push_str(domain);
    }
    if !attributes.path.is_empty() {
        scope.push_str("; Path=");
        scope.push_str(&attributes.path);
    }
    for (on, flag) in [(attributes.http_only, "; HttpOnly"), (attributes.secure, "; Secure")] {
        if on {
            scope.push_str(flag);
        }
    }
    scope.push_str(match attributes.same_site {
        SameSite::Strict => "; SameSite=Strict",
        SameSite::Lax => "; SameSite=Lax",
        SameSite::None => "; SameSite=None",
        SameSite::Unset => "",
    });
    if attributes.partitioned {
        scope.push_str("; Partitioned");
    }
    scope
}

fn err<T>(key: &'static str, problem: impl Into<String>) -> Result<T, CookieError> {
    let problem = problem.into();
    Err(CookieError { key, problem })
}

fn check(cookie: &CookieAttributes) -> Result<(), CookieError> {
    if cookie.name.is_empty() || !cookie.name.bytes().all(is_token_octet) {
        return err(
            "name",
            "expected letters, digits and any of !#$%&'*+-.^_`|~ (RFC 6265bis, section 4.1.1)",
        );
    }
    check_domain(cookie.domain.strip_prefix('.').unwrap_or(&cookie.domain))?;
    check_path(&cookie.path)?;
    if !cookie.secure {
        if cookie.same_site == SameSite::None {
            return err("same_site", "\"none\" needs secure = true");
        }
        if cookie.partitioned {
            return err("partitioned", "needs secure = true");
        }
    }
    check_prefix(cookie)
}

fn check_domain(domain: &str) -> Result<(), CookieError> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
    };
    if domain.is_empty() || (domain.len() <= 253 && domain.split('.').all(label)) {
        return Ok(());
    }
    err("domain", "expected a host name such as \"example.com\", or \"\" for the host itself")
}

fn check_path(path: &str) -> Result<(), CookieError> {
    let clean = path.bytes().all(|octet| (0x20..0x7f).contains(&octet) && octet != b';');
    if path.is_empty() || (path.starts_with('/') && clean && path.len() <= MAX_ATTRIBUTE_LEN) {
        return Ok(());
    }
    err(
        "path",
        "expected a path that starts with \"/\" and holds no \";\" and no control characters",
    )
}

/// A name's prefix requires certain attributes (RFC 6265bis, section 4.1.3). User agents
/// compare the prefix without regard to case.
fn check_prefix(cookie: &CookieAttributes) -> Result<(), CookieError> {
    let name = cookie.name.to_ascii_lowercase();
    let host = name.starts_with("__host-");
    let http = name.starts_with("__http-") || name.starts_with("__host-http-");
    if (host || http || name.starts_with("__secure-")) && !cookie.secure {
        return err("secure", format!("a cookie named {:?} needs secure = true", cookie.name));
    }
    if http && !cookie.http_only {
        return err(
            "http_only",
            format!("a cookie named {:?} needs http_only = true", cookie.name),
        );
    }
    if host && cookie.path != "/" {
        return err("path", format!("a cookie named {:?} needs path = \"/\"", cookie.name));
    }
    if host && !cookie.domain.is_empty() {
        return err("domain", format!("a cookie named {:?} needs domain = \"\"", cookie.name));
    }
    Ok(())
}

/// tchar, as RFC 9110, section 5.6.2 defines it.
fn is_token_octet(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet)
}

/// A Set-Cookie value. It holds a token, so Debug prints only the type.
pub struct SetCookie(String);

impl SetCookie {
    pub(crate) fn new(line: String) -> Self {
        Self(line)
    }

    /// The value itself. Send it to its owner and use it nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SetCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SetCookie")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::{
        id::SessionId,
        token::{Keyring, Secret},
    };

    fn found(header: &str) -> Vec<&str> {
        values(header.as_bytes(), "sid")
            .map(|value| std::str::from_utf8(value).expect("test headers are text"))
            .collect()
    }

    #[test]
    fn names_match_exactly() {
        assert_eq!(found("sid=a"), ["a"]);
        assert_eq!(found("SID=a; sidx=b; xsid=c; sid =d;\t sid=e"), ["d", "e"]);
        assert_eq!(found("sid; =sid; sid"), [""; 0]);
        assert_eq!(found("a=sid=b; sid=c=d"), ["c=d"]);
        assert_eq!(found("sid=\"q\"; sid=\"; sid="), ["q", "\"", ""]);
        assert_eq!(found("sid=a\u{a0}; \u{a0}sid=b"), ["a\u{a0}"], "only SP and HTAB are trimmed");
    }

    fn token() -> Token {
        let keyring = Keyring::new(&[Secret::new([7; 32])]).expect("long enough");
        keyring.sign(&SessionId::from_text(&[b'A'; SessionId::TEXT_LEN]).expect("base64url"))
    }

    const NOW: Moment = Moment::from_unix_millis(1_000_000_000_000);

    #[test]
    fn set_cookie_line() {
        let cookie = Cookie::new(CookieAttributes::default()).expect("valid");
        let expire_time = NOW + Duration::from_millis(1_800_001);
        let line = cookie.set(&token(), cookie.is_persistent(), expire_time, NOW, WallOffset::ZERO);
        let expected = format!(
            "__Host-session={}; Max-Age=1801; Expires=Sun, 09 Sep 2001 02:16:40 GMT; Path=/; HttpOnly; Secure; SameSite=Lax",
            token().expose()
        );
        assert_eq!(line, expected);
    }

    #[test]
    fn a_browser_session_cookie_has_no_lifetime() {
        let cookie = Cookie::new(CookieAttributes {
            name: "app".into(),
            domain: ".example.com".into(),
            path: "/x".into(),
            same_site: SameSite::None,
            partitioned: true,
            http_only: false,
            persistent: false,
            format: CookieFormat::Express,
            ..CookieAttributes::default()
        })
        .expect("valid");
        let scope = "; Domain=example.com; Path=/x; Secure; SameSite=None; Partitioned";
        let expire_time = NOW + Duration::from_secs(9);
        let line = cookie.set(&token(), cookie.is_persistent(), expire_time, NOW, WallOffset::ZERO);
        assert_eq!(line, format!("app=s:{}{scope}", token().expose()));
        assert_eq!(
            cookie.delete(),
            format!("app=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT{scope}"),
            "the deletion cookie has the same Domain, Path and flags"
        );
    }

    #[test]
    fn max_age_stops_at_400_days() {
        let cookie = Cookie::new(CookieAttributes::default()).expect("valid");
        let expire_time = NOW + MAX_AGE_LIMIT * 3;
        let line = cookie.set(&token(), cookie.is_persistent(), expire_time, NOW, WallOffset::ZERO);
        assert!(line.contains("; Max-Age=34560000; Expires=Mon, 14 Oct 2002"), "{line}");
    }

    #[test]
    fn refuses_what_a_browser_would_refuse() {
        type Spoil = fn(&mut CookieAttributes);
        let cases: [(&str, Spoil); 15] = [
            ("name", |c| c.name = String::new()),
            ("name", |c| c.name = "a b".into()),
            ("name", |c| c.name = "a=b".into()),
            ("name", |c| c.name = "n".repeat(4000)),
            ("secure", |c| c.secure = false),
            ("secure", |c| (c.name, c.secure) = ("__sEcure-a".into(), false)),
            ("path", |c| c.path = "/app".into()),
            ("domain", |c| c.domain = "example.com".into()),
            ("http_only", |c| (c.name, c.http_only) = ("__Http-a".into(), false)),
            ("http_only", |c| (c.name, c.http_only) = ("__Host-Http-a".into(), false)),
            ("same_site", |c| {
                (c.name, c.secure, c.same_site) = ("a".into(), false, SameSite::None)
            }),
            ("partitioned", |c| (c.name, c.secure, c.partitioned) = ("a".into(), false, true)),
            ("path", |c| (c.name, c.path) = ("a".into(), "x".into())),
            ("path", |c| (c.name, c.path) = ("a".into(), "/;x".into())),
            ("domain", |c| (c.name, c.domain) = ("a".into(), "exa mple.com".into())),
        ];
        for (index, (key, change)) in cases.into_iter().enumerate() {
            let mut changed = CookieAttributes::default();
            change(&mut changed);
            let error = Cookie::new(changed).expect_err(&format!("case {index} should be refused"));
            assert_eq!(error.key, key, "case {index}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_scanned(header in any::<Vec<u8>>(), name in "[a-z]{1,3}") {
            for value in values(&header, &name) {
                prop_assert!(!value.contains(&b';'));
            }
        }

        #[test]
        fn a_cookie_among_others_is_found(
            before in proptest::collection::vec("[a-z]{1,8}=[!-:<-~]{0,20}", 0..5),
            value in "[A-Za-z0-9._~+/-]{1,90}",
            after in "[^;]{0,40}",
        ) {
            let header = format!("{}; the-one={value}; {after}", before.join("; "));
            let all: Vec<_> = values(header.as_bytes(), "the-one").collect();
            prop_assert!(all.contains(&value.as_bytes()), "{:?}", header);
        }
    }
}
