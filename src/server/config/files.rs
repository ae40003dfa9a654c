//! The files that a configuration names: secrets, tokens, passwords.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use zeroize::Zeroizing;

use super::{ConfigError, reading};

/// The text of a file. `None`: no file is named.
pub(super) fn read(key: &str, path: &Path) -> Result<Option<Zeroizing<String>>, ConfigError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let text = reading::text(path)
        .map_err(|error| ConfigError::new(key, reading::unreadable(path, &error)))?;
    Ok(Some(text))
}

/// The lines that say something, without the white space round them. A line that begins with
/// `#` is a comment.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    numbered(text).map(|(_, line)| line)
}

/// The same, with their numbers. The first line of the file has the number 1.
pub(super) fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().map(str::trim).enumerate().map(|(at, line)| (at + 1, line));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// The secrets in a file, one on each line, with the numbers of their lines. `what` names
/// one. Fails if there is none, or if a line is part of a file of another kind: it would be a
/// secret that its reader did not mean, and often one that others know.
pub(super) fn secrets<'t>(
    key: &str,
    what: &str,
    text: &'t str,
) -> Result<Vec<(usize, &'t str)>, ConfigError> {
    let secrets: Vec<_> = numbered(text).collect();
    if secrets.is_empty() {
        let problem = format!("the file holds no {what}, expected one on each line");
        return Err(ConfigError::new(key, problem));
    }
    for (number, line) in &secrets {
        // The line is not repeated, because it may hold a secret.
        let found = if line.starts_with("-----BEGIN ") || line.starts_with("-----END ") {
            "a PEM block"
        } else if is_assignment(line) {
            "NAME=value"
        } else {
            continue;
        };
        let problem = format!("line {number}: expected a {what} and nothing else, found {found}");
        return Err(ConfigError::new(key, problem));
    }
    Ok(secrets)
}

/// How many different characters there are in a secret or token that can be guessed: fewer than
/// in any that is made at random. `None`: enough.
pub(super) fn few_characters(secret: &str) -> Option<usize> {
    let count = secret.chars().collect::<BTreeSet<_>>().len();
    (count < LEAST_CHARACTERS).then_some(count)
}

/// 16 random hexadecimal digits have fewer than 6 different ones once in 200,000 times.
const LEAST_CHARACTERS: usize = 6;

/// `NAME=value`, as in a file of environment variables. Base64 that ends in padding is none.
fn is_assignment(line: &str) -> bool {
    let line = line.strip_prefix("export ").unwrap_or(line);
    let Some((name, value)) = line.split_once('=') else { return false };
    let is_padding = value.bytes().all(|octet| octet == b'=') && line.len().is_multiple_of(4);
    let name = name.trim_end();
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !is_padding && starts && name.chars().all(clean)
}

/// What an operator should know of the permissions of a file with a secret. `None`: nothing,
/// or they cannot be read.
///
/// The rule is that of PostgreSQL for its key file: the owner only; if the owner is root, a
/// group may read, which is how a secret is mounted for a daemon that is not root.
pub(super) fn exposure(key: &str, path: &Path) -> Option<String> {
    let found = fs::metadata(path).ok()?;
    // A pipe, as the shell makes for `<(...)`, is gone when it was read.
    if !found.is_file() {
        return None;
    }
    let mode = found.permissions().mode();
    let group = if found.uid() == 0 { 0o020 } else { 0o060 };
    let open = mode & (0o006 | group);
    let who = match open & 0o006 {
        _ if open == 0 => return None,
        0 => "its group",
        _ => "every user of the machine",
    };
    let what = if open & 0o022 == 0 { "read" } else { "read or change" };
    // The file exists, so its path is no secret that was put here by mistake.
    Some(format!(
        "{key}: {who} may {what} the file {} (mode {:04o}); chmod 600",
        reading::plain(path).display(),
        mode & 0o7777
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_empty_lines_are_no_secrets() {
        let text = "\u{feff}# newest first\n\n  one  \r\n   # old\ntwo#2\n";
        let found = secrets("key", "secret", text).expect("two secrets");
        assert_eq!(found, [(3, "one"), (5, "two#2")]);
        for nothing in ["", "\n", "# a\n  #b"] {
            let error = secrets("key", "token", nothing).expect_err("nothing is there");
            let expected = "key: the file holds no token, expected one on each line";
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn files_of_another_kind_are_refused_with_the_line() {
        for (line, found) in [
            ("SESSION_SECRET=hunter2-hunter2-hunter2-hunter2", "NAME=value"),
            ("export SECRET=\"hunter2\"", "NAME=value"),
            ("cookie.secret = hunter2", "NAME=value"),
            ("SECRET=", "NAME=value"),
            ("-----BEGIN PRIVATE KEY-----", "a PEM block"),
            ("-----END CERTIFICATE-----", "a PEM block"),
        ] {
            let text = format!("#\nfine\n{line}\n");
            let error = secrets("key", "secret", &text);
            let expected =
                format!("key: line 3: expected a secret and nothing else, found {found}");
            assert_eq!(error.expect_err(line).to_string(), expected);
        }
        for secret in [
            "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMQ==",
            "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=",
            "a phrase of words with = in it",
            "$argon2id$v=19$m=1",
            "=starts",
        ] {
            assert_eq!(secrets("key", "secret", secret).expect(secret), [(1, secret)]);
        }
    }

    #[test]
    fn what_others_may_read_or_change_is_told() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("secret");
        fs::write(&path, "x").expect("written");
        let is_root = fs::metadata(&path).expect("there").uid() == 0;
        for (mode, told) in [
            (0o600, None),
            (0o400, None),
            (0o640, (!is_root).then_some("its group may read")),
            (0o660, Some("its group may read or change")),
            (0o604, Some("every user of the machine may read")),
            (0o666, Some("every user of the machine may read or change")),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
            let told = told.map(|told| {
                format!("key: {told} the file {} (mode {mode:04o}); chmod 600", path.display())
            });
            assert_eq!(exposure("key", &path), told, "{mode:o}");
        }
        assert_eq!(exposure("key", &scratch.path().join("nope")), None);
        assert_eq!(exposure("key", scratch.path()), None);
    }
}
