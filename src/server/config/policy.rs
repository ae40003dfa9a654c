//! From a configuration to the rules of its engines: what no single value shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use zeroize::Zeroizing;

use super::{
    AdoptChoice, AdoptFrom, Backend, Config, ConfigError, EngineConfig, Kind, RedisAccess, Size,
    UnixAccess, access, adopt, files, sockets, text, traces,
};
use crate::{
    server::traces::TraceOptions,
    service::access::Access,
    session::{
        clock::whole_millis,
        cookie,
        cookie::{Cookie, CookieAttributes},
        lifetime::{Granularity, Lifetime, MAX_DURATION},
        policy::{Limit, Policy},
        token::{Keyring, Secret},
    },
    store::database::Open,
};

/// Each may have two stores, which are numbered in 16 bits.
const MOST_ENGINES: usize = (u16::MAX / 2) as usize;
/// What a message needs beside the data: the Cookie header and field names.
const MESSAGE_OVERHEAD_BYTES: u64 = 64 << 10;

/// A request is on its way for seconds. Each former id can end the session meanwhile.
const MAX_ROLL_GRACE: Duration = Duration::from_secs(3600);

/// The rules that a configuration makes.
#[derive(Debug)]
pub struct Checked {
    /// By name. Every engine is in here.
    pub engines: BTreeMap<String, Policy>,
    /// Of the engines that adopt sessions.
    pub adoptions: BTreeMap<String, AdoptChoice>,
    /// Who may call.
    pub access: Access,
    /// Who may connect to unix sockets.
    pub unix: UnixAccess,
    /// The passwords and certificates for each Redis, which a reload may replace.
    pub redis: RedisAccess,
    /// The options of the store in use.
    pub store: Box<dyn Open>,
    /// Where spans go. `None`: nothing is recorded.
    pub(in crate::server) traces: Option<TraceOptions>,
    /// What an operator should know, a sentence each.
    pub warnings: Vec<String>,
    /// The same, about choices that are good for a trial and rarely for production.
    pub advice: Vec<String>,
    /// How many secrets each engine has, and which of them signs, a sentence each.
    pub secrets: Vec<String>,
}

/// Looking more often would find files that are still written.
const MIN_WATCH: Duration = Duration::from_secs(1);
const MAX_WATCH: Duration = Duration::from_secs(24 * 3600);

/// What is wrong, as far as it has been looked at.
#[derive(Default)]
struct Errors(Vec<ConfigError>);

impl Errors {
    fn add(&mut self, key: impl Into<String>, problem: impl Into<String>) {
        self.0.push(ConfigError::new(key, problem));
    }

    /// What it is, if nothing is wrong with it. An error that is known already is not repeated.
    fn keep<T>(&mut self, outcome: Result<T, ConfigError>) -> Option<T> {
        match outcome {
            Ok(kept) => Some(kept),
            Err(error) => {
                if !self.0.contains(&error) {
                    self.0.push(error);
                }
                None
            }
        }
    }
}

/// Checks what no single value can show, reads the files of secrets and
/// tokens, and makes the engines' rules. Binds nothing.
pub fn check(config: &Config) -> Result<Checked, ConfigError> {
    check_all(config).map_err(|errors| errors.into_iter().next().expect("there is one"))
}

/// As [`check`], and finds all that is wrong: at least one error, if there is any.
pub fn check_all(config: &Config) -> Result<Checked, Vec<ConfigError>> {
    let (mut warnings, mut advice, mut secrets) = (Vec::new(), Vec::new(), Vec::new());
    let mut errors = Errors::default();
    let access = errors.keep(access::check(&config.listen, &mut advice));
    // Tokens that cannot be used are an error of their own.
    let has_tokens = access.as_ref().is_none_or(|access| !access.tokens.is_empty());
    let unix = errors.keep(sockets::check(&config.listen, has_tokens, &mut advice));
    check_listeners(config, has_tokens, &mut errors);
    check_limits(config, &mut errors);
    let watch = config.reload.watch;
    if watch.0.is_some_and(|watch| !(MIN_WATCH..=MAX_WATCH).contains(&watch)) {
        errors.add("reload.watch", format!("expected \"none\" or 1s to 1day, found {watch}"));
    }
    if !(1..=MOST_ENGINES).contains(&config.engine.len()) {
        let found = config.engine.len();
        errors.add("engine", format!("expected 1 to {MOST_ENGINES} engines, found {found}"));
    }
    for backend in Backend::ALL {
        errors.keep((backend.kind().check)(&config.store));
    }
    let traces = errors.keep(traces::check(&config.traces));
    let kind = config.store.backend.kind();
    let redis = RedisAccess::default();
    let store = errors.keep((kind.options)(&config.store, &redis));
    let mut engines = BTreeMap::new();
    let mut adoptions = BTreeMap::new();
    for (name, engine) in &config.engine {
        let policy = policy(name, engine, &mut errors, &mut warnings, &mut secrets);
        advise(name, engine, &mut advice);
        errors.keep(check_data_limit(config, kind, name, engine));
        let most = engine.max_data_bytes.as_usize();
        let adoption = errors.keep(adopt::check(name, &engine.adopt, most, &redis)).flatten();
        adoptions.extend(adoption.map(|adoption| (name.clone(), adoption)));
        engines.extend(policy.map(|policy| (name.clone(), policy)));
    }
    warnings.extend(exposures(config));
    match (access, unix, store, traces) {
        (Some(access), Some(unix), Some(store), Some(traces)) if errors.0.is_empty() => {
            Ok(Checked {
                engines,
                adoptions,
                access,
                unix,
                redis,
                store,
                traces,
                warnings,
                advice,
                secrets,
            })
        }
        _ => Err(errors.0),
    }
}

/// Checks that a session fits into a message and into the store.
fn check_data_limit(
    config: &Config,
    kind: Kind,
    name: &str,
    engine: &EngineConfig,
) -> Result<(), ConfigError> {
    let refused = |problem| Err(ConfigError::new(format!("engine.{name}.max_data_bytes"), problem));
    let message = config.limits.max_message_bytes.0;
    if engine.max_data_bytes.0.saturating_add(MESSAGE_OVERHEAD_BYTES) > message {
        return refused(format!(
            "expected at most limits.max_message_bytes less {MESSAGE_OVERHEAD_BYTES} bytes, found {}",
            engine.max_data_bytes
        ));
    }
    match kind.max_data_bytes {
        Some(most) if engine.max_data_bytes.as_usize() > most => refused(format!(
            "expected at most {}, which is what the {} store keeps, found {}",
            Size(most as u64),
            kind.name,
            engine.max_data_bytes
        )),
        _ => Ok(()),
    }
}

/// The files with secrets that others may read or change, each file once.
fn exposures(config: &Config) -> Vec<String> {
    let mut files = vec![
        ("listen.auth.token_file".to_owned(), &config.listen.auth.token_file),
        ("listen.tls.key_file".to_owned(), &config.listen.tls.key_file),
        ("traces.headers_file".to_owned(), &config.traces.headers_file),
    ];
    if config.store.backend == Backend::Redis {
        let redis = &config.store.redis;
        files.push(("store.redis.password_file".to_owned(), &redis.password_file));
        let sentinels = &redis.sentinel_password_file;
        files.push(("store.redis.sentinel_password_file".to_owned(), sentinels));
        files.push(("store.redis.tls.key_file".to_owned(), &redis.tls.key_file));
    }
    for (name, engine) in &config.engine {
        let key = |key: &str| format!("engine.{name}.{key}");
        files.push((key("cookie.secret_file"), &engine.cookie.secret_file));
        if engine.adopt.from != AdoptFrom::Off {
            let adopt = &engine.adopt;
            files.push((key("adopt.password_file"), &adopt.password_file));
            files.push((key("adopt.sentinel_password_file"), &adopt.sentinel_password_file));
            files.push((key("adopt.tls.key_file"), &adopt.tls.key_file));
        }
    }
    let mut seen = BTreeSet::new();
    files.retain(|(_, path)| !path.as_os_str().is_empty() && seen.insert(*path));
    files.iter().filter_map(|(key, path)| files::exposure(key, path)).collect()
}

/// What is valid, and weaker than it should be in production.
fn advise(name: &str, engine: &EngineConfig, advice: &mut Vec<String>) {
    let cookie = &engine.cookie;
    let mut add =
        |key: &str, problem: String| advice.push(format!("engine.{name}.{key} {problem}"));
    if !cookie.secure {
        add(
            "cookie.secure = false:",
            "browsers also send the cookie over plain HTTP, where others can read it".to_owned(),
        );
    }
    if !cookie.http_only {
        add(
            "cookie.http_only = false:",
            "scripts of the page can read the cookie, and with it the session".to_owned(),
        );
    }
    // Browsers compare the prefix without regard to case (RFC 6265bis, section 4.1.3).
    let lower = cookie.name.to_ascii_lowercase();
    if !["__host-", "__secure-", "__http-"].iter().any(|prefix| lower.starts_with(prefix)) {
        add(
            "cookie.name",
            format!(
                "= {:?} has no prefix: another host of the domain, or plain HTTP, can set the cookie; a name such as __Host-{} prevents that",
                cookie.name, cookie.name
            ),
        );
    }
    if engine.absolute_duration.0.is_none() {
        add("absolute_duration = \"none\":", "a session that is used lives for ever, also in the hands of a thief; set the longest time after which a user logs in again".to_owned());
    }
    if let Some(absolute) = engine.absolute_duration.0
        && engine.duration.0 > absolute
    {
        add(
            "duration",
            format!(
                "= \"{}\" is longer than absolute_duration, which is {}: no session is ever idle for that long, and each ends after {}",
                engine.duration, engine.absolute_duration, engine.absolute_duration
            ),
        );
    }
    let domain = cookie.domain.trim_start_matches('.');
    if !domain.is_empty() && !domain.contains('.') && !text::is_localhost(domain) {
        add(
            "cookie.domain",
            format!(
                "= {:?} is a top-level domain: browsers refuse the cookie, and nobody stays logged in; expected a domain of your own, or \"\"",
                cookie.domain
            ),
        );
    }
    if let Some(granularity) = engine.touch_granularity.0
        && granularity > engine.duration.0 / 4
    {
        add(
            "touch_granularity",
            format!(
                "= \"{}\" is more than a quarter of the duration, which is {}: sessions may live that much longer than they should",
                engine.touch_granularity, engine.duration
            ),
        );
    }
}

/// The rules of an engine, if nothing is wrong with them.
fn policy(
    name: &str,
    engine: &EngineConfig,
    errors: &mut Errors,
    warnings: &mut Vec<String>,
    report: &mut Vec<String>,
) -> Option<Policy> {
    let named = errors.keep(check_name(name));
    let lifetime = errors.keep(lifetime(name, engine));
    let keyring = errors.keep(keyring(name, engine, warnings, report));
    let cookie = Cookie::new(attributes(engine));
    let cookie = errors.keep(cookie.map_err(|cookie::CookieError { key, problem }| {
        ConfigError::new(format!("engine.{name}.cookie.{key}"), problem)
    }));
    named?;
    Some(Policy {
        keyring: keyring?,
        cookie: cookie?,
        lifetime: lifetime?,
        automatic_touch: engine.automatic_touch,
        roll_grace: engine.roll_grace.0.unwrap_or_default(),
        max_data_bytes: engine.max_data_bytes.as_usize(),
        limit: (engine.max_sessions_per_principal > 0).then_some(Limit {
            sessions: engine.max_sessions_per_principal as usize,
            on_limit: engine.on_limit,
        }),
    })
}

fn check_name(name: &str) -> Result<(), ConfigError> {
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    let clean = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if !starts || name.len() > 63 || !name.chars().all(clean) {
        let problem = "expected a name of at most 63 lower-case letters, digits, \"_\" and \"-\", \
                       with a letter first";
        return Err(ConfigError::new(format!("engine.{name}"), problem));
    }
    Ok(())
}

fn lifetime(name: &str, engine: &EngineConfig) -> Result<Lifetime, ConfigError> {
    let key = |key: &str| format!("engine.{name}.{key}");
    let lifetime = Lifetime {
        duration: whole_millis(engine.duration.0),
        granularity: engine
            .touch_granularity
            .0
            .map_or(Granularity::Auto, |fixed| Granularity::Fixed(whole_millis(fixed))),
        absolute: engine.absolute_duration.0.map(whole_millis),
    };
    if lifetime.duration > MAX_DURATION {
        let problem = format!("expected at most 400days, found {}", engine.duration);
        return Err(ConfigError::new(key("duration"), problem));
    }
    if let Granularity::Fixed(granularity) = lifetime.granularity
        && granularity > lifetime.duration
    {
        let problem = format!(
            "expected at most the duration, which is {}, found {}",
            engine.duration, engine.touch_granularity
        );
        return Err(ConfigError::new(key("touch_granularity"), problem));
    }
    if engine.roll_grace.0.is_some_and(|grace| grace > MAX_ROLL_GRACE) {
        let problem = format!("expected at most 1h, found {}", engine.roll_grace);
        return Err(ConfigError::new(key("roll_grace"), problem));
    }
    Ok(lifetime)
}

fn keyring(
    name: &str,
    engine: &EngineConfig,
    warnings: &mut Vec<String>,
    report: &mut Vec<String>,
) -> Result<Keyring, ConfigError> {
    let secrets = secrets(name, engine, warnings, report)?;
    // Where the first one is, which signs. Without any, the file is the better place for one.
    let is_inline = engine.cookie.secret_file.as_os_str().is_empty() && !secrets.is_empty();
    let source = if is_inline { "secrets" } else { "secret_file" };
    Keyring::new(&secrets).map_err(|error| {
        ConfigError::new(format!("engine.{name}.cookie.{source}"), error.to_string())
    })
}

fn attributes(engine: &EngineConfig) -> CookieAttributes {
    let cookie = &engine.cookie;
    CookieAttributes {
        name: cookie.name.clone(),
        domain: cookie.domain.clone(),
        path: cookie.path.clone(),
        secure: cookie.secure,
        http_only: cookie.http_only,
        same_site: cookie.same_site,
        partitioned: cookie.partitioned,
        persistent: cookie.persistent,
        format: cookie.format,
    }
}

/// Those of the file first, then those of the configuration itself.
fn secrets(
    name: &str,
    engine: &EngineConfig,
    warnings: &mut Vec<String>,
    report: &mut Vec<String>,
) -> Result<Vec<Secret>, ConfigError> {
    let key = format!("engine.{name}.cookie.secret_file");
    let mut secrets = Vec::new();
    let mut signing = "the first of cookie.secrets".to_owned();
    let mut first = engine.cookie.secrets.first().map(|secret| secret.0.clone());
    if let Some(text) = files::read(&key, &engine.cookie.secret_file)? {
        let found = files::secrets(&key, "secret", &text)?;
        if let Some((number, line)) = found.first() {
            signing = format!("line {number} of cookie.secret_file");
            first = Some((*line).to_owned());
        }
        secrets.extend(found.iter().map(|(_, line)| Secret::new(*line)));
    }
    secrets.extend(engine.cookie.secrets.iter().map(|secret| Secret::new(secret.0.as_str())));
    let (count, s) = (secrets.len(), if secrets.len() == 1 { "" } else { "s" });
    report.push(format!("engine.{name}: {count} cookie secret{s}; {signing} signs"));
    if let Some(count) = first.map(Zeroizing::new).and_then(|first| files::few_characters(&first)) {
        warnings.push(format!(
            "engine.{name}: {signing} signs, and has only {count} different characters, so that it \
             can be guessed; `sessiond secret` prints a fresh one"
        ));
    }
    let short = secrets.iter().skip(1).filter(|secret| secret.len() < Secret::MIN_SIGNING_LEN);
    let short = short.count();
    if short > 0 {
        warnings.push(format!(
            "engine.{name}.cookie: {short} of the older secrets are shorter than {} bytes; they \
             only verify cookies that are out already: drop them when these have expired",
            Secret::MIN_SIGNING_LEN
        ));
    }
    Ok(secrets)
}

fn check_listeners(config: &Config, with_tokens: bool, errors: &mut Errors) {
    let listen = &config.listen;
    if listen.grpc.is_empty() {
        errors.add("listen.grpc", "expected at least one address");
    }
    let all = [("listen.grpc", &listen.grpc), ("listen.admin", &listen.admin)];
    let all = all.into_iter().flat_map(|(key, list)| list.iter().map(move |one| (key, one)));
    let all: Vec<_> =
        all.chain(listen.metrics.0.as_ref().map(|one| ("listen.metrics", one))).collect();
    for (at, (key, address)) in all.iter().enumerate() {
        let Some((other_key, other)) = all[..at].iter().find(|(_, it)| it.clashes_with(address))
        else {
            continue;
        };
        let problem = if other == address {
            format!("{address} is listed twice: in {other_key} and in {key}")
        } else {
            format!("{other} in {other_key} and {address} in {key} take the same port")
        };
        errors.add("listen", problem);
    }
    let tls = &listen.tls;
    let has = |path: &Path| !path.as_os_str().is_empty();
    if has(&tls.cert_file) != has(&tls.key_file) {
        let problem = "expected both listen.tls.cert_file and listen.tls.key_file, or neither";
        errors.add("listen.tls", problem);
    }
    if has(&tls.client_ca_file) && !has(&tls.cert_file) {
        let problem = "needs listen.tls.cert_file and listen.tls.key_file beside it";
        errors.add("listen.tls.client_ca_file", problem);
    }
    // Encryption alone lets anybody in, but a token in the clear is a token
    // given away only where the network is not trusted: either is accepted.
    if has(&tls.cert_file) || with_tokens {
        return;
    }
    for (key, address) in all {
        if key != "listen.metrics" && !address.is_local() {
            let problem = format!(
                "{address} can be reached from other machines; set listen.tls.cert_file and \
                 listen.tls.key_file, or listen.auth.token_file, or listen on loopback or on a unix socket"
            );
            errors.add(key, problem);
        }
    }
}

fn check_limits(config: &Config, errors: &mut Errors) {
    let limits = &config.limits;
    for (key, value) in [
        ("limits.max_connections", limits.max_connections),
        ("limits.max_concurrent_streams", limits.max_concurrent_streams),
        ("limits.pipeline_in_flight", limits.pipeline_in_flight),
        ("limits.max_watchers", limits.max_watchers),
        ("limits.watch_queue", limits.watch_queue),
        ("cleanup.slice", config.cleanup.slice),
    ] {
        if value == 0 {
            errors.add(key, "expected at least 1, found 0");
        }
    }
    for (key, value) in
        [("runtime.threads", config.runtime.threads), ("limits.max_watchers", limits.max_watchers)]
    {
        if value > 1024 {
            errors.add(key, format!("expected at most 1024, found {value}"));
        }
    }
    for (key, size, most) in [
        ("limits.max_message_bytes", limits.max_message_bytes, 1 << 30),
        ("limits.max_header_bytes", limits.max_header_bytes, 1 << 24),
    ] {
        if size.0 > most {
            errors.add(key, format!("expected at most {most} bytes, found {size}"));
        }
    }
}
