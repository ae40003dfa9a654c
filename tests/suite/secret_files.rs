//! Files of secrets and tokens, and what `check` and `serve` warn about.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use sessiond::server::config::{Sources, check, load};

use crate::{
    configuration::{checked, pairs, sources},
    support::program::{Program, run, stderr, stdout},
};

#[test]
fn secrets_come_from_the_file_first() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = directory.path().join("secrets");
    write_closed(
        &path,
        "\u{feff}# newest first\n\n  the file's secret, which signs, is long enough  \n\nold\n",
    );
    let file = ("engine.default.cookie.secret_file", path.to_str().expect("a path"));
    let warnings = checked(&[file, ("engine.default.cookie.secrets", "older")]).expect("valid");
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].contains("2 of the older secrets are shorter than 32 bytes"),
        "{warnings:?}"
    );
    fs::write(&path, "\n# none yet\n").expect("a file");
    let error = checked(&[file]).expect_err("an empty file is a mistake");
    assert!(error.contains("the file holds no secret"), "{error}");
}

/// A file that only its owner may read.
fn write_closed(path: &Path, text: &str) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("ours");
}

/// The first line signed every cookie, whatever it was.
#[test]
fn a_comment_does_not_sign_and_check_says_what_does() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = directory.path().join("secrets");
    let secret = "hunter2-hunter2-hunter2-hunter2-hunter2";
    write_closed(
        &path,
        &format!("# cookie secrets of the shop, newest first\n\n{secret}\n{secret}-old\n"),
    );
    let file = format!("--set=engine.default.cookie.secret_file={}", path.display());
    let output = run(["check", file.as_str()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    let line = "# engine.default: 2 cookie secrets; line 3 of cookie.secret_file signs";
    assert!(shown.lines().any(|found| found == line), "expected {line} in {shown}");
    assert!(!shown.contains("hunter2") && !stderr(&output).contains("hunter2"));
    let inline = format!("--set=engine.default.cookie.secrets={secret}");
    let shown = stdout(&run(["check", inline.as_str()]));
    let line = "# engine.default: 1 cookie secret; the first of cookie.secrets signs";
    assert!(shown.lines().any(|found| found == line), "expected {line} in {shown}");

    for (text, found) in [
        (format!("#\nSESSION_SECRET={secret}\n"), "NAME=value"),
        (format!("#\n-----BEGIN PRIVATE KEY-----\n{secret}\n"), "a PEM block"),
    ] {
        write_closed(&path, &text);
        for command in ["check", "serve"] {
            let output = run([command, file.as_str()]);
            assert_eq!(output.status.code(), Some(78), "{command}");
            // `check` also says which layer named the file.
            let source = match command {
                "check" => " in --set engine.default.cookie.secret_file",
                _ => "",
            };
            let expected = format!(
                "sessiond: engine.default.cookie.secret_file{source}: line 2: expected a secret and \
                 nothing else, found {found}\n"
            );
            assert_eq!(stderr(&output), expected);
        }
    }
}

#[test]
fn a_bearer_token_that_can_be_guessed_is_refused() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = directory.path().join("tokens");
    let file = ("listen.auth.token_file", path.to_str().expect("a path"));
    for (text, expected) in [
        (
            "# callers\na-token-of-16-ch\nx\n",
            "listen.auth.token_file: line 3: expected a token of at least 16 characters, found 1; \
             `sessiond secret` prints a fresh one",
        ),
        (
            "a token with blanks in it\n",
            "listen.auth.token_file: line 1: expected a token alone, or ROLE NAME TOKEN",
        ),
        (
            "frontend shop a-token-of-16-ch\u{e4}\n",
            "listen.auth.token_file: line 1: expected a token of visible ASCII characters",
        ),
        (
            "TOKEN=a-token-of-16-ch\n",
            "listen.auth.token_file: line 1: expected a token and nothing else, found NAME=value",
        ),
        ("# none\n", "listen.auth.token_file: the file holds no token, expected one on each line"),
    ] {
        write_closed(&path, text);
        assert_eq!(checked(&[file]).expect_err(text), expected);
    }
    write_closed(&path, "# callers\na-token-of-16-ch\n");
    assert_eq!(checked(&[file]), Ok(vec![]));
}

#[test]
fn files_with_secrets_that_others_may_read_are_told_once() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = directory.path().join("secrets");
    write_closed(&path, "a-signing-secret-for-tests-long-enough\n");
    let path = path.to_str().expect("a path");
    let settings = [
        ("engine.default.cookie.secret_file", path),
        ("listen.auth.token_file", path),
        ("store.backend", "redis"),
        ("store.redis.password_file", path),
    ];
    assert_eq!(checked(&settings), Ok(vec![]));
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("ours");
    let expected = format!(
        "listen.auth.token_file: every user of the machine may read or change the file {path} \
         (mode 0666); chmod 600"
    );
    assert_eq!(checked(&settings), Ok(vec![expected]), "one file, one warning");
    let file = format!("--set=engine.default.cookie.secret_file={path}");
    let output = run(["check", file.as_str()]);
    assert_eq!(output.status.code(), Some(0));
    let expected =
        "sessiond: warning: engine.default.cookie.secret_file: every user of the machine";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
}

#[test]
fn check_and_serve_warn_of_what_is_weak_in_production() {
    fn advice(settings: &[(&str, &str)]) -> Vec<String> {
        let secret = ("engine.default.cookie.secrets", "a-signing-secret-for-tests-long-enough");
        let settings = pairs(&[&[secret], settings].concat());
        let config = load(Sources { settings, ..sources() }).expect("each value is possible");
        check(&config).expect("it is valid").advice
    }
    let sound = ("engine.default.absolute_duration", "12h");
    assert_eq!(advice(&[sound]), [] as [&str; 0]);
    let none = advice(&[]);
    assert_eq!(none.len(), 1, "{none:?}");
    assert!(none[0].starts_with("engine.default.absolute_duration = \"none\": "), "{none:?}");
    for (settings, expected) in [
        (vec![("cookie.name", "session")], vec!["cookie.name = \"session\" has no prefix"]),
        (vec![("cookie.name", "__SECURE-session")], vec![]),
        (vec![("cookie.http_only", "false")], vec!["cookie.http_only = false"]),
        (
            vec![("cookie.secure", "false"), ("cookie.name", "session")],
            vec!["cookie.secure = false", "cookie.name = \"session\" has no prefix"],
        ),
        (vec![("touch_granularity", "7m 30s")], vec![]),
        (
            vec![("touch_granularity", "451s")],
            vec![
                "touch_granularity = \"7m 31s\" is more than a quarter of the duration, which is 30m",
            ],
        ),
    ] {
        let keys: Vec<_> =
            settings.iter().map(|(key, value)| (format!("engine.default.{key}"), *value)).collect();
        let keys = keys.iter().map(|(key, value)| (key.as_str(), *value));
        let found = advice(&keys.chain([sound]).collect::<Vec<_>>());
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            let expected = format!("engine.default.{expected}");
            assert!(found.starts_with(&expected), "expected {expected}, found {found}");
        }
    }
    let secret = "--set=engine.default.cookie.secrets=a-signing-secret-for-tests-long-enough";
    let output = run(["check", secret]);
    assert_eq!(output.status.code(), Some(0), "a warning is no error");
    let said = stderr(&output);
    assert!(said.starts_with("sessiond: warning: engine.default.absolute_duration"), "{said}");
    assert_eq!(stderr(&run(["check", "--dev"])), "", "a trial needs no advice");
    let (_, log) = Program::dev().stop();
    assert!(!log.contains("absolute_duration") && !log.contains("prefix"), "{log}");
    let (_, log) = Program::serve(&["--set=store.backend=memory", secret]).stop();
    assert_eq!(log.matches("WARN").count(), 1, "{log}");
    assert!(log.contains("absolute_duration"), "{log}");
}
