//! `[listen.auth]`: the file of bearer tokens and the names in certificates, and who may call by
//! them.

use std::{io, path::Path};

use zeroize::Zeroizing;

use super::{ConfigError, Listen, files};
use crate::service::access::{Access, KnownSubject, KnownToken, Role, Roles};

const TOKEN_FILE: &str = "listen.auth.token_file";
const SUBJECTS: &str = "listen.auth.subjects";

/// The least length of a bearer token. 16 characters of hexadecimal are 64 bits, which nobody
/// guesses over a network; `sessiond secret` prints 43.
const MIN_TOKEN_LEN: usize = 16;
const MAX_NAME_LEN: usize = 64;

/// How the names in a certificate begin, by their kind.
const KINDS: [&str; 4] = ["CN=", "DNS:", "URI:", "email:"];

/// Reads the file of tokens and checks the values. What is weak in production is added to
/// `advice`.
pub(super) fn check(listen: &Listen, advice: &mut Vec<String>) -> Result<Access, ConfigError> {
    let tokens = match files::read(TOKEN_FILE, &listen.auth.token_file)? {
        None => Vec::new(),
        Some(text) => tokens(&text, !listen.admin.is_empty(), advice)?,
    };
    let subjects: Vec<_> =
        listen.auth.subjects.iter().map(|text| subject(text)).collect::<Result<_, _>>()?;
    if !subjects.is_empty() && listen.tls.client_ca_file.as_os_str().is_empty() {
        let problem = "needs listen.tls.client_ca_file beside it, by which clients are asked for \
                       a certificate";
        return Err(ConfigError::new(SUBJECTS, problem));
    }
    Ok(Access { tokens, subjects })
}

fn tokens(
    text: &str,
    has_admin: bool,
    advice: &mut Vec<String>,
) -> Result<Vec<KnownToken>, ConfigError> {
    let mut tokens: Vec<(usize, KnownToken)> = Vec::new();
    let mut bare = Vec::new();
    for (number, line) in files::secrets(TOKEN_FILE, "token", text)? {
        let at =
            |problem: String| ConfigError::new(TOKEN_FILE, format!("line {number}: {problem}"));
        let line = Line::parse(line).map_err(|problem| at(problem.to_owned()))?;
        if line.token.len() < MIN_TOKEN_LEN {
            return Err(at(format!(
                "expected a token of at least {MIN_TOKEN_LEN} characters, found {}; `sessiond \
                 secret` prints a fresh one",
                line.token.len()
            )));
        }
        advice.extend(files::few_characters(line.token).map(|count| {
            format!(
                "{TOKEN_FILE}: the token on line {number} has only {count} different characters, so \
                 that it can be guessed; `sessiond secret` prints a fresh one"
            )
        }));
        if line.name.is_none() {
            bare.push(number.to_string());
        }
        let name = line.name.map_or_else(|| format!("line {number} of token_file"), str::to_owned);
        let token = KnownToken::new(&name, line.roles, line.token);
        if let Some((first, _)) = tokens.iter().find(|(_, known)| known.is_same(&token)) {
            return Err(at(format!("expected another token than that of line {first}")));
        }
        tokens.push((number, token));
    }
    if !bare.is_empty() && has_admin {
        let lines = if bare.len() == 1 { "line" } else { "lines" };
        advice.push(format!(
            "{TOKEN_FILE}: the token without a role on {lines} {} also opens listen.admin, where \
             all sessions can be exported; write \"frontend NAME TOKEN\" or \"admin NAME TOKEN\"",
            bare.join(", ")
        ));
    }
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

/// A line of the file: `TOKEN`, or `ROLE NAME TOKEN`.
struct Line<'l> {
    roles: Roles,
    name: Option<&'l str>,
    token: &'l str,
}

impl<'l> Line<'l> {
    /// The error says what was expected. It repeats nothing, because any word may be a secret.
    fn parse(line: &'l str) -> Result<Self, &'static str> {
        let words: Vec<_> = line.split_whitespace().collect();
        let parsed = match words[..] {
            [token] => Self { roles: Roles::ALL, name: None, token },
            [roles, name, token] => {
                let roles = roles.parse().map_err(|_| {
                    "expected the role \"frontend\", \"admin\" or \"frontend+admin\" before the \
                     name and the token"
                })?;
                Self { roles, name: Some(name), token }
            }
            _ => return Err("expected a token alone, or ROLE NAME TOKEN"),
        };
        if !parsed.token.bytes().all(|octet| octet.is_ascii_graphic()) {
            return Err("expected a token of visible ASCII characters");
        }
        let clean = |c: char| c.is_ascii_alphanumeric() || "-_.@:/".contains(c);
        let fits = |name: &str| name.len() <= MAX_NAME_LEN && name.chars().all(clean);
        if !parsed.name.is_none_or(fits) {
            return Err("expected a name of at most 64 letters, digits and \"-_.@:/\"");
        }
        Ok(parsed)
    }
}

/// `ROLE KIND:NAME`.
fn subject(text: &str) -> Result<KnownSubject, ConfigError> {
    let parts = text.trim().split_once(char::is_whitespace);
    let subject = parts.and_then(|(roles, name)| {
        let (roles, name) = (roles.parse().ok()?, name.trim());
        let kind = KINDS.iter().find(|kind| name.starts_with(**kind))?;
        (name.len() > kind.len()).then(|| KnownSubject { name: name.into(), roles })
    });
    subject.ok_or_else(|| {
        let problem = format!(
            "expected a role and a name in the certificate, such as \"frontend CN=shop\", \"admin \
             DNS:ops.example.com\", \"admin URI:spiffe://example.com/ops\" or \"admin \
             email:ops@example.com\", found {text:?}"
        );
        ConfigError::new(SUBJECTS, problem)
    })
}

/// The first token with this role in a file that a command was given, or else the first token.
pub fn bearer_token(path: &Path, role: Role) -> io::Result<Option<Zeroizing<String>>> {
    let text = Zeroizing::new(std::fs::read_to_string(path)?);
    let tokens: Vec<_> = files::lines(&text)
        .map(|line| {
            // A file that belongs to another program holds a token alone.
            let parsed = Line::parse(line);
            parsed.map_or((Roles::ALL, line), |line| (line.roles, line.token))
        })
        .collect();
    let found = tokens.iter().find(|(roles, _)| roles.has(role)).or(tokens.first());
    Ok(found.map(|(_, token)| Zeroizing::new((*token).to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::access::{Caller, Origin};

    fn of(text: &str) -> Result<(Access, Vec<String>), String> {
        let mut advice = Vec::new();
        let tokens = tokens(text, true, &mut advice).map_err(|error| error.to_string())?;
        Ok((Access { tokens, subjects: Vec::new() }, advice))
    }

    #[test]
    fn a_line_is_a_token_alone_or_with_role_and_name() {
        let text =
            "# who\nfrontend shop  a-token-of-the-shop\nadmin+frontend ops@x a-token-of-the-ops\n";
        let (access, advice) = of(text).expect("two tokens");
        assert_eq!(advice, [""; 0]);
        let caller =
            |token: &str, role| access.admit(Some(token.as_bytes()), &Origin::default(), role).ok();
        let named = |name: &str| Some(Caller::Named(name.into()));
        assert_eq!(caller("a-token-of-the-shop", Role::Frontend), named("shop"));
        assert_eq!(caller("a-token-of-the-shop", Role::Admin), None);
        assert_eq!(caller("a-token-of-the-ops", Role::Admin), named("ops@x"));

        let (access, advice) = of("\na-token-of-16-ch\n#\nanother-of-16-chars\n").expect("bare");
        assert_eq!(advice.len(), 1, "{advice:?}");
        assert!(advice[0].contains("on lines 2, 4 also opens listen.admin"), "{advice:?}");
        let bare = access.admit(Some(b"a-token-of-16-ch"), &Origin::default(), Role::Admin);
        assert_eq!(bare.ok(), named("line 2 of token_file"));
    }

    #[test]
    fn a_bad_line_is_named_and_not_repeated() {
        for (line, expected) in [
            ("root shop a-token-of-the-shop", "expected the role \"frontend\", \"admin\""),
            ("frontend a-token-of-the-shop", "expected a token alone, or ROLE NAME TOKEN"),
            ("frontend my shop a-token-of-the-shop", "expected a token alone"),
            ("frontend sh\"op a-token-of-the-shop", "expected a name of at most 64"),
            ("admin ops short", "expected a token of at least 16 characters, found 5"),
            ("admin ops a-töken-of-the-ops", "expected a token of visible ASCII"),
            ("admin ops first-of-all-tokens", "expected another token than that of line 1"),
        ] {
            let error = of(&format!("first-of-all-tokens\n{line}\n")).expect_err(line);
            let expected = format!("listen.auth.token_file: line 2: {expected}");
            assert!(error.starts_with(&expected), "expected {expected:?}, found {error:?}");
            for word in line.split_whitespace().skip(1) {
                assert!(!error.contains(word), "expected no {word:?} in {error:?}");
            }
        }
    }

    #[test]
    fn a_subject_has_a_role_and_a_kind() {
        for (text, name) in [
            ("frontend CN=My Shop", "CN=My Shop"),
            ("admin  URI:spiffe://example.com/ops", "URI:spiffe://example.com/ops"),
            ("frontend+admin DNS:a.example", "DNS:a.example"),
        ] {
            assert_eq!(&*subject(text).expect(text).name, name);
        }
        for bad in ["", "CN=shop", "frontend", "frontend shop", "frontend CN=", "root CN=shop"] {
            let error = subject(bad).expect_err(bad).to_string();
            assert!(error.starts_with("listen.auth.subjects: expected a role"), "{error}");
        }
    }
}
