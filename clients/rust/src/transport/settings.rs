//! Where the daemon is, and how to reach it.

use std::{
    fmt, fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::uri::Authority;
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::{
    error::{Applied, Error, Reason, Result},
    status,
};

/// An attempt that takes longer is given up: the next one may reach a daemon that is back.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that has gone without a word is noticed after both.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Room for answers on their way.
const WINDOW_BYTES: u32 = 1 << 20;

/// Without the feature there is none.
#[cfg(not(feature = "tls"))]
pub(crate) enum Tls {}

/// How to encrypt the connection: see [`ClientBuilder::tls`](crate::ClientBuilder::tls).
#[cfg(feature = "tls")]
#[derive(Clone, Default)]
pub struct Tls {
    ca_pem: Option<String>,
    identity_pem: Option<(String, String)>,
    server_name: Option<String>,
}

#[cfg(feature = "tls")]
impl Tls {
    /// Trusts the certificates of the system.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificates in this PEM text only.
    pub fn ca_pem(mut self, pem: impl Into<String>) -> Self {
        self.ca_pem = Some(pem.into());
        self
    }

    /// Shows the daemon a certificate (mTLS): a PEM text with it, and one with its key.
    pub fn identity_pem(mut self, certificate: impl Into<String>, key: impl Into<String>) -> Self {
        self.identity_pem = Some((certificate.into(), key.into()));
        self
    }

    /// The name in the daemon's certificate, if it is not the host of the address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    fn config(&self) -> tonic::transport::ClientTlsConfig {
        use tonic::transport::{Certificate, ClientTlsConfig, Identity};
        let mut config = ClientTlsConfig::new();
        config = match &self.ca_pem {
            Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
            None => config.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity_pem {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        match &self.server_name {
            Some(name) => config.domain_name(name),
            None => config,
        }
    }
}

#[cfg(feature = "tls")]
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Everything that is known before the first connection.
pub(crate) struct Settings {
    pub(crate) address: String,
    pub(crate) timeout: Duration,
    pub(crate) max_in_flight: usize,
    pub(crate) token: TokenSource,
    pub(crate) endpoint: Endpoint,
}

/// An endpoint for an address. It does not connect.
pub(crate) fn endpoint(address: &str, tls: Option<&Tls>) -> Result<Endpoint> {
    let refused = || {
        let what = format_args!("expected host:port or unix:/path, found {address:?}");
        Error::invalid("address", what)
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let uri = if let Some(path) = address.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') {
            return Err(refused());
        }
        if tls.is_some() {
            return Err(Error::invalid("tls", "not with a unix socket"));
        }
        format!("unix:{path}")
    } else {
        let authority: Authority = address.parse().map_err(|_| refused())?;
        let has_all = !authority.host().is_empty() && authority.port_u16().is_some();
        if !has_all || address.contains('@') {
            return Err(refused());
        }
        format!("{scheme}://{address}")
    };
    let endpoint = Endpoint::from_shared(uri)
        .and_then(|endpoint| {
            endpoint.user_agent(concat!("sessiond-client-rust/", env!("CARGO_PKG_VERSION")))
        })
        .map_err(|_| refused())?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES);
    #[cfg(feature = "tls")]
    if let Some(tls) = tls {
        // Only a certificate or a key can be wrong here, so the text stays out.
        return endpoint
            .tls_config(tls.config())
            .map_err(|_| Error::invalid("tls", "expected certificates and a key as PEM"));
    }
    Ok(endpoint)
}

impl Settings {
    pub(super) async fn connect(&self) -> Result<Channel> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.endpoint.connect()).await;
        match connected {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => {
                let causes = status::causes(&error);
                let unreachable = status::unreachable(&self.address, &causes);
                Err(unreachable.with_applied(Applied::No).with_source(error))
            }
            Err(_) => {
                let why = format!("no connection within {CONNECT_TIMEOUT:?}");
                Err(status::unreachable(&self.address, &why).with_applied(Applied::No))
            }
        }
    }
}

/// The bearer token of each call.
pub(crate) enum TokenSource {
    None,
    Fixed(MetadataValue<Ascii>),
    File { path: PathBuf, last: Mutex<Option<MetadataValue<Ascii>>> },
}

impl TokenSource {
    pub(crate) fn fixed(token: &str) -> Result<Self> {
        let refused = || Error::invalid("token", "expected visible ASCII characters");
        bearer(token).map(Self::Fixed).ok_or_else(refused)
    }

    pub(crate) fn file(path: PathBuf) -> Self {
        Self::File { path, last: Mutex::new(None) }
    }

    /// Reads the file again. Returns whether there is another token now.
    ///
    /// It is a line, read at most once a connection, so it is not worth a thread.
    pub(super) fn reload(&self) -> Result<bool> {
        let Self::File { path, last } = self else { return Ok(false) };
        let refused = |what: &dyn fmt::Display| {
            let message = format!("the token file {}: {what}", path.display());
            let code = tonic::Code::Unauthenticated;
            Error::new(Reason::TokenUnknown, code, Applied::No, message)
        };
        let text = fs::read_to_string(path).map_err(|error| refused(&error))?;
        let mut lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
        let line = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
        let line = line.ok_or_else(|| refused(&"there is no token in it"))?;
        let value = bearer(line).ok_or_else(|| refused(&"expected visible ASCII characters"))?;
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = last.as_ref() != Some(&value);
        *last = Some(value);
        Ok(is_new)
    }

    pub(super) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let value = match self {
            Self::None => None,
            Self::Fixed(value) => Some(value.clone()),
            Self::File { last, .. } => last.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        if let Some(value) = value {
            request.metadata_mut().insert("authorization", value);
        }
        request
    }
}

fn bearer(token: &str) -> Option<MetadataValue<Ascii>> {
    if token.is_empty() || !token.bytes().all(|octet| octet.is_ascii_graphic()) {
        return None;
    }
    let mut value = MetadataValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
