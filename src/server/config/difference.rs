//! What a reload takes over of a configuration that has changed, and what it leaves to a restart.

use std::collections::BTreeMap;

use super::{AdoptConfig, AdoptFrom, Backend, Config, redis::given};

/// Keys whose values a reload takes over. `*` stands for any name, at the end for all that
/// follows.
const RELOADED: [&str; 16] = [
    "listen.tls.*",
    "listen.auth.*",
    "engine.*.cookie.secret_file",
    "engine.*.cookie.secrets",
    "engine.*.adopt.password_file",
    "engine.*.adopt.password",
    "engine.*.adopt.sentinel_password_file",
    "engine.*.adopt.sentinel_password",
    "engine.*.adopt.tls.*",
    "store.redis.password_file",
    "store.redis.password",
    "store.redis.sentinel_password_file",
    "store.redis.sentinel_password",
    "store.redis.tls.*",
    "reload.*",
    "log.level",
];

/// Keys with other values in `next` than in `started`, with which the daemon was started, that
/// only a restart takes over. An engine that is new or gone is one key.
pub fn restart_keys(started: &Config, next: &Config) -> Vec<String> {
    let (before, after) = (Flat::of(started), Flat::of(next));
    let mut keys: Vec<_> = before.0.keys().chain(after.0.keys()).cloned().collect();
    keys.sort();
    keys.dedup();
    keys.retain(|key| {
        before.0.get(key) != after.0.get(key)
            && !RELOADED.iter().any(|pattern| matches(pattern, key))
            && counts(key, started, next)
    });
    for key in &mut keys {
        let name = key.strip_prefix("engine.").and_then(|rest| rest.split('.').next());
        if let Some(name) = name
            && started.engine.contains_key(name) != next.engine.contains_key(name)
        {
            *key = format!("engine.{name}");
        }
    }
    keys.extend(switched(started, next));
    keys.sort();
    keys.dedup();
    keys
}

/// Values by their whole keys. A secret is only given or not.
struct Flat(BTreeMap<String, toml::Value>);

impl Flat {
    fn of(config: &Config) -> Self {
        let mut flat = Self(BTreeMap::new());
        if let Ok(toml::Value::Table(table)) = toml::Value::try_from(config) {
            flat.insert("", table);
        }
        flat
    }

    fn insert(&mut self, prefix: &str, table: toml::Table) {
        for (key, value) in table {
            let key = format!("{prefix}{key}");
            match value {
                toml::Value::Table(table) => self.insert(&format!("{key}."), table),
                value => drop(self.0.insert(key, value)),
            }
        }
    }
}

fn matches(pattern: &str, key: &str) -> bool {
    let (mut patterns, mut levels) = (pattern.split('.').peekable(), key.split('.'));
    while let Some(pattern) = patterns.next() {
        match levels.next() {
            Some(_) if pattern == "*" => {
                if patterns.peek().is_none() {
                    return true;
                }
            }
            Some(level) if level == pattern => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Whether the key means anything with these configurations.
fn counts(key: &str, started: &Config, next: &Config) -> bool {
    let both = [started, next];
    let is_used = |backend| both.iter().any(|config| config.store.backend == backend);
    if key.starts_with("store.sled.") {
        return is_used(Backend::Sled);
    }
    if key.starts_with("store.redis.") {
        return is_used(Backend::Redis);
    }
    let adopts = |name: &str| {
        let mut engines = both.iter().filter_map(|config| config.engine.get(name));
        engines.any(|engine| engine.adopt.from != AdoptFrom::Off)
    };
    let of_adoption = key.strip_prefix("engine.").and_then(|rest| rest.split_once(".adopt."));
    of_adoption.is_none_or(|(name, _)| adopts(name))
}

/// Keys that a reload takes over only where there was a value and there still is one.
fn switched(started: &Config, next: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    // As text, user and password of a URL are not shown.
    let is_redis = [started, next].iter().all(|config| config.store.backend == Backend::Redis);
    if is_redis && started.store.redis.url != next.store.redis.url {
        keys.push("store.redis.url".to_owned());
    }
    for (name, engine) in &started.engine {
        let adopt = next.engine.get(name).map(|engine| &engine.adopt);
        let is_other =
            |next: &AdoptConfig| next.from != AdoptFrom::Off && next.url != engine.adopt.url;
        if adopt.is_some_and(is_other) {
            keys.push(format!("engine.{name}.adopt.url"));
        }
    }
    let mut both = |key: String, is_on: &dyn Fn(&Config) -> Option<bool>| {
        if let (Some(before), Some(after)) = (is_on(started), is_on(next))
            && before != after
        {
            keys.push(key);
        }
    };
    both("listen.tls.cert_file".to_owned(), &|config| {
        Some(!config.listen.tls.cert_file.as_os_str().is_empty())
    });
    let of_store = |config: &Config| {
        (config.store.backend == Backend::Redis).then(|| given(&config.store.redis))
    };
    for (at, key) in ["password_file", "sentinel_password_file", "tls"].iter().enumerate() {
        both(format!("store.redis.{key}"), &|config| of_store(config).map(|given| given[at]));
        for name in started.engine.keys() {
            both(format!("engine.{name}.adopt.{key}"), &|config| {
                let adopt = &config.engine.get(name)?.adopt;
                (adopt.from != AdoptFrom::Off).then(|| given(&adopt.access())[at])
            });
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::config::SecretText;

    fn differing(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let started = Config::defaults();
        let mut next = started.clone();
        change(&mut next);
        restart_keys(&started, &next)
    }

    fn default_engine(config: &mut Config) -> &mut super::super::EngineConfig {
        config.engine.get_mut("default").expect("the engine of the defaults")
    }

    #[test]
    fn what_a_reload_takes_over_is_not_named() {
        assert_eq!(differing(|_| {}), [""; 0]);
        let reloaded = differing(|config| {
            config.log.level = super::super::LogLevel::Debug;
            config.reload.watch = "10s".parse().expect("a time");
            config.listen.auth.token_file = "tokens".into();
            config.listen.auth.subjects.push("admin CN=a".to_owned());
            let cookie = &mut default_engine(config).cookie;
            cookie.secret_file = "secrets".into();
            cookie.secrets.push(SecretText("one".to_owned()));
            // Of a store that is not in use.
            config.store.redis.url = "redis://elsewhere".parse().expect("a URL");
            default_engine(config).adopt.key_prefix = "other".to_owned();
        });
        assert_eq!(reloaded, [""; 0]);
    }

    #[test]
    fn what_only_a_restart_takes_over_is_named() {
        let changed = differing(|config| {
            config.limits.max_connections = 7;
            config.log.format = super::super::LogFormat::Json;
            config.listen.metrics = super::super::AddrOrOff(None);
            default_engine(config).cookie.name = "other".to_owned();
            config.store.sled.path = "elsewhere".into();
            let engine = default_engine(config).clone();
            config.engine.insert("shop".to_owned(), engine);
        });
        let expected = [
            "engine.default.cookie.name",
            "engine.shop",
            "limits.max_connections",
            "listen.metrics",
            "log.format",
            "store.sled.path",
        ];
        assert_eq!(changed, expected);
        let tls = differing(|config| {
            config.listen.tls.cert_file = "server.pem".into();
            config.listen.tls.key_file = "server.key".into();
        });
        assert_eq!(tls, ["listen.tls.cert_file"], "TLS cannot be turned on");
    }

    #[test]
    fn the_login_of_a_redis_is_taken_over_if_it_had_one() {
        let mut started = Config::defaults();
        started.store.backend = Backend::Redis;
        let mut next = started.clone();
        next.store.redis.password = SecretText("hunter2".to_owned());
        assert_eq!(restart_keys(&started, &next), ["store.redis.password_file"]);
        let mut third = next.clone();
        third.store.redis.password = SecretText("hunter3".to_owned());
        assert_eq!(restart_keys(&next, &third), [""; 0]);
        third.store.redis.username = "other".to_owned();
        assert_eq!(restart_keys(&next, &third), ["store.redis.username"]);
        third.store.redis.url = "redis://:hunter4@127.0.0.1:6379".parse().expect("a URL");
        assert_eq!(restart_keys(&next, &third), ["store.redis.url", "store.redis.username"]);
    }

    #[test]
    fn patterns_match_level_by_level() {
        for (pattern, key, expected) in [
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.b.d", false),
            ("a.*.c", "a.b.c.d", false),
            ("a.*", "a.b.c", true),
            ("a.b", "a", false),
            ("a", "a.b", false),
        ] {
            assert_eq!(matches(pattern, key), expected, "{pattern} and {key}");
        }
    }
}
