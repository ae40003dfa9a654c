//! Types of values that are written as text: durations, sizes, addresses, secrets.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::store::redis::{EXPECTED_URL, RedisUrl, UnfitUrl};

/// Implements serde for a type as text, with its `FromStr` and `Display`.
macro_rules! as_text {
    ($type:ty, $expected:expr) => {
        impl $type {
            const UNFIT: Unfit = Unfit($expected);
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(<$type>::UNFIT.0)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

/// The text has the wrong form. The value is what was expected.
#[derive(Debug, thiserror::Error)]
#[error("expected {0}")]
pub struct Unfit(&'static str);

/// A duration such as `30m`, `90s` or `1500ms`; not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    /// A default. Zero is not refused here, as it is in a text.
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
}

impl FromStr for Span {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let duration = humantime::parse_duration(text).map_err(|_| Self::UNFIT)?;
        if duration.is_zero() { Err(Self::UNFIT) } else { Ok(Self(duration)) }
    }
}

impl fmt::Display for Span {
    /// In days at most: the months and years of humantime are no whole numbers of days.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, nanos) = (self.0.as_secs(), u64::from(self.0.subsec_nanos()));
        let days = secs / 86_400;
        let units = [
            (days, if days == 1 { "day" } else { "days" }),
            (secs / 3600 % 24, "h"),
            (secs / 60 % 60, "m"),
            (secs % 60, "s"),
            (nanos / 1_000_000, "ms"),
            (nanos / 1000 % 1000, "us"),
            (nanos % 1000, "ns"),
        ];
        let mut before = "";
        for (count, unit) in units.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{before}{count}{unit}")?;
            before = " ";
        }
        if self.0.is_zero() { f.write_str("0s") } else { Ok(()) }
    }
}

as_text!(Span, "a duration such as \"30m\", \"90s\" or \"1500ms\", more than zero");

/// Defines a type for a duration, or for a word that means "no duration".
macro_rules! span_or {
    ($(#[$doc:meta])* $type:ident, $word:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $type(pub Option<Duration>);

        impl FromStr for $type {
            type Err = Unfit;

            fn from_str(text: &str) -> Result<Self, Unfit> {
                if text == $word {
                    return Ok(Self(None));
                }
                text.parse().map(|Span(duration)| Self(Some(duration))).map_err(|_| Self::UNFIT)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    None => f.write_str($word),
                    Some(duration) => Span(duration).fmt(f),
                }
            }
        }

        as_text!($type, $expected);
    };
}

span_or!(
    /// A duration, or `auto`.
    SpanOrAuto,
    "auto",
    "\"auto\" or a duration such as \"60s\", more than zero"
);

span_or!(
    /// A duration, or `none`.
    SpanOrNone,
    "none",
    "\"none\" or a duration such as \"12h\", more than zero"
);

/// A number of bytes such as `64KiB`; not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl Size {
    /// In units of 1024 bytes.
    pub const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// In units of 1024 KiB.
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// The most that the platform can address, if the number is larger.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let bytes = text.parse::<bytesize::ByteSize>().map_err(|_| Self::UNFIT)?.as_u64();
        if bytes == 0 { Err(Self::UNFIT) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units.into_iter().find(|(shift, _)| self.0.is_multiple_of(1 << shift)) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

as_text!(Size, "a size such as \"64KiB\" or \"1MiB\", more than zero");

/// A number of bytes, or `none`, which means zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeOrNone(pub u64);

impl FromStr for SizeOrNone {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        if text == "none" {
            return Ok(Self(0));
        }
        text.parse().map(|Size(bytes)| Self(bytes)).map_err(|_| Self::UNFIT)
    }
}

impl fmt::Display for SizeOrNone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("none"),
            bytes => Size(bytes).fmt(f),
        }
    }
}

as_text!(SizeOrNone, "\"none\" or a size such as \"64MiB\", more than zero");

/// An address to listen on or to call: a host and port, or a unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddr {
    /// Port 0 takes a free port.
    Tcp(SocketAddr),
    /// A host name and port. The name is resolved when it is bound or called.
    Name {
        /// Letters, digits, `-`, `_` and dots.
        host: String,
        /// 0 takes a free port.
        port: u16,
    },
    /// The path of the socket's file, which is created with the mode 0660.
    Unix(PathBuf),
}

impl ListenAddr {
    /// Whether it can be reached from this machine only. Of names that is known of `localhost`
    /// and what is below it (RFC 6761, section 6.3).
    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Name { host, .. } => is_localhost(host),
            Self::Unix(_) => true,
        }
    }

    /// Whether only one of the two can be bound.
    pub(super) fn clashes_with(&self, other: &Self) -> bool {
        use ListenAddr::{Name, Tcp, Unix};
        match (self, other) {
            (Unix(one), Unix(other)) => one == other,
            (Unix(_), _) | (_, Unix(_)) => false,
            (Tcp(one), Tcp(other)) => {
                same_port(one.port(), other.port()) && ips_clash(one.ip(), other.ip())
            }
            (Name { host, port }, Name { host: other, port: other_port }) => {
                same_port(*port, *other_port) && host.eq_ignore_ascii_case(other)
            }
            (Name { host, port }, Tcp(tcp)) | (Tcp(tcp), Name { host, port }) => {
                let ip = tcp.ip().to_canonical();
                let is_there = ip.is_loopback() || ip.is_unspecified();
                same_port(*port, tcp.port()) && is_localhost(host) && is_there
            }
        }
    }
}

/// Whether the name stands for this machine alone.
pub(crate) fn is_localhost(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// Port 0 takes another port each time.
fn same_port(one: u16, other: u16) -> bool {
    one != 0 && one == other
}

fn ips_clash(one: IpAddr, other: IpAddr) -> bool {
    // `[::]` takes the port for IPv4 as well, unless the system is told otherwise.
    let covers = |all: IpAddr, other: IpAddr| {
        all.is_unspecified() && (all.is_ipv6() || other.to_canonical().is_ipv4())
    };
    one.to_canonical() == other.to_canonical() || covers(one, other) || covers(other, one)
}

impl FromStr for ListenAddr {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(Self::UNFIT),
                path => Ok(Self::Unix(Path::new(path).to_owned())),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(Self::UNFIT)?;
        let port = port.parse().map_err(|_| Self::UNFIT)?;
        if !is_host_name(host) {
            return Err(Self::UNFIT);
        }
        Ok(Self::Name { host: host.to_owned(), port })
    }
}

/// A name, and not an IPv4 address that is mistyped: its last label is no number.
fn is_host_name(text: &str) -> bool {
    let clean = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(clean);
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_number = |label: &str| label.chars().all(|c| c.is_ascii_digit());
    name.len() <= 253
        && name.split('.').all(label)
        && !name.rsplit('.').next().is_none_or(is_number)
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<([u8; 4], u16)> for ListenAddr {
    fn from(address: ([u8; 4], u16)) -> Self {
        Self::Tcp(address.into())
    }
}

as_text!(
    ListenAddr,
    "an address such as \"127.0.0.1:50051\", \"[::1]:50051\", \"localhost:50051\" or \"unix:/run/sessiond/sessiond.sock\""
);

/// A host and port, or the empty string, which means off. Not a unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddrOrOff(pub Option<ListenAddr>);

impl FromStr for AddrOrOff {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        match text.parse() {
            _ if text.is_empty() => Ok(Self(None)),
            Ok(ListenAddr::Unix(_)) | Err(_) => Err(Self::UNFIT),
            Ok(address) => Ok(Self(Some(address))),
        }
    }
}

impl fmt::Display for AddrOrOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |address| address.fmt(f))
    }
}

as_text!(
    AddrOrOff,
    "an address such as \"127.0.0.1:9464\" or \"localhost:9464\", or \"\" for none"
);

impl Serialize for RedisUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RedisUrl {
    /// The error does not quote the text, which may contain a password.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = zeroize::Zeroizing::new(String::deserialize(deserializer)?);
        text.parse().map_err(|UnfitUrl| {
            de::Error::invalid_value(de::Unexpected::Other("something else"), &EXPECTED_URL)
        })
    }
}

/// A secret in the configuration. It is never printed: Debug shows only the type, and
/// the serialized form shows only whether there is a secret.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { "(not shown)" })
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["30m", "1s 500ms", "1day", "90days", "400days 1h", "1us 1ns"] {
            assert_eq!(text.parse::<Span>().expect(text).to_string(), text);
        }
        for (text, shown) in
            [("64KiB", "64KiB"), ("1 MiB", "1MiB"), ("1500", "1500B"), ("64kb", "64000B")]
        {
            assert_eq!(text.parse::<Size>().expect(text).to_string(), shown);
        }
        for text in
            ["127.0.0.1:0", "[::1]:50051", "unix:/run/s.sock", "localhost:50051", "a_b.c-d.:1"]
        {
            assert_eq!(text.parse::<ListenAddr>().expect(text).to_string(), text);
        }
        for text in ["", "127.0.0.1:9464", "localhost:9464"] {
            assert_eq!(text.parse::<AddrOrOff>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn unfit_text_is_refused() {
        for text in ["", "0s", "-1s", "30", "1 parsec"] {
            assert!(text.parse::<Span>().is_err(), "{text:?} is no span");
        }
        for text in ["", "0", "-1KiB", "many"] {
            assert!(text.parse::<Size>().is_err(), "{text:?} is no size");
        }
        for text in [
            "",
            "50051",
            ":50051",
            "unix:",
            "localhost",
            "localhost:",
            "localhost:x",
            "localhost:70000",
            "127.0.0.1.5:1",
            "300.0.0.1:1",
            "a..b:1",
            "a b:1",
            "::1:1",
        ] {
            assert!(text.parse::<ListenAddr>().is_err(), "{text:?} is no address");
        }
        assert!("unix:/run/s.sock".parse::<AddrOrOff>().is_err(), "the page is served over TCP");
    }

    #[test]
    fn addresses_clash_if_one_of_them_cannot_be_bound() {
        let address = |text: &str| text.parse::<ListenAddr>().expect(text);
        for (one, other, clash) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("[::]:1", "127.0.0.1:1", true),
            ("[::]:1", "[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
            ("localhost:1", "LOCALHOST:1", true),
            ("localhost:1", "127.0.0.1:1", true),
            ("localhost:1", "0.0.0.0:1", true),
            ("localhost:1", "10.0.0.1:1", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
            ("unix:/a", "localhost:1", false),
        ] {
            let (one, other) = (address(one), address(other));
            assert_eq!(one.clashes_with(&other), clash, "{one} and {other}");
            assert_eq!(other.clashes_with(&one), clash, "{other} and {one}");
        }
        for (text, local) in [
            ("localhost:1", true),
            ("a.localhost.:1", true),
            ("notlocalhost:1", false),
            ("localhost.example.com:1", false),
            ("127.9.9.9:1", true),
            ("10.0.0.1:1", false),
            ("unix:/a", true),
        ] {
            assert_eq!(address(text).is_local(), local, "{text}");
        }
    }
}
