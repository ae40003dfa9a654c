//! What a certificate says: its names, and when it is valid.

use std::time::{Duration, SystemTime};

use x509_cert::{
    certificate::{CertificateInner, Raw},
    der::{Decode, asn1::ObjectIdentifier},
    ext::pkix::{
        SubjectAltName,
        name::{DirectoryString, GeneralName},
    },
};

/// The type of a common name (RFC 5280, appendix A).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// What operators and the rules of access need of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Certificate {
    /// Such as `CN=shop`, `DNS:shop.example.com`, `URI:spiffe://example.com/shop` and
    /// `email:shop@example.com`, in this order.
    pub names: Vec<String>,
    /// Hosts that it is for, as DNS names and addresses.
    pub hosts: Vec<String>,
    /// In seconds of Unix time.
    pub not_before: i64,
    /// In seconds of Unix time.
    pub not_after: i64,
}

impl Certificate {
    /// Reads DER. `None`: it is not a certificate, or not in a form that is understood here.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        // "Raw": other programs decide whether they accept, for example, a long serial number.
        let found = CertificateInner::<Raw>::from_der(der).ok()?;
        let found = found.tbs_certificate();
        // Of several common names none is trusted: it is not clear which one the CA has checked.
        let common: Vec<_> =
            found.subject().iter().filter(|attribute| attribute.oid == COMMON_NAME).collect();
        let common = match common[..] {
            [one] => one.value.decode_as::<DirectoryString>().ok(),
            _ => None,
        };
        let mut names: Vec<_> =
            common.map(|name| format!("CN={}", name.value())).into_iter().collect();
        let mut hosts = Vec::new();
        let others = found.get_extension::<SubjectAltName>().ok().flatten();
        for other in others.iter().flat_map(|(_critical, names)| &names.0) {
            match other {
                GeneralName::DnsName(name) => {
                    names.push(format!("DNS:{name}"));
                    hosts.push(name.as_str().to_ascii_lowercase());
                }
                GeneralName::UniformResourceIdentifier(name) => names.push(format!("URI:{name}")),
                GeneralName::Rfc822Name(name) => names.push(format!("email:{name}")),
                GeneralName::IpAddress(octets) => hosts.push(format!("{:02x?}", octets.as_bytes())),
                _ => {}
            }
        }
        let validity = found.validity();
        let seconds = |time: x509_cert::time::Time| {
            i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
        };
        let (not_before, not_after) = (seconds(validity.not_before), seconds(validity.not_after));
        Some(Self { names, hosts, not_before, not_after })
    }

    /// Why it is not valid at this time, in seconds of Unix time. `None`: it is.
    pub(super) fn fault(&self, now: i64) -> Option<String> {
        if now > self.not_after {
            Some(format!("has expired at {}", shown(self.not_after)))
        } else if now < self.not_before {
            Some(format!("is not valid before {}", shown(self.not_before)))
        } else {
            None
        }
    }
}

/// A time as operators read it.
pub(super) fn shown(unix_seconds: i64) -> String {
    let since = Duration::from_secs(unix_seconds.try_into().unwrap_or(0));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, date_time_ymd};

    use super::*;

    fn params() -> CertificateParams {
        let mut params =
            CertificateParams::new(vec!["Shop.example.com".to_owned()]).expect("a name");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.not_before = date_time_ymd(2026, 1, 2);
        params.not_after = date_time_ymd(2026, 3, 4);
        params
    }

    fn read(params: CertificateParams) -> Certificate {
        let made = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
        Certificate::read(made.der()).expect("it is one")
    }

    #[test]
    fn names_and_times_are_read() {
        let mut params = params();
        params.distinguished_name.push(DnType::CommonName, "shop");
        for (kind, text) in [
            (SanType::URI as fn(_) -> _, "spiffe://example.com/shop"),
            (SanType::Rfc822Name, "shop@example.com"),
        ] {
            params.subject_alt_names.push(kind(text.try_into().expect("ASCII")));
        }
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        let found = read(params);
        let names = [
            "CN=shop",
            "DNS:Shop.example.com",
            "URI:spiffe://example.com/shop",
            "email:shop@example.com",
        ];
        assert_eq!(found.names, names);
        assert_eq!(found.hosts, ["shop.example.com", "[7f, 00, 00, 01]"]);
        assert_eq!(shown(found.not_before), "2026-01-02T00:00:00Z");
        assert_eq!(found.fault(found.not_before), None);
        assert_eq!(found.fault(found.not_after), None);
        let expired = found.fault(found.not_after + 1).expect("it is over");
        assert_eq!(expired, "has expired at 2026-03-04T00:00:00Z");
        assert!(found.fault(found.not_before - 1).is_some_and(|why| why.contains("before")));
    }

    #[test]
    fn of_several_common_names_none_counts() {
        let without = read(params());
        assert_eq!(without.names, ["DNS:Shop.example.com"]);
        let mut two = params();
        // Of one type rcgen keeps only the last, so this is what a CA may write.
        two.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "one");
        two.distinguished_name.push(DnType::CommonName, "another");
        let found = read(two);
        assert_eq!(found.names, ["DNS:Shop.example.com"], "expected no common name");
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        assert_eq!(Certificate::read(b""), None);
        assert_eq!(Certificate::read(b"0\x82\xff\xff junk"), None);
    }
}
