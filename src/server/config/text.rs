//! Types of values that are written as text: durations, sizes, addresses, secrets.

use std::{
    fmt,
    net::SocketAddr,
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
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
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

/// An address to listen on: an IP address and port, or a unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddr {
    /// Port 0 takes a free port.
    Tcp(SocketAddr),
    /// The path of the socket's file, which is created with the mode 0660.
    Unix(PathBuf),
}

impl FromStr for ListenAddr {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        match text.strip_prefix("unix:") {
            Some("") => Err(Self::UNFIT),
            Some(path) => Ok(Self::Unix(Path::new(path).to_owned())),
            None => text.parse().map(Self::Tcp).map_err(|_| Self::UNFIT),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

as_text!(
    ListenAddr,
    "an address such as \"127.0.0.1:50051\", \"[::1]:50051\" or \"unix:/run/sessiond/sessiond.sock\""
);

/// An IP address and port, or the empty string, which means off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddrOrOff(pub Option<SocketAddr>);

impl FromStr for AddrOrOff {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        text.parse().map(|address| Self(Some(address))).map_err(|_| Self::UNFIT)
    }
}

impl fmt::Display for AddrOrOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |address| address.fmt(f))
    }
}

as_text!(AddrOrOff, "an address such as \"127.0.0.1:9464\", or \"\" for none");

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
        for text in ["30m", "1s 500ms", "1day"] {
            assert_eq!(text.parse::<Span>().expect(text).to_string(), text);
        }
        for (text, shown) in
            [("64KiB", "64KiB"), ("1 MiB", "1MiB"), ("1500", "1500B"), ("64kb", "64000B")]
        {
            assert_eq!(text.parse::<Size>().expect(text).to_string(), shown);
        }
        for text in ["127.0.0.1:0", "[::1]:50051", "unix:/run/s.sock"] {
            assert_eq!(text.parse::<ListenAddr>().expect(text).to_string(), text);
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
        for text in ["", "50051", ":50051", "localhost:50051", "unix:"] {
            assert!(text.parse::<ListenAddr>().is_err(), "{text:?} is no address");
        }
    }
}
