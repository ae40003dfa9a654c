//! Configuration: its layers, values that are refused with the error texts, and secrets.

use std::{fs, path::Path};

use sessiond::server::config::{
    Backend, Config, ConfigError, ListenAddr, SecretText, Sources, check, load,
};

use crate::support::program::{run, sessiond, stderr, stdout};

pub(crate) fn sources() -> Sources {
    Sources { defaults: Config::defaults(), file: None, environment: vec![], settings: vec![] }
}

pub(crate) fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn from_file(text: &str) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = directory.path().join("sessiond.toml");
    fs::write(&path, text).expect("a file");
    load(Sources { file: Some(path), ..sources() })
}

fn example() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/sessiond.toml");
    fs::read_to_string(path).expect("config/sessiond.toml")
}

#[test]
fn the_example_file_holds_every_key_at_its_default() {
    fn keys(prefix: &str, table: &toml::Table, found: &mut Vec<String>) {
        for (key, value) in table {
            let key = format!("{prefix}{key}");
            match value {
                toml::Value::Table(table) => keys(&format!("{key}."), table, found),
                _ => found.push(key),
            }
        }
    }
    let example = example();
    // Relative paths count from the folder of the file.
    let mut config = from_file(&example).expect("the example is valid");
    assert!(config.store.sled.path.is_absolute(), "{}", config.store.sled.path.display());
    config.store.sled.path = Config::defaults().store.sled.path;
    assert_eq!(config, Config::defaults());
    let (mut in_file, mut in_code) = (Vec::new(), Vec::new());
    keys("", &example.parse().expect("TOML"), &mut in_file);
    keys("", &Config::defaults().to_toml().parse().expect("TOML"), &mut in_code);
    in_file.sort();
    in_code.sort();
    assert_eq!(in_file, in_code, "config/sessiond.toml must hold every key");
}

#[test]
fn later_layers_win() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let path = directory.path().join("sessiond.toml");
    fs::write(&path, "[cleanup]\nslice = 1\ninterval = \"1s\"\n[log]\nlevel = \"warn\"")
        .expect("a file");
    let config = load(Sources {
        file: Some(path),
        environment: pairs(&[
            ("SESSIOND_CLEANUP__SLICE", "2"),
            ("SESSIOND_CLEANUP__INTERVAL", "2s"),
            ("SESSIOND_LISTEN__GRPC", "127.0.0.1:1, unix:/run/s.sock"),
            ("SESSIOND_LISTEN__ADMIN", ""),
            ("SESSIOND_LISTEN__REFLECTION", "false"),
            ("SESSIOND_ENGINE__DEFAULT__COOKIE__SECRETS", "12345,0x7"),
            ("SESSIOND_STORE__SLED__DURABILITY__WRITE", "synced"),
            ("PATH", "/bin"),
        ]),
        settings: pairs(&[("cleanup.slice", "3"), ("store.backend", "memory")]),
        ..sources()
    })
    .expect("all of it is valid");
    assert_eq!(config.cleanup.slice, 3, "a flag overrides all others");
    assert_eq!(config.cleanup.interval.to_string(), "2s", "the environment overrides the file");
    assert_eq!(config.log, load_level("warn"), "the file overrides the defaults");
    let addresses: Vec<_> = config.listen.grpc.iter().map(ListenAddr::to_string).collect();
    assert_eq!(addresses, ["127.0.0.1:1", "unix:/run/s.sock"]);
    assert!(config.listen.admin.is_empty() && !config.listen.reflection);
    let secrets = ["12345", "0x7"].map(|text| SecretText(text.to_owned()));
    assert_eq!(
        config.engine["default"].cookie.secrets, secrets,
        "expected text, although it looks like a number"
    );
    assert_eq!(config.store.backend, Backend::Memory);
}

fn load_level(level: &str) -> sessiond::server::config::LogConfig {
    let settings = pairs(&[("log.level", level)]);
    load(Sources { settings, ..sources() }).expect("a level").log
}

#[test]
fn engines_are_those_that_are_described() {
    let config = from_file("[engine.shop]\nduration = \"1h\"\n[engine.admin]\n").expect("valid");
    assert_eq!(
        config.engine.keys().collect::<Vec<_>>(),
        ["admin", "shop"],
        "no default beside them"
    );
    assert_eq!(config.engine["shop"].duration.to_string(), "1h");
    assert_eq!(config.engine["shop"].cookie.name, "__Host-session", "the rest is as by default");
    let settings = pairs(&[("engine.default.duration", "1h")]);
    let dev = load(Sources { defaults: Config::dev(), settings, ..sources() }).expect("valid");
    assert_eq!(dev.engine["default"].cookie.name, "session", "the rest is as by --dev");
}

#[test]
fn what_is_wrong_is_named_with_its_source_and_what_is_allowed() {
    for (text, expected) in [
        (
            "[listne]\n",
            "listne in the file FILE: unknown key (did you mean \"listen\"?); expected one of listen, engine, store, cleanup, limits, runtime, reload, log, traces",
        ),
        (
            "[listen]\ngrcp = []",
            "listen.grcp in the file FILE: unknown key (did you mean \"grpc\"?); expected one of grpc, admin, metrics, reflection, unix, tls, auth",
        ),
        (
            "[engine.a.cookie]\nsame_site = \"lux\"",
            "engine.a.cookie.same_site in the file FILE: expected one of \"strict\", \"lax\", \"none\", \"unset\", found \"lux\"",
        ),
        (
            "[engine.a]\nduration = 30",
            "engine.a.duration in the file FILE: expected a duration such as \"30m\", \"90s\" or \"1500ms\", more than zero, found 30",
        ),
        (
            "[engine.a]\nduration = \"0s\"",
            "engine.a.duration in the file FILE: expected a duration such as \"30m\", \"90s\" or \"1500ms\", more than zero, found \"0s\"",
        ),
        (
            "[engine.a]\nmax_data_bytes = \"big\"",
            "engine.a.max_data_bytes in the file FILE: expected a size such as \"64KiB\" or \"1MiB\", more than zero, found \"big\"",
        ),
        (
            "[listen]\ngrpc = \"127.0.0.1:1\"",
            "listen.grpc in the file FILE: expected a sequence, found \"127.0.0.1:1\"",
        ),
        (
            "[cleanup]\nslice = -1",
            "cleanup.slice in the file FILE: expected a whole number, found -1",
        ),
        (
            "[store]\nbackend = \"etcd\"",
            "store.backend in the file FILE: expected one of \"sled\", \"redis\", \"memory\", found \"etcd\"",
        ),
        (
            "[store.redis]\nurl = \"http://u:hunter2@a\"",
            "store.redis.url in the file FILE: expected a URL such as \"redis://127.0.0.1:6379\", \"redis+sentinel://host:26379,host:26379/service\", \"redis+cluster://host:6379,host:6379\" or \"redis+unix:///path\"; rediss is the same over TLS, found something else",
        ),
        (
            "[store.redis]\npassword = [\"hunter2\"]",
            "store.redis.password in the file FILE: expected a string, found something else",
        ),
        ("[store", "the file FILE: line 1: unclosed table, expected `]`"),
        (
            "[engine.a.cookie]\nsecrets = \"hunter2\"",
            "engine.a.cookie.secrets in the file FILE: expected a sequence, found something else",
        ),
        (
            "[engine.a.cookie]\nsecrets = [72, 5]",
            "engine.a.cookie.secrets.0 in the file FILE: expected a string, found something else",
        ),
        (
            "[engine.a.cookie]\nsecrets = hunter2",
            "the file FILE: line 2: string values must be quoted, expected literal string",
        ),
    ] {
        let error = from_file(text).expect_err(text);
        let source = error.source.clone();
        let shown = error.to_string();
        let path = source.strip_prefix("the file ").unwrap_or_default();
        assert_eq!(shown.replace(path, "FILE"), expected, "{text}");
        assert!(!shown.contains("hunter2"), "a secret is shown: {shown}");
    }
    let environment = pairs(&[("SESSIOND_RUNTIME__THREADS", "many")]);
    let error = load(Sources { environment, ..sources() }).expect_err("no number");
    let expected = "runtime.threads in the environment variable SESSIOND_RUNTIME__THREADS: \
                    expected a whole number, found \"many\"";
    assert_eq!(error.to_string(), expected);
    let settings = pairs(&[("log.level", "loud")]);
    let error = load(Sources { settings, ..sources() }).expect_err("no level");
    let expected = "log.level in --set log.level: expected one of \"error\", \"warn\", \"info\", \
                    \"debug\", \"trace\", found \"loud\"";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn no_password_is_shown() {
    let settings = pairs(&[
        ("store.redis.url", "redis://someone:hunter2@redis.example:6379/1"),
        ("store.redis.password", "hunter2"),
    ]);
    let config = load(Sources { settings, ..sources() }).expect("each value is possible");
    assert_eq!(config.store.redis.url.password.as_str(), "hunter2", "it is there");
    for shown in [config.to_toml(), format!("{config:?}")] {
        assert!(!shown.contains("hunter2") && !shown.contains("someone"), "{shown}");
        assert!(shown.contains("redis.example:6379/1"), "{shown}");
    }
    assert!(config.to_toml().contains("password = \"(not shown)\""));
}

#[test]
fn variables_that_are_no_keys_are_refused_but_for_those_of_kubernetes() {
    let environment = pairs(&[("SESSIOND_SECRET", "hunter2")]);
    let error = load(Sources { environment, ..sources() }).expect_err("no key").to_string();
    assert!(error.starts_with("the environment variable SESSIOND_SECRET: is not a key"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    let environment = pairs(&[
        ("SESSIOND_SERVICE_HOST", "10.0.0.1"),
        ("SESSIOND_SERVICE_PORT", "50051"),
        ("SESSIOND_PORT", "tcp://10.0.0.1:50051"),
        ("SESSIOND_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("SESSIOND_ADMIN_SERVICE_HOST", "10.0.0.2"),
        ("SESSIOND_ADMIN_PORT_50052_TCP", "tcp://10.0.0.2:50052"),
        ("SESSIOND_CONFIG", "read by the command line"),
    ]);
    load(Sources { environment, ..sources() }).expect("a service called sessiond is no mistake");
}

/// The default configuration with a secret, and these settings.
pub(crate) fn checked(settings: &[(&str, &str)]) -> Result<Vec<String>, String> {
    let secret = ("engine.default.cookie.secrets", "a-signing-secret-for-tests-long-enough");
    let settings = pairs(&[&[secret], settings].concat());
    let config = load(Sources { settings, ..sources() }).expect("each value is possible");
    check(&config).map(|checked| checked.warnings).map_err(|error| error.to_string())
}

#[test]
fn what_cannot_work_together_is_refused() {
    assert_eq!(checked(&[]), Ok(vec![]));
    for (settings, expected) in [
        (
            vec![("listen.grpc", "0.0.0.0:1")],
            "listen.grpc: 0.0.0.0:1 can be reached from other machines; set listen.tls",
        ),
        (vec![("listen.grpc", "[::]:1")], "listen.grpc: [::]:1 can be reached"),
        (vec![("listen.admin", "10.0.0.1:1")], "listen.admin: 10.0.0.1:1 can be reached"),
        (
            vec![("listen.grpc", "127.0.0.1:7,127.0.0.1:8"), ("listen.admin", "127.0.0.1:8")],
            "listen: 127.0.0.1:8 is listed twice",
        ),
        (vec![("store.sled.path", "")], "store.sled.path: expected a directory"),
        (
            vec![("store.redis.key_prefix", "{app}")],
            "store.redis.key_prefix: expected 1 to 64 letters, digits, \"_\", \"-\", \".\", \":\" and \"/\", found \"{app}\"",
        ),
        (
            vec![("store.redis.connections", "0")],
            "store.redis.connections: expected 1 to 64, found 0",
        ),
        (
            vec![("store.redis.timeout", "61s")],
            "store.redis.timeout: expected at most 1m, found 1m 1s",
        ),
        (
            vec![("store.redis.wait_replicas", "1"), ("store.redis.wait_timeout", "501ms")],
            "store.redis.wait_timeout: expected at most half of store.redis.timeout, which is 1s, found 501ms",
        ),
        (
            vec![("store.redis.tls.ca_file", "x")],
            "store.redis.tls: is only for a URL that starts with rediss",
        ),
        (
            vec![("store.redis.url", "rediss://a"), ("store.redis.tls.key_file", "x")],
            "store.redis.tls: expected both",
        ),
        (
            vec![("engine.default.adopt.timeout", "61s")],
            "engine.default.adopt.timeout: expected at most 1m, found 1m 1s",
        ),
        (
            vec![("engine.default.adopt.principal", "user")],
            "engine.default.adopt.principal: expected \"\" or a JSON pointer such as \"/passport/user\", found \"user\"",
        ),
        (
            vec![("engine.default.adopt.principal", "/a~2b")],
            "engine.default.adopt.principal: expected \"~0\" for a \"~\" in a name, and \"~1\" for a \"/\", found \"/a~2b\"",
        ),
        (
            vec![("engine.default.adopt.remember", "401days")],
            "engine.default.adopt.remember: expected at most 400days, found",
        ),
        (
            vec![("engine.default.adopt.key_prefix", "a\nb")],
            "engine.default.adopt.key_prefix: expected at most 128 bytes of text",
        ),
        (
            vec![
                ("engine.default.adopt.from", "express-session"),
                ("engine.default.adopt.password_file", "/nope"),
            ],
            "engine.default.adopt.password_file: the file cannot be read",
        ),
        (
            vec![("store.redis.sentinel_username", "x")],
            "store.redis.sentinel_password_file: is only for a URL that starts with redis+sentinel",
        ),
        (
            vec![("store.backend", "redis"), ("store.redis.password_file", "/nope")],
            "store.redis.password_file: the file cannot be read",
        ),
        (vec![("listen.grpc", "")], "listen.grpc: expected at least one address"),
        (vec![("listen.tls.cert_file", "x")], "listen.tls: expected both"),
        (vec![("listen.tls.client_ca_file", "x")], "listen.tls.client_ca_file: needs"),
        (
            vec![("listen.auth.token_file", "/nope")],
            "listen.auth.token_file: the file cannot be read",
        ),
        (
            vec![("engine.default.cookie.secret_file", "/nope")],
            "engine.default.cookie.secret_file: the file cannot be read",
        ),
        (
            vec![("engine.default.cookie.secrets", "")],
            "engine.default.cookie.secret_file: no secret is given",
        ),
        (
            vec![("engine.default.cookie.secrets", "short")],
            "engine.default.cookie.secrets: the first secret signs and is 5 bytes long",
        ),
        (
            vec![("engine.default.cookie.secure", "false")],
            "engine.default.cookie.secure: a cookie named \"__Host-session\" needs",
        ),
        (
            vec![("engine.default.duration", "401days")],
            "engine.default.duration: expected at most 400days",
        ),
        (
            vec![("engine.default.touch_granularity", "31m")],
            "engine.default.touch_granularity: expected at most the duration, which is 30m, found 31m",
        ),
        (
            vec![("engine.default.max_data_bytes", "1MiB")],
            "engine.default.max_data_bytes: expected at most limits.max_message_bytes less 65536 bytes",
        ),
        (
            vec![("engine.default.max_data_bytes", "81KiB")],
            "engine.default.max_data_bytes: expected at most 80KiB, which is what the sled store keeps, found 81KiB",
        ),
        (vec![("engine.BAD.duration", "1h")], "engine.BAD: expected a name"),
        (vec![("cleanup.slice", "0")], "cleanup.slice: expected at least 1"),
        (vec![("limits.max_connections", "0")], "limits.max_connections: expected at least 1"),
        (vec![("runtime.threads", "5000")], "runtime.threads: expected at most 1024"),
    ] {
        let error = checked(&settings).expect_err(expected);
        assert!(error.starts_with(expected), "expected {expected}, found {error}");
    }
    for settings in [
        vec![("listen.grpc", "127.9.9.9:1,[::1]:1,[::ffff:127.0.0.1]:1,unix:/run/s.sock")],
        vec![("listen.metrics", "0.0.0.0:1")],
    ] {
        assert_eq!(checked(&settings), Ok(vec![]), "{settings:?}");
    }
}

#[test]
fn a_configuration_without_engines_is_refused() {
    let config = from_file("[engine]\n").expect("an empty table can be read");
    let error = check(&config).expect_err("it would serve nobody").to_string();
    assert_eq!(error, "engine: expected 1 to 32767 engines, found 0");
}

#[test]
fn a_variable_that_is_no_text_is_named() {
    use std::os::unix::ffi::OsStrExt;
    let mut command = sessiond(["check", "--dev"]);
    command.env("SESSIOND_LOG__LEVEL", std::ffi::OsStr::from_bytes(b"\xff"));
    let output = command.output().expect("the program can be run");
    assert_eq!(output.status.code(), Some(78));
    let expected = "sessiond: the environment variable SESSIOND_LOG__LEVEL: expected UTF-8\n";
    assert_eq!(stderr(&output), expected);
}

#[test]
fn an_empty_variable_names_no_file() {
    let mut command = sessiond(["check", "--dev"]);
    command.env("SESSIOND_CONFIG", "");
    assert_eq!(command.output().expect("the program can be run").status.code(), Some(0));
}

#[test]
fn check_shows_what_is_in_force_and_no_secret() {
    let secret = "hunter2-hunter2-hunter2-hunter2-hunter2";
    let mut command = sessiond(["check", "--set=engine.default.duration=12h"]);
    command.env("SESSIOND_ENGINE__DEFAULT__COOKIE__SECRETS", secret);
    let output = command.output().expect("the program can be run");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    assert!(shown.contains("duration = \"12h\""), "{shown}");
    assert!(shown.contains("secrets = [\"(not shown)\"]"), "{shown}");
    assert!(!shown.contains("hunter2") && !stderr(&output).contains("hunter2"));
    let config: Config = toml::from_str(&shown).expect("what is shown can be read again");
    assert_eq!(config.engine["default"].duration.to_string(), "12h");
}

#[test]
fn bad_configuration_is_78_and_wrong_usage_is_64() {
    for command in ["serve", "check", "health", "cleanup"] {
        let output = run([command, "--set=log.level=loud"]);
        assert_eq!(output.status.code(), Some(78));
        let expected = "sessiond: log.level in --set log.level: expected one of";
        assert!(stderr(&output).starts_with(expected), "{}", stderr(&output));
        let output = run([command, "--config=/nope.toml"]);
        assert_eq!(output.status.code(), Some(78));
        assert!(
            stderr(&output).contains("the file /nope.toml: cannot be read"),
            "{}",
            stderr(&output)
        );
    }
    for command in ["serve", "check"] {
        assert_eq!(run([command]).status.code(), Some(78), "no secret is given");
        let tls = ["--dev", "--set=listen.tls.cert_file=/nope", "--set=listen.tls.key_file=/nope"];
        let output = run([command].into_iter().chain(tls));
        assert_eq!(output.status.code(), Some(78), "{command} reads the files");
    }
    for wrong in [
        vec!["nonsense"],
        vec![],
        vec!["serve", "--nope"],
        vec!["serve", "--set=x"],
        vec!["health", "--timeout=30000years"],
    ] {
        let output = run(wrong.clone());
        assert_eq!(output.status.code(), Some(64), "{wrong:?}");
        assert!(!output.stderr.is_empty(), "{wrong:?}");
    }
    assert_eq!(run(["--help"]).status.code(), Some(0));
}

#[test]
fn secret_prints_one_that_can_sign() {
    let (one, two) = (stdout(&run(["secret"])), stdout(&run(["secret"])));
    assert_ne!(one, two);
    assert!(one.trim_end().len() >= 32, "{} characters", one.trim_end().len());
    let secrets = format!("--set=engine.default.cookie.secrets={}", one.trim_end());
    assert_eq!(run(["check", secrets.as_str()]).status.code(), Some(0));
}

#[test]
fn a_list_may_be_written_as_in_a_file() {
    let grpc = |text: &str| {
        let sources = Sources { settings: pairs(&[("listen.grpc", text)]), ..sources() };
        let addresses = load(sources).map(|config| config.listen.grpc);
        addresses.map(|addresses| addresses.iter().map(ListenAddr::to_string).collect::<Vec<_>>())
    };
    for (text, expected) in [
        ("[]", &[] as &[&str]),
        (r#"["127.0.0.1:1"]"#, &["127.0.0.1:1"]),
        (r#"["127.0.0.1:1", 'unix:/run/s.sock']"#, &["127.0.0.1:1", "unix:/run/s.sock"]),
        ("[::1]:1", &["[::1]:1"]),
    ] {
        assert_eq!(grpc(text).expect(text), expected, "{text}");
    }
    for junk in ["[", "[5]", "[]\nadmin = []", r#"["nowhere"]"#] {
        assert!(grpc(junk).is_err(), "{junk:?}");
    }
}
