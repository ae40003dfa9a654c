//! TLS: reads certificates and keys from files for the listeners.

use std::{path::Path, sync::Arc};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

use zeroize::Zeroizing;

use super::config::{ConfigError, TlsConfig, reading};

/// Reads and checks the files. `None` if no files are configured.
pub(super) fn load(files: &TlsConfig) -> Result<Option<TlsAcceptor>, ConfigError> {
    if files.cert_file.as_os_str().is_empty() {
        return Ok(None);
    }
    let chain = certificates("cert_file", &files.cert_file)?;
    let key = read("key_file", &files.key_file)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| {
        unusable("key_file", &files.key_file, "expected a private key in PEM", &error)
    })?;
    let builder = if files.client_ca_file.as_os_str().is_empty() {
        ServerConfig::builder().with_no_client_auth()
    } else {
        let path = &files.client_ca_file;
        let mut roots = RootCertStore::empty();
        for certificate in certificates("client_ca_file", path)? {
            roots.add(certificate).map_err(|error| {
                unusable("client_ca_file", path, "expected certificates of a CA", &error)
            })?;
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
        ServerConfig::builder().with_client_cert_verifier(verifier.map_err(|error| {
            unusable("client_ca_file", path, "expected certificates of a CA", &error)
        })?)
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        let expected = "expected a certificate chain that belongs to listen.tls.key_file";
        unusable("cert_file", &files.cert_file, expected, &error)
    })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
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
