//! `sessiond check`: what is in force and where it comes from, or all that is wrong.

use std::collections::BTreeMap;

use sessiond::server::config::{Checked, Config, ConfigError, Layers};

/// Checks the layers, the rules and the files. Errors of the rules are told even if some values
/// cannot be read, unless they may come from that.
pub(crate) fn check(layers: &Layers) -> Result<Checked, Vec<ConfigError>> {
    let mut errors = layers.errors.clone();
    match sessiond::server::check(&layers.config) {
        Ok(checked) if errors.is_empty() => return Ok(checked),
        Ok(_) => {}
        Err(found) => {
            // It may come from a file that could not be read, or from a key of the same table.
            let is_certain = |found: &ConfigError| {
                let is_cause = |error: &ConfigError| match error.key.as_str() {
                    "" => error.source.starts_with("the file "),
                    key => section(key) == section(&found.key),
                };
                !errors.iter().any(is_cause)
            };
            let found: Vec<_> = found.into_iter().filter(is_certain).collect();
            errors.extend(found.into_iter().map(|error| match layers.origins.get(&error.key) {
                Some(origin) => ConfigError { source: origin.clone(), ..error },
                None => error,
            }));
        }
    }
    Err(errors)
}

/// The table whose keys are judged together: `store`, `engine.shop`.
fn section(key: &str) -> Vec<&str> {
    let levels = if key.starts_with("engine.") { 2 } else { 1 };
    key.split('.').take(levels).collect()
}

/// The configuration as TOML, with the source of each value in a comment. With `changed`, only
/// what differs from the defaults.
pub(crate) fn shown(layers: &Layers, changed: bool) -> String {
    let defaults = values(&Config::defaults());
    let (mut text, mut table, mut head) = (String::new(), String::new(), String::new());
    for line in layers.config.to_toml().lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            (table, head) = (name.to_owned(), format!("[{name}]\n"));
            if !changed {
                text += &format!("{}{head}", if text.is_empty() { "" } else { "\n" });
            }
            continue;
        }
        let Some((name, value)) = line.split_once(" = ") else { continue };
        let key = format!("{table}.{name}");
        let is_default = defaults.get(&of_default(&key)).map(String::as_str) == Some(value);
        if changed {
            if is_default {
                continue;
            }
            if !head.is_empty() {
                text += &format!("{}{head}", if text.is_empty() { "" } else { "\n" });
                head.clear();
            }
        }
        let origin = match layers.origins.get(&key) {
            Some(origin) => origin.as_str(),
            None if is_default => "default",
            None => "--dev",
        };
        // Without the `.` that says what was written relative to the file.
        let line = if name.ends_with("_file") { line.replace("/./", "/") } else { line.to_owned() };
        text += &format!("{line}  # {origin}\n");
    }
    if text.is_empty() { "# every value is the default\n".to_owned() } else { text }
}

/// Every engine has the defaults of the default one.
fn of_default(key: &str) -> String {
    match key.strip_prefix("engine.").and_then(|rest| rest.split_once('.')) {
        Some((_, rest)) => format!("engine.default.{rest}"),
        None => key.to_owned(),
    }
}

/// The values of a configuration as they are written, by key.
fn values(config: &Config) -> BTreeMap<String, String> {
    let (mut table, mut found) = (String::new(), BTreeMap::new());
    for line in config.to_toml().lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            table = name.to_owned();
        } else if let Some((name, value)) = line.split_once(" = ") {
            found.insert(format!("{table}.{name}"), value.to_owned());
        }
    }
    found
}
