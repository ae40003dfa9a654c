//! The walls between the rooms.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut found);
    assert!(!found.is_empty(), "{folder} holds no source");
    found
}

#[track_caller]
fn assert_absent(folder: &str, words: &[&str]) {
    for (path, text) in sources(folder) {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in words {
                let at = path.display();
                assert!(!code.contains(word), "{at}:{} should not know {word}: {line}", number + 1);
            }
        }
    }
}

#[test]
fn session_knows_no_wire_and_no_store() {
    assert_absent(
        "src/session",
        &[
            "tonic",
            "prost",
            "sled",
            "redis",
            "hyper",
            "tokio::net",
            "tokio::time",
            "std::fs",
            "crate::grpc",
            "crate::store",
            "crate::server",
            "SystemTime::now",
            "Instant::now",
        ],
    );
}

#[test]
fn store_knows_no_wire() {
    assert_absent("src/store", &["tonic", "prost", "crate::grpc", "crate::server"]);
}

#[test]
fn grpc_knows_no_store() {
    assert_absent("src/grpc", &["sled", "redis", "crate::store", "crate::server", "MemoryStore"]);
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
