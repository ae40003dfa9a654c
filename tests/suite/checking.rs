//! `sessiond check`: sources, differences, all errors at once, warnings; and the files that a
//! configuration names.

use std::{fs, path::Path, process::Command};

use sessiond::server::config::{Config, Sources, load};

use crate::{
    configuration::{checked, pairs, sources},
    golden::assert_golden,
    support::program::{Program, run, sessiond, stderr, stdout},
};

const SECRET: &str = "a-signing-secret-for-tests-long-enough";

/// `check` with a configuration file, in its folder.
fn check(folder: &Path, text: &str) -> Command {
    fs::write(folder.join("sessiond.toml"), text).expect("a file");
    let mut command = sessiond(["check", "--config", "sessiond.toml"]);
    command.current_dir(folder);
    command
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a scratch folder")
}

/// The output and the messages, without the scratch folder.
fn told(command: &mut Command, folder: &Path) -> String {
    let output = command.output().expect("the program can be run");
    let code = output.status.code().expect("an exit code");
    let text = format!("exit code {code}\n{}{}", stdout(&output), stderr(&output));
    text.replace(&folder.display().to_string(), "FOLDER")
}

#[test]
fn check_says_where_each_value_comes_from() {
    let folder = scratch();
    let path = folder.path();
    fs::write(path.join("cookie"), SECRET).expect("a file");
    fs::set_permissions(path.join("cookie"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("ours");
    let file = "[engine.shop]\nduration = \"1h\"\nabsolute_duration = \"12h\"\n\
                [engine.shop.cookie]\nsecret_file = \"cookie\"\n[store]\nbackend = \"memory\"\n";
    let mut text = String::new();
    for changed in [false, true] {
        let mut command = check(path, file);
        command.env("SESSIOND_CLEANUP__INTERVAL", "30s").args(["--set", "log.level=warn"]);
        command.args(changed.then_some("--changed"));
        text += &format!("$ sessiond check{}\n", if changed { " --changed" } else { "" });
        text += &told(&mut command, path);
    }
    assert_golden("check.txt", &text);
    let shown = text.split("exit code 0\n").nth(1).expect("the first answer");
    let shown = shown.split("$ ").next().expect("until the second one");
    let config: Config = toml::from_str(shown).expect("what is shown can be read again");
    assert_eq!(config.engine["shop"].duration.to_string(), "1h");
}

#[test]
fn check_without_a_difference_says_so() {
    let folder = scratch();
    let mut command = check(folder.path(), "");
    command.arg("--changed").env("SESSIOND_ENGINE__DEFAULT__COOKIE__SECRETS", SECRET);
    let output = command.output().expect("the program can be run");
    let shown = stdout(&output);
    assert!(shown.contains("secrets = [\"(not shown)\"]  # the environment variable"), "{shown}");
    let output = run(["check", "--dev", "--changed"]);
    assert!(stdout(&output).contains("secure = false  # --dev"), "{}", stdout(&output));
}

#[test]
fn check_finds_all_errors_at_once() {
    let folder = scratch();
    let file = "[listne]\n[listen]\ngrcp = []\nmetrics = 5\ncert_file = \"x\"\n\
                [engine.default]\nduration = \"soon\"\n[engine.default.cookie]\nhttpOnly = true\n\
                secrets = \"hunter2\"\n[engine.shop]\nduration = \"401days\"\n\
                [engine.shop.cookie]\nsecret_file = \"missing\"\n[cleanup]\nslice = 0\n\
                [limits]\nmax_watchers = 5000\n[store]\nbackend = \"etcd\"\n";
    let mut command = check(folder.path(), file);
    command.env("SESSIOND_SECRET", "hunter2").args(["--set", "log.level=loud"]);
    command.args(["--set", "runtime.threads=5000"]);
    let told = told(&mut command, folder.path());
    assert!(!told.contains("hunter2"), "a secret is shown: {told}");
    assert_golden("check_errors.txt", &told);
}

#[test]
fn serve_tells_all_bad_values_too() {
    let output = run(["serve", "--dev", "--set=log.level=loud", "--set=cleanup.slice=many"]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(stderr(&output).lines().count(), 2, "{}", stderr(&output));
}

#[test]
fn a_broken_file_is_told_with_what_else_is_wrong() {
    let folder = scratch();
    let mut command = check(folder.path(), "[listen\n");
    command.args(["--set", "log.level=loud"]);
    let told = told(&mut command, folder.path());
    let expected = "exit code 78\nsessiond: the file sessiond.toml: line 1: unclosed table, expected \
                    `]`\nsessiond: log.level in --set log.level: expected one of";
    assert!(told.starts_with(expected), "{told}");
    assert_eq!(told.lines().count(), 3, "expected nothing that may come from the file: {told}");
}

#[test]
fn a_configuration_is_warned_about() {
    let advice = |settings: &[(&str, &str)]| {
        let arguments = settings.iter().map(|(key, value)| format!("--set={key}={value}"));
        let secret = format!("--set=engine.default.cookie.secrets={SECRET}");
        let all: Vec<_> = ["check".to_owned(), secret].into_iter().chain(arguments).collect();
        let output = run(all.iter().map(String::as_str));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stderr(&output)
    };
    let name = ("engine.default.cookie.name", "__Secure-session");
    for (settings, expected) in [
        (
            vec![name, ("engine.default.cookie.domain", "com")],
            "engine.default.cookie.domain = \"com\" is a top-level domain: browsers refuse",
        ),
        (
            vec![("engine.default.absolute_duration", "10m")],
            "engine.default.duration = \"30m\" is longer than absolute_duration, which is 10m",
        ),
        (
            vec![("engine.default.cookie.secrets", "abcabcabcabcabcabcabcabcabcabcabcabc")],
            "engine.default: the first of cookie.secrets signs, and has only 3 different characters",
        ),
    ] {
        let told = advice(&settings);
        assert!(told.contains(&format!("sessiond: warning: {expected}")), "{expected}:\n{told}");
    }
    for domain in ["example.com", "localhost", ""] {
        let told = advice(&[name, ("engine.default.cookie.domain", domain)]);
        assert!(!told.contains("top-level"), "{domain:?}:\n{told}");
    }
    let folder = scratch();
    let tokens = folder.path().join("tokens");
    fs::write(&tokens, "aaaaaaaaaaaaaaaaaaaa\n").expect("a file");
    let told = advice(&[("listen.auth.token_file", tokens.to_str().expect("text"))]);
    assert!(told.contains("the token on line 1 has only 1 different characters"), "{told}");
    assert!(!told.contains("aaaa"), "{told}");
}

#[test]
fn addresses_that_take_the_same_port_are_told_before_they_are_bound() {
    for (settings, expected) in [
        (
            vec![("listen.grpc", "127.0.0.1:7"), ("listen.metrics", "127.0.0.1:7")],
            "listen: 127.0.0.1:7 is listed twice: in listen.grpc and in listen.metrics",
        ),
        (
            vec![("listen.grpc", "localhost:7"), ("listen.metrics", "0.0.0.0:7")],
            "listen: localhost:7 in listen.grpc and 0.0.0.0:7 in listen.metrics take the same port",
        ),
    ] {
        assert_eq!(checked(&settings), Err(expected.to_owned()));
    }
    let error = checked(&[("listen.grpc", "sessions.example:1")]).expect_err("not loopback");
    assert!(error.starts_with("listen.grpc: sessions.example:1 can be reached"), "{error}");
    assert_eq!(checked(&[("listen.grpc", "localhost:1,a.localhost:2")]), Ok(vec![]));
}

#[test]
fn a_certificate_without_a_key_is_told_as_such() {
    let output = run(["check", "--dev", "--set=listen.tls.cert_file=/nope/server.pem"]);
    assert_eq!(output.status.code(), Some(78));
    let expected = "sessiond: listen.tls: expected both listen.tls.cert_file and listen.tls.key_file, \
                    or neither\n";
    assert_eq!(stderr(&output), expected);
}

#[test]
fn durations_are_shown_as_they_are_written() {
    let shown = stdout(&run(["check", "--dev"]));
    assert!(shown.contains("remember = \"90days\"  # default"), "{shown}");
}

#[test]
fn a_line_break_at_the_end_of_a_variable_is_no_part_of_it() {
    let environment = pairs(&[
        ("SESSIOND_STORE__REDIS__PASSWORD", "hunter2\r\n"),
        ("SESSIOND_STORE__REDIS__URL", "redis://redis.example\n"),
        ("SESSIOND_CLEANUP__SLICE", "7\n"),
    ]);
    let config = load(Sources { environment, ..sources() }).expect("all of it can be read");
    assert_eq!(config.store.redis.password.0, "hunter2");
    assert_eq!(config.cleanup.slice, 7);
}

#[test]
fn relative_paths_count_from_the_file_that_names_them() {
    let folder = scratch();
    let inner = folder.path().join("etc");
    fs::create_dir_all(inner.join("secrets")).expect("a folder");
    fs::write(inner.join("secrets/cookie"), SECRET).expect("a file");
    let file = inner.join("sessiond.toml");
    let text = "[listen]\ngrpc = [\"unix:s.sock\", \"localhost:0\"]\n\
                [engine.default.cookie]\nsecret_file = \"secrets/cookie\"\n[store.sled]\npath = \"data\"\n\
                [store.redis]\npassword_file = \"/abs/password\"\n";
    fs::write(&file, text).expect("a file");
    let of = |settings: &[(&str, &str)]| {
        let settings = pairs(settings);
        load(Sources { file: Some(file.clone()), settings, ..sources() }).expect("it can be read")
    };
    let config = of(&[]);
    assert_eq!(config.store.sled.path, inner.join("data"));
    assert_eq!(config.engine["default"].cookie.secret_file, inner.join("secrets/cookie"));
    assert_eq!(
        config.listen.grpc[0].to_string(),
        format!("unix:{}", inner.join("s.sock").display())
    );
    assert_eq!(config.store.redis.password_file, Path::new("/abs/password"));
    // Other layers are written where the command runs.
    assert_eq!(of(&[("store.sled.path", "data")]).store.sled.path, Path::new("data"));
    let file = file.to_str().expect("text");
    let arguments =
        ["serve", "--dev", "--config", file, "--set=listen.admin=", "--set=listen.metrics="];
    let program = Program::start(&mut sessiond(arguments));
    assert_eq!(program.address("grpc"), config.listen.grpc[0].to_string());
    assert_eq!(program.stop().0, Some(0));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = scratch();
    let missing = folder.path().join("missing");
    let setting = format!("--set=engine.default.cookie.secret_file={}", missing.display());
    let told = stderr(&run(["check", setting.as_str()]));
    let expected = format!("the file {} cannot be read: No such file", missing.display());
    assert!(told.contains(&expected), "expected {expected:?} in {told}");
    let told = stderr(&run(["check", "--set=engine.default.cookie.secret_file=hunter2"]));
    assert!(told.contains("its name is not shown, because it may be a secret"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

/// A shell makes a pipe for `<(...)`.
#[test]
fn a_configuration_and_its_secrets_may_come_from_a_pipe() {
    let folder = scratch();
    let script = format!(
        "exec {} check --config <(echo '[log]'; echo 'level = \"warn\"') \\\n\
         --set=engine.default.cookie.secret_file=<(echo {SECRET})",
        env!("CARGO_BIN_EXE_sessiond")
    );
    let mut shell = Command::new("bash");
    let output = shell.args(["-c", &script]).current_dir(folder.path()).env_clear().output();
    let output = output.expect("bash can be run");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("level = \"warn\""), "{}", stdout(&output));
}

#[test]
fn config_prints_the_file_with_every_key() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/sessiond.toml");
    assert_eq!(stdout(&run(["config"])), fs::read_to_string(file).expect("the file"));
}

#[test]
fn completions_and_manual_pages_have_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&run(["completions", shell]));
        for word in ["serve", "sessions", "revoke", "completions", "warm-up"] {
            assert!(script.contains(word), "expected {word} in the completions for {shell}");
        }
    }
    let page = stdout(&run(["man"]));
    assert!(page.contains(".TH sessiond 1") && page.contains("serve(1)"), "{page}");
    let folder = scratch();
    let output = run(["man", "--output", folder.path().to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for name in ["sessiond", "sessiond-serve", "sessiond-sessions", "sessiond-sessions-revoke"] {
        let page = fs::read_to_string(folder.path().join(format!("{name}.1")));
        let page = page.unwrap_or_else(|error| panic!("{name}.1: {error}"));
        assert!(page.replace('\\', "").contains(&format!(".TH {name} 1")), "{name}: {page}");
    }
}
