//! The reference in `docs/configuration.md` has every key of `config/sessiond.toml` with the
//! same default, and no other keys.

use std::{collections::BTreeMap, fs, path::Path};

/// Keys such as `listen.grpc`, with their values.
type Values = BTreeMap<String, toml::Value>;

fn text(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{file} cannot be read: {error}"))
}

fn insert_all(prefix: &str, table: toml::Table, values: &mut Values) {
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        match value {
            toml::Value::Table(table) => insert_all(&format!("{key}."), table, values),
            value => drop(values.insert(key, value)),
        }
    }
}

fn of_the_file() -> Values {
    let mut values = Values::new();
    insert_all("", text("config/sessiond.toml").parse().expect("TOML"), &mut values);
    values
}

/// Reads the rows of the section "Reference": a key, its default as TOML, its meaning.
fn of_the_page() -> Values {
    let page = text("docs/configuration.md");
    let (_, reference) = page.split_once("\n## Reference\n").expect("a section \"Reference\"");
    let mut values = Values::new();
    for row in reference.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split(" | ").collect();
        let [key, default, _meaning] = cells[..] else {
            panic!("expected a key, its default and its meaning: {row}");
        };
        let key = key.trim_start_matches("| ").trim_matches('`');
        let key = key.replace("engine.NAME.", "engine.default.");
        let default = format!("default = {}", default.trim_matches('`'));
        let default = default.parse::<toml::Table>();
        let default = default.unwrap_or_else(|error| panic!("the default of {key}: {error}"));
        let twice = values.insert(key, default["default"].clone());
        assert!(twice.is_none(), "there are two rows for one key: {row}");
    }
    values
}

#[test]
fn the_reference_has_every_key_with_its_default() {
    let (expected, found) = (of_the_file(), of_the_page());
    for (key, default) in &expected {
        let found = found.get(key).unwrap_or_else(|| panic!("{key} has no row in the reference"));
        assert_eq!(found, default, "the default of {key}");
    }
    let unknown: Vec<_> = found.keys().filter(|key| !expected.contains_key(*key)).collect();
    assert!(unknown.is_empty(), "config/sessiond.toml does not have {unknown:?}");
}
