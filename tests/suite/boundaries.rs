//! The boundaries between the modules: the words of other modules that a module must not
//! contain, except in comments.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sessiond::server::config::Backend;

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).expect("the folder exists") {
            let path = entry.expect("an entry").path();
            if path.ends_with("src/grpc/generated") {
                // Nobody wrote it, and it says what proto/ says.
            } else if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut found);
    assert!(!found.is_empty(), "{folder} has no source files");
    found
}

#[track_caller]
fn assert_absent(folder: &str, words: &[&str]) {
    for (path, text) in sources(folder) {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in words {
                let at = path.display();
                assert!(
                    !code.contains(word),
                    "{at}:{}: expected no use of {word}: {line}",
                    number + 1
                );
            }
        }
    }
}

/// Crates and modules for protocols.
const PROTOCOLS: [&str; 9] = [
    "tonic",
    "prost",
    "grpc",
    "hyper",
    "http::",
    "http_body",
    "HeaderMap",
    "StatusCode",
    "tokio::net",
];

/// Names of stores: their modules, and their types, such as `RedisStore`.
const STORES: [&str; 4] = ["sled", "redis", "Redis", "crate::store"];

#[track_caller]
fn assert_no_store(folder: &str) {
    assert_absent(folder, &STORES);
    for backend in Backend::ALL {
        assert_absent(folder, &[&format!("{backend:?}Store")]);
    }
}

#[test]
fn session_knows_no_protocol_no_store_and_no_clock() {
    assert_absent("src/session", &PROTOCOLS);
    assert_no_store("src/session");
    assert_absent(
        "src/session",
        &[
            "tokio::time",
            "std::fs",
            "crate::service",
            "crate::server",
            "SystemTime::now",
            "Instant::now",
        ],
    );
}

#[test]
fn store_knows_no_service_and_no_protocol() {
    assert_absent(
        "src/store",
        &["tonic", "prost", "crate::grpc", "crate::service", "crate::server"],
    );
}

#[test]
fn service_knows_no_protocol_and_no_kind_of_store() {
    assert_absent("src/service", &PROTOCOLS);
    assert_no_store("src/service");
    assert_absent("src/service", &["crate::server", "crate::client"]);
}

#[test]
fn grpc_knows_no_store() {
    assert_no_store("src/grpc");
    assert_absent("src/grpc", &["crate::server"]);
}

#[test]
fn files_stay_readable() {
    for folder in ["src", "tests"] {
        for (path, text) in sources(folder) {
            let lines = text.lines().count();
            assert!(lines <= 600, "{} has {lines} lines: split it", path.display());
        }
    }
}
