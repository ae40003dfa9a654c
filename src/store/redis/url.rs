//! Where Redis is: the URL of `store.redis.url`.
//!
//! | URL | reaches |
//! |---|---|
//! | `redis://host:6379/0` | one server |
//! | `redis+sentinel://host:26379,host:26379/service` | the primary that Sentinels know as `service` |
//! | `redis+cluster://host:6379,host:6379` | a cluster, by some of its nodes |
//! | `redis+unix:///path?db=0` or `unix:///path?db=0` | one server, over a unix socket |
//!
//! `rediss` in place of `redis` is the same over TLS. A user name and a
//! password may precede the hosts (`user:password@`), with `%` escapes; files
//! and the environment are better places for them. For a unix socket, they may
//! also be written as `?user=USER&pass=PASSWORD`, as the crate `redis` and other
//! clients do. The password is never shown.

use std::{
    ffi::OsString,
    fmt,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};
use zeroize::Zeroizing;

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// The address of Redis, and how to connect to it.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// Whether the scheme is one of the `rediss` forms.
    pub tls: bool,
    /// Empty: the default user.
    pub username: String,
    /// Empty: none.
    pub password: Zeroizing<String>,
    /// What the path and the hosts name.
    pub target: Target,
}

/// The server or servers that hold the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One server, which takes writes.
    Server {
        /// The default port is 6379.
        address: Address,
        /// The number for SELECT.
        database: u32,
    },
    /// One server, over a unix socket.
    Socket {
        /// Absolute.
        path: PathBuf,
        /// The number for SELECT.
        database: u32,
    },
    /// The primary that Sentinels name.
    Sentinel {
        /// At least one. The default port is 26379.
        sentinels: Vec<Address>,
        /// The name that the Sentinels know the primary by.
        service: String,
        /// The number for SELECT.
        database: u32,
    },
    /// A cluster, which has one database.
    Cluster {
        /// At least one of its nodes. The others are learned from it.
        seeds: Vec<Address>,
    },
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// Of TCP. The default is 6379, and 26379 for a Sentinel.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Where a connection leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    Tcp(Address),
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The text is not such a URL. The error does not repeat it, because it may
/// contain a password.
#[derive(Debug, thiserror::Error)]
#[error("expected {EXPECTED}")]
pub struct UnfitUrl;

/// What an error message tells about the accepted forms.
pub const EXPECTED: &str = "a URL such as \"redis://127.0.0.1:6379\", \
     \"redis+sentinel://host:26379,host:26379/service\", \"redis+cluster://host:6379,host:6379\" or \
     \"redis+unix:///path\"; rediss is the same over TLS";

impl FromStr for RedisUrl {
    type Err = UnfitUrl;

    fn from_str(text: &str) -> Result<Self, UnfitUrl> {
        let (scheme, rest) = text.split_once("://").ok_or(UnfitUrl)?;
        if matches!(scheme, "unix" | "redis+unix") {
            return socket(rest);
        }
        let (transport, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let tls = match transport {
            "redis" => false,
            "rediss" => true,
            _ => return Err(UnfitUrl),
        };
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (user, rest),
            None => ("", rest),
        };
        let (username, password) = user.split_once(':').unwrap_or((user, ""));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let hosts = |port| -> Result<Vec<_>, UnfitUrl> {
            hosts.split(',').map(|host| address(host, port)).collect()
        };
        let target = match kind {
            "" => {
                let [address] = <[_; 1]>::try_from(hosts(REDIS_PORT)?).map_err(|_| UnfitUrl)?;
                Target::Server { address, database: database(path)? }
            }
            "sentinel" => {
                let (service, number) = path.split_once('/').unwrap_or((path, ""));
                if service.is_empty() {
                    return Err(UnfitUrl);
                }
                Target::Sentinel {
                    sentinels: hosts(SENTINEL_PORT)?,
                    service: decoded(service)?,
                    database: database(number)?,
                }
            }
            // A cluster has one database.
            "cluster" if path.is_empty() => Target::Cluster { seeds: hosts(REDIS_PORT)? },
            _ => return Err(UnfitUrl),
        };
        let (username, password) = (decoded(username)?, Zeroizing::new(decoded(password)?));
        Ok(Self { tls, username, password, target })
    }
}

/// `rest` is what follows `unix://`.
fn socket(rest: &str) -> Result<RedisUrl, UnfitUrl> {
    let start = rest.find('/').ok_or(UnfitUrl)?;
    let (before, rest) = rest.split_at(start);
    // Socket paths are local: there is a login before the path, and no host.
    let login = match before {
        "" => "",
        before => before.strip_suffix('@').ok_or(UnfitUrl)?,
    };
    let (username, password) = login.split_once(':').unwrap_or((login, ""));
    let (mut username, mut password) = (decoded(username)?, decoded(password)?);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path: Vec<u8> = percent_decode_str(path).collect();
    if path.len() < 2 || path.contains(&0) {
        return Err(UnfitUrl);
    }
    let mut number = 0;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or(UnfitUrl)?;
        match name {
            "db" => number = value.parse().map_err(|_| UnfitUrl)?,
            // In a query, a plus sign stands for a blank.
            "user" => username = decoded(&value.replace('+', " "))?,
            "pass" => password = decoded(&value.replace('+', " "))?,
            _ => return Err(UnfitUrl),
        }
    }
    let path = PathBuf::from(OsString::from_vec(path));
    let target = Target::Socket { path, database: number };
    Ok(RedisUrl { tls: false, username, password: Zeroizing::new(password), target })
}

/// What stands for something else in the path of a URL.
const IN_A_PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'#');

fn encoded(path: &Path) -> impl fmt::Display {
    percent_encode(path.as_os_str().as_bytes(), IN_A_PATH)
}

fn address(text: &str, default_port: u16) -> Result<Address, UnfitUrl> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(UnfitUrl)?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some("")).ok_or(UnfitUrl)?)
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let valid = match text.starts_with('[') {
        true => host.parse::<std::net::Ipv6Addr>().is_ok(),
        false => !host.is_empty() && host.chars().all(plain),
    };
    if !valid {
        return Err(UnfitUrl);
    }
    let port = if port.is_empty() { default_port } else { port.parse().map_err(|_| UnfitUrl)? };
    Ok(Address { host: host.to_owned(), port })
}

fn database(text: &str) -> Result<u32, UnfitUrl> {
    if text.is_empty() { Ok(0) } else { text.parse().map_err(|_| UnfitUrl) }
}

fn decoded(text: &str) -> Result<String, UnfitUrl> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| UnfitUrl)?;
    Ok(decoded.into_owned())
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = if self.tls { "rediss" } else { "redis" };
        let user = match (self.username.is_empty(), self.password.is_empty()) {
            (true, true) => "",
            (_, true) => "(user not shown)@",
            (_, false) => "(password not shown)@",
        };
        let list =
            |hosts: &[Address]| hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let slash = |database: u32| match database {
            0 => String::new(),
            number => format!("/{number}"),
        };
        match &self.target {
            Target::Server { address, database } => {
                write!(f, "{transport}://{user}{address}{}", slash(*database))
            }
            Target::Socket { path, database } => {
                let database =
                    if *database == 0 { String::new() } else { format!("?db={database}") };
                write!(f, "redis+unix://{user}{}{database}", encoded(path))
            }
            Target::Sentinel { sentinels, service, database } => {
                let (sentinels, database) = (list(sentinels), slash(*database));
                write!(f, "{transport}+sentinel://{user}{sentinels}/{service}{database}")
            }
            Target::Cluster { seeds } => write!(f, "{transport}+cluster://{user}{}", list(seeds)),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Address {
        Address { host: host.to_owned(), port }
    }

    fn target(text: &str) -> Target {
        text.parse::<RedisUrl>().unwrap_or_else(|_| panic!("{text} is a URL")).target
    }

    #[test]
    fn every_form_is_read() {
        assert_eq!(
            target("redis://localhost"),
            Target::Server { address: at("localhost", 6379), database: 0 }
        );
        assert_eq!(
            target("rediss://[::1]:7000/3"),
            Target::Server { address: at("::1", 7000), database: 3 }
        );
        let sentinels = vec![at("a", 26379), at("b", 5000)];
        let service = "main".to_owned();
        assert_eq!(
            target("redis+sentinel://a,b:5000/main/2"),
            Target::Sentinel { sentinels, service, database: 2 }
        );
        assert_eq!(
            target("rediss+cluster://10.0.0.1:7001,c.example"),
            Target::Cluster { seeds: vec![at("10.0.0.1", 7001), at("c.example", 6379)] }
        );
        let path = PathBuf::from("/run/redis.sock");
        for text in ["redis+unix:///run/redis.sock?db=3", "unix:///run/redis.sock?db=3"] {
            assert_eq!(target(text), Target::Socket { path: path.clone(), database: 3 });
        }
        for (text, tls) in
            [("redis://a", false), ("rediss://a", true), ("rediss+cluster://a", true)]
        {
            assert_eq!(text.parse::<RedisUrl>().expect(text).tls, tls, "{text}");
        }
    }

    #[test]
    fn credentials_are_read_and_never_shown() {
        let url: RedisUrl = "redis://us%40er:hunter%3a2@a:1/2".parse().expect("a URL");
        assert_eq!((url.username.as_str(), url.password.as_str()), ("us@er", "hunter:2"));
        for shown in [url.to_string(), format!("{url:?}")] {
            assert!(shown.contains("@a:1/2"), "{shown}");
            assert!(!shown.contains("hunter") && !shown.contains("us@er"), "{shown}");
        }
        for text in [
            "unix:///run/redis.sock?user=us%40er&pass=hunter%3A2",
            "redis+unix://us%40er:hunter%3a2@/run/redis.sock",
        ] {
            let url: RedisUrl = text.parse().expect("a URL");
            assert_eq!((url.username.as_str(), url.password.as_str()), ("us@er", "hunter:2"));
            assert_eq!(url.to_string(), "redis+unix://(password not shown)@/run/redis.sock");
        }
        let url: RedisUrl = "redis://:hunter2@a".parse().expect("a URL");
        assert_eq!((url.username.as_str(), url.password.as_str()), ("", "hunter2"));
    }

    #[test]
    fn what_is_shown_without_credentials_is_read_again() {
        for text in [
            "redis://127.0.0.1:6379",
            "rediss://[::1]:7000/3",
            "redis+sentinel://a:26379,b:5000/main/2",
            "rediss+cluster://10.0.0.1:7001,c.example:6379",
            "redis+unix:///run/redis.sock",
            "redis+unix:///run/a%20socket%3F?db=3",
        ] {
            assert_eq!(text.parse::<RedisUrl>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn unfit_text_is_refused() {
        for text in [
            "",
            "127.0.0.1:6379",
            "http://a",
            "redis://",
            "redis://a,b",
            "redis://a:70000",
            "redis://a/first",
            "redis://[a]",
            "redis://a b",
            "redis://a?db=1",
            "redis+sentinel://a,b",
            "redis+cluster://a/1",
            "redis+cluster://a,,b",
            "redis+ring://a",
            "unix://",
            "unix:///",
            "unix://host/run/redis.sock",
            "unix:///run/redis.sock?db=first",
            "unix:///run/redis.sock?tls=yes",
            "unix:///run/%00",
            "rediss+unix:///run/redis.sock",
            "redis+unix:relative.sock",
        ] {
            assert!(text.parse::<RedisUrl>().is_err(), "{text:?} is no URL");
        }
    }
}
