//! Certificates and keys, generated for each test.

use std::{fs, path::PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType, date_time_ymd,
};
use tonic::transport::{Certificate, ClientTlsConfig};

/// A CA, a certificate for the server and one for a client, as PEM files.
pub(crate) struct Papers {
    directory: tempfile::TempDir,
}

impl Papers {
    pub(crate) fn new() -> Self {
        Self::of(|_| {})
    }

    /// Those of a server with another name.
    pub(crate) fn elsewhere() -> Self {
        Self::of(|params| {
            let name = "elsewhere.example".try_into().expect("ASCII");
            params.subject_alt_names = vec![SanType::DnsName(name)];
        })
    }

    /// Those of a server whose time is over.
    pub(crate) fn expired() -> Self {
        Self::of(|params| {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 2, 3);
        })
    }

    /// With a change of the server's certificate.
    fn of(change: impl Fn(&mut CertificateParams)) -> Self {
        let directory = tempfile::tempdir().expect("a scratch folder");
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"))
            .expect("a CA");
        let papers = Self { directory };
        papers.write("ca.pem", &ca.pem());
        for (name, host, usage) in [
            ("server", "localhost", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", "a-client", ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
            params.extended_key_usages = vec![usage];
            // OpenSSL takes a certificate with equal subject and issuer for self-signed.
            params.distinguished_name.push(DnType::CommonName, host);
            if name == "server" {
                change(&mut params);
            }
            let key = KeyPair::generate().expect("a key");
            let cert = params.signed_by(&key, &ca).expect("a certificate");
            papers.write(&format!("{name}.pem"), &cert.pem());
            papers.write(&format!("{name}.key"), &key.serialize_pem());
        }
        papers
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file");
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn setting(&self, key: &str, name: &str) -> String {
        format!("--set={key}={}", self.path(name).display())
    }

    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("a file")
    }

    pub(crate) fn tls(&self) -> ClientTlsConfig {
        let ca = Certificate::from_pem(self.text("ca.pem"));
        ClientTlsConfig::new().ca_certificate(ca).domain_name("localhost")
    }
}
