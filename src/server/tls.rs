//! TLS: from files to what the listeners speak.

use std::{error::Error as _, fs, path::Path, time::Duration};

use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::config::{ConfigError, TlsConfig};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads and checks the files. `None` when none are named.
pub fn load(files: &TlsConfig) -> Result<Option<ServerTlsConfig>, ConfigError> {
    if files.cert_file.as_os_str().is_empty() {
        return Ok(None);
    }
    let cert = read("cert_file", &files.cert_file)?;
    let key = read("key_file", &files.key_file)?;
    let mut tls =
        ServerTlsConfig::new().identity(Identity::from_pem(cert, key)).timeout(HANDSHAKE_TIMEOUT);
    if !files.client_ca_file.as_os_str().is_empty() {
        let ca = read("client_ca_file", &files.client_ca_file)?;
        tls = tls.client_ca_root(Certificate::from_pem(ca));
    }
    Server::builder().tls_config(tls.clone()).map_err(|error| {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        let problem = format!(
            "expected a certificate chain, its key and the clients' CA as PEM files: {error}: {cause}"
        );
        ConfigError::new("listen.tls", problem)
    })?;
    Ok(Some(tls))
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    fs::read(path).map_err(|error| {
        let problem = format!("the file {} can not be read: {error}", path.display());
        ConfigError::new(format!("listen.tls.{key}"), problem)
    })
}
