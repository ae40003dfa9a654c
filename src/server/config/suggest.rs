//! What somebody may have meant who wrote a key that does not exist.

use figment::value::Value;

/// Names at least this similar may be the same one, mistyped. `grcp` and `grpc` are 0.93 alike,
/// `timeout` and `threads` 0.57.
const ALIKE: f64 = 0.8;

/// The key that was meant: in the same table, or of the same name in another one. `path` leads
/// to `field`, `allowed` are the keys of its table, and `shape` has all keys.
pub(super) fn meant(
    path: &[String],
    field: &str,
    allowed: &[&str],
    shape: &Value,
) -> Option<String> {
    let likeness = |name: &str| strsim::jaro_winkler(&folded(name), &folded(field));
    let best = allowed.iter().map(|name| (likeness(name), name));
    let best = best.max_by(|one, other| one.0.total_cmp(&other.0));
    if let Some((likeness, name)) = best
        && likeness >= ALIKE
    {
        return Some(format!("\"{name}\""));
    }
    let mut found = Vec::new();
    search(shape, &mut Vec::new(), &folded(field), &mut found);
    // The nearest table: the one that shares most of the way.
    let shared = |key: &Vec<String>| key.iter().zip(path).take_while(|(a, b)| a == b).count();
    found.sort_by_key(|key| (std::cmp::Reverse(shared(key)), key.len()));
    found.first().map(|key| {
        // Every engine has the keys of the default one.
        let named = |(at, level): (usize, &String)| match (at, key[0].as_str()) {
            (1, "engine") => {
                path.get(1).filter(|_| path[0] == "engine").map_or("NAME", |name| name).to_owned()
            }
            _ => level.clone(),
        };
        let key: Vec<_> = key.iter().enumerate().map(named).collect();
        format!("\"{}\"", key.join("."))
    })
}

/// `httpOnly`, `http-only` and `http_only` are one name.
fn folded(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-')).collect::<String>().to_ascii_lowercase()
}

fn search(value: &Value, path: &mut Vec<String>, name: &str, found: &mut Vec<Vec<String>>) {
    for (key, value) in value.as_dict().into_iter().flatten() {
        path.push(key.clone());
        if folded(key) == name {
            found.push(path.clone());
        }
        search(value, path, name, found);
        path.pop();
    }
}
