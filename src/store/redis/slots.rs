//! Slots of a cluster: which slot a key is in, and what the nodes say about who holds which.

use std::{collections::BTreeMap, fmt};

use redis::{Value, from_redis_value};

use super::url::Address;

pub(super) const SLOTS: usize = 16384;

/// Slots and their nodes. `None`: the address of the primary is not known.
pub(super) struct Range {
    pub first: usize,
    pub last: usize,
    pub primary: Option<Address>,
    replicas: Vec<Address>,
}

impl Range {
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Address> {
        self.primary.iter().chain(&self.replicas)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let primary = self.primary.as_ref();
        write!(
            f,
            "{}-{} {};",
            self.first,
            self.last,
            primary.map(Address::to_string).unwrap_or_default()
        )
    }
}

/// Reads the answer of CLUSTER SLOTS. `None`: it is absurd.
pub(super) fn ranges(told: Value, by: &Address) -> Option<Vec<Range>> {
    let Value::Array(ranges) = told else { return None };
    ranges.into_iter().map(|range| self::range(range, by)).collect()
}

fn range(told: Value, by: &Address) -> Option<Range> {
    let Value::Array(told) = told else { return None };
    let mut told = told.into_iter();
    let mut number = || from_redis_value::<usize>(told.next()?).ok();
    let (first, last) = (number()?, number()?);
    let nodes: Option<Vec<_>> = told.map(|node| self::node(node, by)).collect();
    let mut nodes = nodes?.into_iter();
    let primary = nodes.next()?;
    Some(Range { first, last, primary, replicas: nodes.flatten().collect() })
}

/// The host that Redis names for a node.
#[derive(Debug, PartialEq, Eq)]
enum Host {
    Named(String),
    /// None or an empty one: the host at which the client has found the node that answers.
    Asked,
    /// "?": the node is to be named, and has no name.
    Unknown,
}

impl Host {
    fn of(host: Option<String>) -> Self {
        match host.as_deref() {
            None | Some("") => Self::Asked,
            Some("?") => Self::Unknown,
            Some(_) => Self::Named(host.unwrap_or_default()),
        }
    }
}

/// The node of CLUSTER SLOTS: host, port, id, and pairs of what else is known. If the host is
/// unknown, the pair "ip" has its address. A node that does not know its own address either
/// is the one that answers. The outer `None`: the answer is absurd.
fn node(told: Value, by: &Address) -> Option<Option<Address>> {
    let Value::Array(told) = told else { return None };
    let mut told = told.into_iter();
    let host: Option<String> = from_redis_value(told.next()?).ok()?;
    let port: u16 = from_redis_value(told.next()?).ok()?;
    let host = match Host::of(host) {
        Host::Named(host) => Some(host),
        Host::Asked => Some(by.host.clone()),
        Host::Unknown => {
            let pairs = told.nth(1).map(from_redis_value::<BTreeMap<String, String>>);
            let ip = pairs.and_then(Result::ok).and_then(|mut pairs| pairs.remove("ip"));
            let ip = ip.filter(|ip| !ip.is_empty() && ip != "?");
            ip.or_else(|| (port == by.port).then(|| by.host.clone()))
        }
    };
    Some(host.map(|host| Address { host, port }))
}

/// A redirection such as "3999 127.0.0.1:6381".
pub(super) struct Redirection {
    host: Host,
    pub port: u16,
}

impl Redirection {
    pub(super) fn read(text: &str) -> Option<Self> {
        let (host, port) = text.split_whitespace().nth(1)?.rsplit_once(':')?;
        Some(Self { host: Host::of(Some(host.to_owned())), port: port.parse().ok()? })
    }

    /// `by`: the server that answered. `None`: it is not known.
    pub(super) fn address(&self, by: impl FnOnce() -> Option<Address>) -> Option<Address> {
        let host = match &self.host {
            Host::Named(host) => host.clone(),
            Host::Asked => by()?.host,
            Host::Unknown => return None,
        };
        Some(Address { host, port: self.port })
    }
}

/// A key that begins with `start` and is in one of these slots.
pub(super) fn key_within(start: &str, first: usize, last: usize) -> String {
    let number = (0u32..).find(|number| (first..=last).contains(&slot_of(&number.to_string())));
    format!("{start}:{{{}}}", number.unwrap_or_default())
}

/// CRC16 (XMODEM) of the key, or of the text between its first pair of braces. The keys of
/// records have no braces.
pub(super) fn slot(key: &str) -> usize {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    slot_of(tag.map(|(tag, _)| tag).filter(|tag| !tag.is_empty()).unwrap_or(key))
}

fn slot_of(hashed: &str) -> usize {
    usize::from(crc16::State::<crc16::XMODEM>::calculate(hashed.as_bytes())) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // The results of CLUSTER KEYSLOT.
        assert_eq!(slot("123456789"), 0x31c3 % SLOTS);
        assert_eq!(slot("foo"), 12182);
        assert_eq!(slot("{foo}bar{baz}"), 12182);
        assert_eq!(slot("a{}b{foo}"), slot_of("a{}b{foo}"));
        assert_eq!(slot("}foo{"), slot_of("}foo{"));
    }

    #[test]
    fn a_key_is_in_the_slots_that_are_asked_for() {
        for (first, last) in [(0, 0), (5461, 10922), (16383, 16383)] {
            let key = key_within("p:probe", first, last);
            assert!(key.starts_with("p:probe:"), "{key}");
            assert!((first..=last).contains(&slot(&key)), "{key}");
        }
    }

    fn at(host: &str, port: u16) -> Address {
        Address { host: host.to_owned(), port }
    }

    #[test]
    fn redirections_are_read() {
        let by = || Some(at("redis-3", 6379));
        for (text, host) in [
            ("3999 127.0.0.1:6381", "127.0.0.1"),
            ("0 fd00::1:6381", "fd00::1"),
            ("3999 :6381", "redis-3"),
        ] {
            let redirection = Redirection::read(text).expect("a redirection");
            assert_eq!(redirection.address(by), Some(at(host, 6381)), "{text}");
        }
        assert!(Redirection::read("3999").is_none());
        let unknown = Redirection::read("3999 ?:6381").expect("a redirection");
        assert_eq!((unknown.address(by), unknown.port), (None, 6381), "nobody knows its host");
        let asked = Redirection::read("3999 :6381").expect("a redirection");
        assert_eq!(asked.address(|| None), None, "the server that answered is unknown");
    }

    #[test]
    fn nodes_are_where_redis_says() {
        let by = at("10.0.0.1", 7000);
        let found = |line: &str| {
            let told = redis::parse_redis_value(line.replace(' ', "\r\n").as_bytes());
            node(told.expect("a node"), &by).expect("not absurd")
        };
        let ip = "*4 $1 ? :6379 $2 id *2 $2 ip $8 10.0.0.2 ";
        for (line, address) in [
            ("*3 $8 10.0.0.3 :6379 $2 id ", Some(at("10.0.0.3", 6379))),
            ("*4 $-1 :6379 $2 id *0 ", Some(at("10.0.0.1", 6379))),
            ("*3 $0  :6379 $2 id ", Some(at("10.0.0.1", 6379))),
            (ip, Some(at("10.0.0.2", 6379))),
            ("*4 $1 ? :7000 $2 id *2 $2 ip $0  ", Some(at("10.0.0.1", 7000))),
            ("*4 $1 ? :6379 $2 id *0 ", None),
            ("*3 $1 ? :6379 $2 id ", None),
        ] {
            assert_eq!(found(line), address, "{line}");
        }
    }
}
