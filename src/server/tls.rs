//! TLS: reads certificates and keys from files for the listeners.

use std::{io, path::Path, sync::Arc};

use sha2::{Digest, Sha256};
use tokio_rustls::rustls::{
    Error, RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use zeroize::Zeroizing;

use super::{
    certificate::{Certificate, shown},
    config::{ConfigError, TlsConfig, reading},
};

/// What is made of the files.
pub(super) struct Tls {
    /// For connections from now on.
    pub config: Arc<ServerConfig>,
    /// What is shown and compared of it.
    pub papers: Papers,
}

/// What operators want to know of certificates, and what a reload compares.
pub(super) struct Papers {
    /// The server's certificate, if it can be read here as well as by rustls.
    own: Option<Certificate>,
    /// When the first certificate of each file ends, by the key of the file, in seconds of Unix
    /// time.
    pub ends: Vec<(&'static str, i64)>,
    /// Each of these is not valid, for the reason that is given.
    faults: Vec<String>,
    /// Whether clients are asked for a certificate.
    pub asks_clients: bool,
    /// Of the files' contents.
    hash: [u8; 32],
}

const CERT_FILE: &str = "cert_file";
const KEY_FILE: &str = "key_file";
const CLIENT_CA_FILE: &str = "client_ca_file";

/// Reads and checks the files. `None` if no files are configured. `now` is in seconds of Unix
/// time.
pub(super) fn load(files: &TlsConfig, now: i64) -> Result<Option<Tls>, ConfigError> {
    if files.cert_file.as_os_str().is_empty() {
        return Ok(None);
    }
    let mut papers = Papers {
        own: None,
        ends: Vec::new(),
        faults: Vec::new(),
        asks_clients: !files.client_ca_file.as_os_str().is_empty(),
        hash: [0; 32],
    };
    let mut hash = Sha256::new();
    let chain = certificates(CERT_FILE, &files.cert_file)?;
    papers.add(CERT_FILE, &chain, now);
    papers.own = chain.first().and_then(|own| Certificate::read(own));
    let key = read(KEY_FILE, &files.key_file)?;
    hash.update(Sha256::digest(&key));
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| {
        unusable(KEY_FILE, &files.key_file, "expected a private key in PEM", &error)
    })?;
    for certificate in &chain {
        hash.update(Sha256::digest(certificate));
    }
    let builder = if papers.asks_clients {
        let path = &files.client_ca_file;
        let mut roots = RootCertStore::empty();
        let authorities = certificates(CLIENT_CA_FILE, path)?;
        papers.add(CLIENT_CA_FILE, &authorities, now);
        hash.update(CLIENT_CA_FILE);
        for certificate in authorities {
            hash.update(Sha256::digest(&certificate));
            roots.add(certificate).map_err(|error| {
                unusable(CLIENT_CA_FILE, path, "expected certificates of a CA", &error)
            })?;
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
        ServerConfig::builder().with_client_cert_verifier(verifier.map_err(|error| {
            unusable(CLIENT_CA_FILE, path, "expected certificates of a CA", &error)
        })?)
    } else {
        ServerConfig::builder().with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        let expected = "expected a certificate chain that belongs to listen.tls.key_file";
        unusable(CERT_FILE, &files.cert_file, expected, &error)
    })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    papers.hash = hash.finalize().into();
    Ok(Some(Tls { config: Arc::new(config), papers }))
}

impl Papers {
    fn add(&mut self, key: &'static str, certificates: &[CertificateDer<'_>], now: i64) {
        let found: Vec<_> = certificates.iter().filter_map(|der| Certificate::read(der)).collect();
        self.ends.extend(found.iter().map(|found| found.not_after).min().map(|end| (key, end)));
        let faults = found.iter().filter_map(|found| found.fault(now));
        let named = faults.map(|fault| format!("listen.tls.{key}: a certificate in it {fault}"));
        self.faults.extend(named);
    }

    /// What an operator should know at a start, a sentence each.
    pub(super) fn warnings(&self) -> &[String] {
        &self.faults
    }

    /// In a few words.
    pub(super) fn describe(&self) -> String {
        let end = self.own.as_ref().map(|own| format!(", valid until {}", shown(own.not_after)));
        let clients = if self.asks_clients { "; clients need one" } else { "" };
        format!("listen.tls: a certificate{}{clients}", end.unwrap_or_default())
    }

    /// Whether `next` was made of the same contents.
    pub(super) fn is_same(&self, next: &Self) -> bool {
        self.hash == next.hash
    }

    /// Why `next` must not take the place of these.
    pub(super) fn check_succession(&self, next: &Self) -> Result<(), ConfigError> {
        // What is not valid already may be replaced by whatever there is.
        if let Some(fault) = next.faults.first()
            && self.faults.is_empty()
        {
            let (key, problem) = fault.split_once(": ").unwrap_or(("listen.tls", fault));
            return Err(ConfigError::new(key, problem));
        }
        if let (Some(own), Some(next)) = (&self.own, &next.own)
            && !own.hosts.is_empty()
            && !next.hosts.iter().any(|host| own.hosts.contains(host))
        {
            let problem = format!(
                "the certificate is for {:?}, and the one in force for {:?}; a reload takes one \
                 that has a name in common with it, a restart any",
                next.hosts, own.hosts
            );
            return Err(ConfigError::new("listen.tls.cert_file", problem));
        }
        Ok(())
    }
}

/// The names in the certificate that a client has presented and that was verified.
pub(super) fn names_of_peer(connection: &ServerConnection) -> Arc<[Arc<str>]> {
    let presented = connection.peer_certificates().and_then(<[_]>::first);
    let found = presented.and_then(|certificate| Certificate::read(certificate));
    found.map_or_else(Default::default, |found| found.names.into_iter().map(Arc::from).collect())
}

/// Refusals in a handshake, for a counter of each that exists before its first one.
pub(super) const REFUSALS: [&str; 3] =
    ["CERTIFICATE_REQUIRED", "CERTIFICATE_REFUSED", "TLS_FAILED"];

/// Why a client was refused in the handshake. `None`: it went by itself.
pub(super) fn refusal(error: &io::Error) -> Option<&'static str> {
    let [required, refused, failed] = REFUSALS;
    Some(match error.get_ref()?.downcast_ref::<Error>()? {
        Error::NoCertificatesPresented => required,
        Error::InvalidCertificate(_) => refused,
        _ => failed,
    })
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = read(key, path)?;
    let expected = "expected certificates in PEM";
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(key, path, expected, &error))?;
    if found.is_empty() {
        return Err(unusable(key, path, expected, &"it contains none"));
    }
    Ok(found)
}

fn read(key: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    reading::bytes(path).map_err(|error| unusable(key, path, "expected a readable file", &error))
}

fn unusable(key: &str, path: &Path, expected: &str, why: &dyn std::fmt::Display) -> ConfigError {
    let problem = format!("cannot use the file {}: {expected}: {why}", path.display());
    ConfigError::new(format!("listen.tls.{key}"), problem)
}
