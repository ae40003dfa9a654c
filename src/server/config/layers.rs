//! The layers of the configuration: defaults, file, environment, flags.
//!
//! Values from the environment and from `--set` are text. The default of the same key
//! gives the type: a number, true or false, or a list. A list is separated by commas or
//! written as in a file.

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

/// The prefix of environment variables.
const PREFIX: &str = "SESSIOND_";
/// Keys whose values never appear in an error.
const SECRETS: [&str; 4] = ["secrets", "password", "sentinel_password", "url"];
/// Separates the levels of a key in the name of an environment variable.
const LEVELS: &str = "__";

/// The sources of the configuration, lowest layer first.
#[derive(Debug)]
pub struct Sources {
    /// The values of keys that no other source sets.
    pub defaults: Config,
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The environment of the process.
    pub environment: Vec<(String, String)>,
    /// `--set KEY=VALUE`.
    pub settings: Vec<(String, String)>,
}

/// An error in the configuration. It contains no secret.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// For example `engine.default.duration`; empty if it concerns the whole source.
    pub key: String,
    /// For example "the file sessiond.toml"; empty if there is no single source.
    pub source: String,
    /// What was found, and what is allowed.
    pub problem: String,
}

impl ConfigError {
    /// `problem` says what was found and what is allowed. The loading adds the source.
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
    // If any source configures engines, only these exist, and not the default one.
    if let Ok(described) = above.find_value("engine")
        && let Some(described) = described.as_dict()
    {
        config.engine.retain(|name, _| described.contains_key(name));
    }
    Ok(config)
}

/// Values and their source.
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
        .map_err(|error| ConfigError::of(&source, "", format!("cannot be read: {error}")))?;
    // The parser's full message quotes the line, which may contain a secret.
    let syntax = |error: toml::de::Error| {
        let before = error.span().map_or("", |span| text.get(..span.start).unwrap_or(""));
        let line = before.matches('\n').count() + 1;
        ConfigError::of(&source, "", format!("line {line}: {}", error.message()))
    };
    let values = toml::from_str::<Dict>(&text).map_err(syntax)?;
    Ok(Layer { source, values })
}

/// The key that an environment variable sets; `None` if it sets none.
fn variable_key(name: &str) -> Result<Option<Vec<String>>, ConfigError> {
    let Some(key) = name.strip_prefix(PREFIX) else {
        return Ok(None);
    };
    if key.contains(LEVELS) {
        return Ok(Some(key.to_lowercase().split(LEVELS).map(str::to_owned).collect()));
    }
    // For a service named "sessiond" or "sessiond-admin", Kubernetes sets such variables
    // in every pod: SESSIOND_SERVICE_HOST, SESSIOND_PORT_50051_TCP_ADDR.
    let words: Vec<_> = key.split('_').collect();
    let of_kubernetes = words.contains(&"PORT") || words.ends_with(&["SERVICE", "HOST"]);
    // CONFIG is read by the command line.
    if of_kubernetes || key == "CONFIG" {
        return Ok(None);
    }
    let problem = format!(
        "is not a key; expected {PREFIX}CONFIG or a key with \"{LEVELS}\" between its levels, \
         such as {PREFIX}LISTEN{LEVELS}GRPC"
    );
    Err(ConfigError::of(&format!("the environment variable {name}"), "", problem))
}

/// The type of each key's value, taken from its default.
struct Shape(Value);

impl Shape {
    fn new() -> Self {
        let shape = Value::serialize(Config::defaults());
        Self(shape.unwrap_or_else(|_| Value::from(Dict::new())))
    }

    /// A layer with one value that is given as text.
    fn layer(&self, source: String, path: &[String], text: String) -> Layer {
        // Every engine has the same keys as the default one.
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

/// Converts `text` to the type of `like`. If that fails it stays text, so it is refused
/// with the same message as in a file.
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

/// Parses a list of strings as written in a file; `None` if it is not one.
fn toml_list(text: &str) -> Option<Vec<Value>> {
    if !text.starts_with('[') {
        return None;
    }
    let table: BTreeMap<String, Vec<String>> = toml::from_str(&format!("list = {text}")).ok()?;
    let [(_, items)] = Vec::from_iter(table).try_into().ok()?;
    Some(items.into_iter().map(Value::from).collect())
}

/// In place of `Figment::extract`. For types that only figment has, that compiles the reading
/// of each section six times, which took a tenth of the library's build.
fn extract(figment: &Figment) -> Result<Config, ConfigError> {
    let values = figment.find_value("").map_err(|error| ConfigError::new("", error.to_string()))?;
    Config::deserialize(&values).map_err(|error| explain(figment, &values, error))
}

/// Translates figment's error: the key, its source, and what is allowed.
fn explain(figment: &Figment, values: &Value, error: figment::Error) -> ConfigError {
    let mut path = error.path.clone();
    if let Kind::UnknownField(field, _) = &error.kind {
        // The path leads to the table. With some errors it already contains the key.
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
    // The found value is not quoted if it may be a secret.
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
            format!("expected {expected}, found {}", found(&display(actual)))
        }
        _ if secret => "expected a string, or a list of strings".to_owned(),
        kind => kind.to_string(),
    };
    ConfigError::of(&source, &key, problem)
}

fn display(actual: &Actual) -> String {
    match actual {
        Actual::Str(text) => format!("{text:?}"),
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        other => other.to_string(),
    }
}
