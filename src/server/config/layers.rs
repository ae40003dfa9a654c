//! The layers: defaults, then the file, the environment, and the flags.
//!
//! Values from the environment and from `--set` are text. They are read as what
//! the default of the same key is: a number, true or false, or a list, which is
//! separated by commas or written as in a file.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Metadata, Profile, Provider,
    error::{Actual, Kind},
    providers::Serialized,
    value::{Dict, Map, Value},
};
use serde::Deserialize as _;

use super::Config;

/// What a variable's name begins with.
const PREFIX: &str = "SESSIOND_";
/// Keys whose values are not repeated.
const SECRETS: [&str; 4] = ["secrets", "password", "sentinel_password", "url"];
/// What stands between the levels of a key in a variable's name.
const LEVELS: &str = "__";

/// Where the configuration comes from.
#[derive(Debug)]
pub struct Sources {
    /// The lowest layer.
    pub defaults: Config,
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The process's environment.
    pub environment: Vec<(String, String)>,
    /// `--set KEY=VALUE`.
    pub settings: Vec<(String, String)>,
}

/// What is wrong with the configuration. Shows no secret.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// For example `engine.default.duration`; empty: the source as a whole.
    pub key: String,
    /// For example "the file sessiond.toml"; empty: no single one.
    pub source: String,
    /// What was found and what is allowed.
    pub problem: String,
}

impl ConfigError {
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), source: String::new(), problem: problem.into() }
    }

    fn of(source: &str, key: &str, problem: impl Into<String>) -> Self {
        Self { key: key.to_owned(), source: source.to_owned(), problem: problem.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.key.as_str(), self.source.as_str()) {
            ("", "") => {}
            ("", source) => write!(f, "{source}: ")?,
            (key, "") => write!(f, "{key}: ")?,
            (key, source) => write!(f, "{key} in {source}: ")?,
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// Reads all layers. An unknown key or a bad value is an error.
pub fn load(sources: Sources) -> Result<Config, ConfigError> {
    let mut above = Figment::new();
    if let Some(path) = &sources.file {
        above = above.merge(file_layer(path)?);
    }
    let shape = Shape::new();
    for (name, text) in sources.environment {
        if let Some(key) = variable_key(&name)? {
            let source = format!("the environment variable {name}");
            above = above.merge(shape.layer(source, &key, text));
        }
    }
    for (key, text) in sources.settings {
        let path: Vec<_> = key.split('.').map(str::to_owned).collect();
        above = above.merge(shape.layer(format!("--set {key}"), &path, text));
    }
    let figment = Figment::from(Serialized::defaults(sources.defaults)).merge(above.clone());
    let mut config = extract(&figment)?;
    // Who describes engines gets these and no other.
    if let Ok(described) = above.find_value("engine")
        && let Some(described) = described.as_dict()
    {
        config.engine.retain(|name, _| described.contains_key(name));
    }
    Ok(config)
}

/// Values and where they come from.
struct Layer {
    source: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

fn file_layer(path: &Path) -> Result<Layer, ConfigError> {
    let source = format!("the file {}", path.display());
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::of(&source, "", format!("can not be read: {error}")))?;
    // The parser's own message quotes the line, which may hold a secret.
    let syntax = |error: toml::de::Error| {
        let before = error.span().map_or("", |span| text.get(..span.start).unwrap_or(""));
        let line = before.matches('\n').count() + 1;
        ConfigError::of(&source, "", format!("line {line}: {}", error.message()))
    };
    let values = toml::from_str::<Dict>(&text).map_err(syntax)?;
    Ok(Layer { source, values })
}

/// The key that a variable sets; `None` when it is none of ours.
fn variable_key(name: &str) -> Result<Option<Vec<String>>, ConfigError> {
    let Some(key) = name.strip_prefix(PREFIX) else {
        return Ok(None);
    };
    if key.contains(LEVELS) {
        return Ok(Some(key.to_lowercase().split(LEVELS).map(str::to_owned).collect()));
    }
    // Kubernetes sets these in every pod for a service called "sessiond", or
    // "sessiond-admin": SESSIOND_SERVICE_HOST, SESSIOND_PORT_50051_TCP_ADDR.
    let words: Vec<_> = key.split('_').collect();
    let of_kubernetes = words.contains(&"PORT") || words.ends_with(&["SERVICE", "HOST"]);
    // Read by the command line.
    if of_kubernetes || key == "CONFIG" {
        return Ok(None);
    }
    let problem = format!(
        "is no key; expected {PREFIX}CONFIG or a key with \"{LEVELS}\" between its levels, \
         such as {PREFIX}LISTEN{LEVELS}GRPC"
    );
    Err(ConfigError::of(&format!("the environment variable {name}"), "", problem))
}

/// What kind of value each key has: that of its default.
struct Shape(Value);

impl Shape {
    fn new() -> Self {
        let shape = Value::serialize(Config::defaults());
        Self(shape.unwrap_or_else(|_| Value::from(Dict::new())))
    }

    /// A layer with one value, from text.
    fn layer(&self, source: String, path: &[String], text: String) -> Layer {
        // All engines have the keys of the default one.
        let known: Vec<_> = match path {
            [engine, _, rest @ ..] if engine == "engine" => {
                ["engine", "default"].into_iter().chain(rest.iter().map(String::as_str)).collect()
            }
            _ => path.iter().map(String::as_str).collect(),
        };
        let mut value = typed(self.0.find_ref(&known.join(".")), text);
        for level in path.iter().rev() {
            value = Dict::from([(level.clone(), value)]).into();
        }
        Layer { source, values: value.into_dict().unwrap_or_default() }
    }
}

/// `text` as what `like` is. What does not fit stays text, and is refused with
/// the same words as in a file.
fn typed(like: Option<&Value>, text: String) -> Value {
    match like {
        Some(Value::Bool(..)) => text.parse::<bool>().map_or_else(|_| text.into(), Value::from),
        Some(Value::Num(..)) => text.parse::<u32>().map_or_else(|_| text.into(), Value::from),
        Some(Value::Array(..)) => {
            if let Some(items) = toml_list(&text) {
                return items.into();
            }
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(Value::from).collect::<Vec<_>>().into()
        }
        _ => text.into(),
    }
}

/// A list of texts as it would stand in a file; `None` when it is none.
fn toml_list(text: &str) -> Option<Vec<Value>> {
    if !text.starts_with('[') {
        return None;
    }
    let table: BTreeMap<String, Vec<String>> = toml::from_str(&format!("list = {text}")).ok()?;
    let [(_, items)] = Vec::from_iter(table).try_into().ok()?;
    Some(items.into_iter().map(Value::from).collect())
}

/// Not by `Figment::extract`: for the sake of types that only figment has, that compiles the
/// reading of each section six times, which was a tenth of the library.
fn extract(figment: &Figment) -> Result<Config, ConfigError> {
    let values = figment.find_value("").map_err(|error| ConfigError::new("", error.to_string()))?;
    Config::deserialize(&values).map_err(|error| explain(figment, &values, error))
}

/// figment's error in words: the key, its source, and what is allowed.
fn explain(figment: &Figment, values: &Value, error: figment::Error) -> ConfigError {
    let mut path = error.path.clone();
    if let Kind::UnknownField(field, _) = &error.kind {
        // The path leads to the table; with some errors it holds the key already.
        if path.last() != Some(field) {
            path.push(field.clone());
        }
    }
    let key = path.join(".");
    // The items of a list come from where the list does.
    let levels = path.iter().scan(values, |value, level| {
        *value = value.as_dict()?.get(level)?;
        Some(*value)
    });
    let metadata = levels.last().and_then(|value| figment.get_metadata(value.tag()));
    let source = metadata.map(|metadata| metadata.name.to_string()).unwrap_or_default();
    // What is found is not repeated where it may be a secret.
    let secret = path.iter().any(|level| SECRETS.contains(&level.as_str()));
    let found = |found: &dyn fmt::Display| {
        if secret { "something else".to_owned() } else { found.to_string() }
    };
    let problem = match &error.kind {
        Kind::UnknownField(_, allowed) => {
            format!("unknown key; expected one of {}", allowed.join(", "))
        }
        Kind::UnknownVariant(variant, allowed) => {
            let allowed: Vec<_> = allowed.iter().map(|one| format!("{one:?}")).collect();
            format!("expected one of {}, found {:?}", allowed.join(", "), found(variant))
        }
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            let expected = match expected.to_string() {
                integer if integer == "u32" => "a whole number".to_owned(),
                expected => expected,
            };
            format!("expected {expected}, found {}", found(&shown(actual)))
        }
        _ if secret => "is not as expected: text, or a list of texts".to_owned(),
        kind => kind.to_string(),
    };
    ConfigError::of(&source, &key, problem)
}

fn shown(actual: &Actual) -> String {
    match actual {
        Actual::Str(text) => format!("{text:?}"),
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        other => other.to_string(),
    }
}
