//! From a configuration to the rules of its engines: what no single value shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use super::{
    AdoptChoice, AdoptFrom, Backend, Config, ConfigError, EngineConfig, ListenAddr, RedisAccess,
    Size, access, adopt, files,
};
use crate::{
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
    /// The passwords and certificates for each Redis, which a reload may replace.
    pub redis: RedisAccess,
    /// The options of the store in use.
    pub store: Box<dyn Open>,
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

/// Checks what no single value can show, reads the files of secrets and
/// tokens, and makes the engines' rules. Binds nothing.
pub fn check(config: &Config) -> Result<Checked, ConfigError> {
    let (mut warnings, mut advice, mut secrets) = (Vec::new(), Vec::new(), Vec::new());
    let access = access::check(&config.listen, &mut advice)?;
    check_listeners(config, !access.tokens.is_empty())?;
    check_limits(config)?;
    let watch = config.reload.watch;
    if watch.0.is_some_and(|watch| !(MIN_WATCH..=MAX_WATCH).contains(&watch)) {
        let problem = format!("expected \"none\" or 1s to 1day, found {watch}");
        return Err(ConfigError::new("reload.watch", problem));
    }
    if !(1..=MOST_ENGINES).contains(&config.engine.len()) {
        let problem =
            format!("expected 1 to {MOST_ENGINES} engines, found {}", config.engine.len());
        return Err(ConfigError::new("engine", problem));
    }
    for backend in Backend::ALL {
        (backend.kind().check)(&config.store)?;
    }
    let kind = config.store.backend.kind();
    let redis = RedisAccess::default();
    let store = (kind.options)(&config.store, &redis)?;
    let mut engines = BTreeMap::new();
    let mut adoptions = BTreeMap::new();
    for (name, engine) in &config.engine {
        let policy = policy(name, engine, &mut warnings, &mut secrets)?;
        advise(name, engine, &mut advice);
        let message = config.limits.max_message_bytes.0;
        if engine.max_data_bytes.0.saturating_add(MESSAGE_OVERHEAD_BYTES) > message {
            let problem = format!(
                "expected at most limits.max_message_bytes less {MESSAGE_OVERHEAD_BYTES} bytes, found {}",
                engine.max_data_bytes
            );
            return Err(ConfigError::new(format!("engine.{name}.max_data_bytes"), problem));
        }
        if let Some(most) = kind.max_data_bytes
            && engine.max_data_bytes.as_usize() > most
        {
            let problem = format!(
                "expected at most {}, which is what the {} store keeps, found {}",
                Size(most as u64),
                kind.name,
                engine.max_data_bytes
            );
            return Err(ConfigError::new(format!("engine.{name}.max_data_bytes"), problem));
        }
        let most = engine.max_data_bytes.as_usize();
        let adoption = adopt::check(name, &engine.adopt, most, &redis)?;
        adoptions.extend(adoption.map(|adoption| (name.clone(), adoption)));
        engines.insert(name.clone(), policy);
    }
    warnings.extend(exposures(config));
    Ok(Checked { engines, adoptions, access, redis, store, warnings, advice, secrets })
}

/// The files with secrets that others may read or change, each file once.
fn exposures(config: &Config) -> Vec<String> {
    let mut files = vec![
        ("listen.auth.token_file".to_owned(), &config.listen.auth.token_file),
        ("listen.tls.key_file".to_owned(), &config.listen.tls.key_file),
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

fn policy(
    name: &str,
    engine: &EngineConfig,
    warnings: &mut Vec<String>,
    report: &mut Vec<String>,
) -> Result<Policy, ConfigError> {
    let key = |key: &str| format!("engine.{name}.{key}");
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    let clean = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if !starts || name.len() > 63 || !name.chars().all(clean) {
        let problem = "expected a name of at most 63 lower-case letters, digits, \"_\" and \"-\", \
                       with a letter first";
        return Err(ConfigError::new(format!("engine.{name}"), problem));
    }
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
    let secrets = secrets(name, engine, warnings, report)?;
    let keyring = Keyring::new(&secrets)
        .map_err(|error| ConfigError::new(key("cookie.secret_file"), error.to_string()))?;
    let cookie =
        Cookie::new(attributes(engine)).map_err(|cookie::CookieError { key: at, problem }| {
            ConfigError::new(key(&format!("cookie.{at}")), problem)
        })?;
    Ok(Policy {
        keyring,
        cookie,
        lifetime,
        automatic_touch: engine.automatic_touch,
        roll_grace: engine.roll_grace.0.unwrap_or_default(),
        max_data_bytes: engine.max_data_bytes.as_usize(),
        limit: (engine.max_sessions_per_principal > 0).then_some(Limit {
            sessions: engine.max_sessions_per_principal as usize,
            on_limit: engine.on_limit,
        }),
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
    if let Some(text) = files::read(&key, &engine.cookie.secret_file)? {
        let found = files::secrets(&key, "secret", &text)?;
        if let Some((number, _)) = found.first() {
            signing = format!("line {number} of cookie.secret_file");
        }
        secrets.extend(found.iter().map(|(_, line)| Secret::new(*line)));
    }
    secrets.extend(engine.cookie.secrets.iter().map(|secret| Secret::new(secret.0.as_str())));
    let (count, s) = (secrets.len(), if secrets.len() == 1 { "" } else { "s" });
    report.push(format!("engine.{name}: {count} cookie secret{s}; {signing} signs"));
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

fn check_listeners(config: &Config, with_tokens: bool) -> Result<(), ConfigError> {
    let listen = &config.listen;
    if listen.grpc.is_empty() {
        return Err(ConfigError::new("listen.grpc", "expected at least one address"));
    }
    let mut seen = BTreeSet::new();
    for address in listen.grpc.iter().chain(&listen.admin) {
        let any_port = matches!(address, ListenAddr::Tcp(tcp) if tcp.port() == 0);
        if !any_port && !seen.insert(address.to_string()) {
            let problem = format!("{address} is listed twice among listen.grpc and listen.admin");
            return Err(ConfigError::new("listen", problem));
        }
    }
    let tls = &listen.tls;
    let has = |path: &Path| !path.as_os_str().is_empty();
    if has(&tls.cert_file) != has(&tls.key_file) {
        let problem = "expected both listen.tls.cert_file and listen.tls.key_file, or neither";
        return Err(ConfigError::new("listen.tls", problem));
    }
    if has(&tls.client_ca_file) && !has(&tls.cert_file) {
        let problem = "needs listen.tls.cert_file and listen.tls.key_file beside it";
        return Err(ConfigError::new("listen.tls.client_ca_file", problem));
    }
    // Encryption alone lets anybody in, but a token in the clear is a token
    // given away only where the network is not trusted: either is accepted.
    if has(&tls.cert_file) || with_tokens {
        return Ok(());
    }
    for (key, addresses) in [("listen.grpc", &listen.grpc), ("listen.admin", &listen.admin)] {
        for address in addresses {
            if let ListenAddr::Tcp(tcp) = address
                && !is_loopback(tcp)
            {
                let problem = format!(
                    "{address} can be reached from other machines; set listen.tls.cert_file and \
                     listen.tls.key_file, or listen.auth.token_file, or listen on loopback or on a unix socket"
                );
                return Err(ConfigError::new(key, problem));
            }
        }
    }
    Ok(())
}

fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn check_limits(config: &Config) -> Result<(), ConfigError> {
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
            return Err(ConfigError::new(key, "expected at least 1, found 0"));
        }
    }
    for (key, value) in
        [("runtime.threads", config.runtime.threads), ("limits.max_watchers", limits.max_watchers)]
    {
        if value > 1024 {
            return Err(ConfigError::new(key, format!("expected at most 1024, found {value}")));
        }
    }
    for (key, size, most) in [
        ("limits.max_message_bytes", limits.max_message_bytes, 1 << 30),
        ("limits.max_header_bytes", limits.max_header_bytes, 1 << 24),
    ] {
        if size.0 > most {
            return Err(ConfigError::new(
                key,
                format!("expected at most {most} bytes, found {size}"),
            ));
        }
    }
    Ok(())
}
