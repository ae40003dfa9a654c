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
    value::{Dict, Map, Num, Value},
};
use serde::Deserialize as _;

use super::{Config, reading, suggest};

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
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// What could be read, and what is wrong with the rest.
#[derive(Debug)]
pub struct Layers {
    /// A value that is wrong is left out.
    pub config: Config,
    /// Where values come from, by key. Those that no source sets are not in it.
    pub origins: BTreeMap<String, String>,
    /// Everything that is wrong.
    pub errors: Vec<ConfigError>,
}

/// Far more than anybody corrects at a time.
const MOST_ERRORS: usize = 100;

/// Reads all layers. An unknown key or a bad value is an error: the first one of
/// [`read_layers`].
pub fn load(sources: Sources) -> Result<Config, ConfigError> {
    let Layers { config, errors, .. } = read_layers(sources);
    errors.into_iter().next().map_or(Ok(config), Err)
}

/// Reads all layers, and finds all unknown keys and bad values in them.
pub fn read_layers(sources: Sources) -> Layers {
    let (mut above, mut errors) = (Figment::new(), Vec::new());
    match sources.file.as_deref().map(file_layer) {
        Some(Ok(layer)) => above = above.merge(layer),
        Some(Err(error)) => errors.push(error),
        None => {}
    }
    let shape = Shape::new();
    for (name, text) in sources.environment {
        match variable_key(&name) {
            Ok(Some(key)) => {
                let source = format!("the environment variable {name}");
                // What is read from a file often has a line break at its end, and no value has.
                let text = text.trim_end_matches(['\n', '\r']).to_owned();
                above = above.merge(shape.layer(source, &key, text));
            }
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    for (key, text) in sources.settings {
        let path: Vec<_> = key.split('.').map(str::to_owned).collect();
        above = above.merge(shape.layer(format!("--set {key}"), &path, text));
    }
    let figment = Figment::from(Serialized::defaults(&sources.defaults)).merge(above.clone());
    let config = extract(&figment, &shape, &mut errors);
    let mut config = config.unwrap_or(sources.defaults);
    let described = above.find_value("").unwrap_or_else(|_| Value::from(Dict::new()));
    // If any source configures engines, only these exist, and not the default one.
    if let Some(engines) = described.find_ref("engine").and_then(Value::as_dict) {
        config.engine.retain(|name, _| engines.contains_key(name));
    }
    let mut origins = BTreeMap::new();
    note_origins(&above, "", &described, &mut origins);
    Layers { config, origins, errors }
}

fn note_origins(above: &Figment, key: &str, value: &Value, origins: &mut BTreeMap<String, String>) {
    match value.as_dict() {
        Some(table) => {
            for (name, value) in table {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                note_origins(above, &key, value, origins);
            }
        }
        None => {
            let metadata = above.get_metadata(value.tag());
            origins.extend(metadata.map(|from| (key.to_owned(), from.name.to_string())));
        }
    }
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
    let text = reading::text(path)
        .map_err(|error| ConfigError::of(&source, "", format!("cannot be read: {error}")))?;
    // The parser's full message quotes the line, which may contain a secret.
    let syntax = |error: toml::de::Error| {
        let before = error.span().map_or("", |span| text.get(..span.start).unwrap_or(""));
        let line = before.matches('\n').count() + 1;
        ConfigError::of(&source, "", format!("line {line}: {}", error.message()))
    };
    let mut values = toml::from_str::<Dict>(&text).map_err(syntax)?;
    if let Some(folder) = folder_of(path) {
        count_from(&folder, &mut Vec::new(), &mut values);
    }
    Ok(Layer { source, values })
}

/// The folder that relative paths in the file count from. `None`: the working directory,
/// because a pipe is in no folder of the operator's.
fn folder_of(path: &Path) -> Option<PathBuf> {
    let is_file = path.metadata().is_ok_and(|found| found.is_file());
    let absolute = std::path::absolute(path).ok().filter(|_| is_file)?;
    absolute.parent().map(Path::to_owned)
}

/// Makes the relative paths in a table absolute: of files, of the data directory, of sockets.
fn count_from(folder: &Path, table: &mut Vec<String>, values: &mut Dict) {
    for (name, value) in values {
        let is_of = |path: &[&str]| *table == path;
        match value {
            Value::Dict(_, inner) => {
                table.push(name.clone());
                count_from(folder, table, inner);
                table.pop();
            }
            Value::String(_, text) if name.ends_with("_file") => {
                let written = Path::new(text.as_str());
                if !text.is_empty() && written.is_relative() {
                    *text = reading::beside(folder, written).display().to_string();
                }
            }
            Value::String(_, text)
                if is_of(&["store", "sled"]) && name == "path" && !text.is_empty() =>
            {
                *text = folder.join(&*text).display().to_string();
            }
            Value::Array(_, addresses) if is_of(&["listen"]) => {
                for address in addresses {
                    if let Value::String(_, text) = address
                        && let Some(path) = text.strip_prefix("unix:")
                        // `@` stands for an abstract socket elsewhere. It is not made a path here.
                        && !path.is_empty() && !path.starts_with('@')
                    {
                        *text = format!("unix:{}", folder.join(path).display());
                    }
                }
            }
            _ => {}
        }
    }
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
        Some(Value::Num(_, Num::F64(_))) => {
            text.parse::<f64>().map_or_else(|_| text.into(), Value::from)
        }
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
///
/// Each value that is wrong is told and left out, until the rest can be read.
fn extract(figment: &Figment, shape: &Shape, errors: &mut Vec<ConfigError>) -> Option<Config> {
    let mut values = match figment.find_value("") {
        Ok(values) => values,
        Err(error) => {
            errors.push(ConfigError::new("", error.to_string()));
            return None;
        }
    };
    loop {
        let error = match Config::deserialize(&values) {
            Ok(config) => return Some(config),
            Err(error) => error,
        };
        let path = path_of(&error);
        errors.push(explain(figment, &values, shape, &path, &error.kind));
        if errors.len() >= MOST_ERRORS || !remove(&mut values, &path) {
            return None;
        }
    }
}

/// Removes a value. The item of a list takes the list with it.
fn remove(value: &mut Value, path: &[String]) -> bool {
    let (Value::Dict(_, table), [name, rest @ ..]) = (value, path) else { return false };
    let inner = table.get_mut(name);
    let is_deeper = !rest.is_empty() && inner.is_some_and(|inner| remove(inner, rest));
    is_deeper || table.remove(name).is_some()
}

fn path_of(error: &figment::Error) -> Vec<String> {
    let mut path = error.path.clone();
    if let Kind::UnknownField(field, _) = &error.kind {
        // The path leads to the table. With some errors it already contains the key.
        if path.last() != Some(field) {
            path.push(field.clone());
        }
    }
    path
}

/// Translates figment's error: the key, its source, and what is allowed.
fn explain(
    figment: &Figment,
    values: &Value,
    shape: &Shape,
    path: &[String],
    kind: &Kind,
) -> ConfigError {
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
    let problem = match kind {
        Kind::UnknownField(field, allowed) => {
            let meant = suggest::meant(path, field, allowed, &shape.0);
            let meant = meant.map(|meant| format!(" (did you mean {meant}?)")).unwrap_or_default();
            format!("unknown key{meant}; expected one of {}", allowed.join(", "))
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
