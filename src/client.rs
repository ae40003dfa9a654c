//! A client of a running daemon, for the subcommands that call one.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use sessiond::{
    grpc::pb::{
        CleanupRequest, GetSessionRequest, GetSessionResponse, GetStatusRequest, GetStatusResponse,
        ListSessionsRequest, ReloadRequest, ReloadResponse, RevokeSessionsRequest, Session,
        session_admin_service_client::SessionAdminServiceClient,
    },
    server::config::{Config, ConfigError, ListenAddr, bearer_token},
    service::access::Role,
};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{cli::ClientArgs, reached};

/// An error message for the user of the command line.
pub(crate) type Problem = String;

/// A daemon to call, and how.
#[derive(Clone)]
pub(crate) struct Caller {
    args: ClientArgs,
    config: Config,
    address: ListenAddr,
    /// The value of the authorization header.
    token: Option<MetadataValue<Ascii>>,
}

impl Caller {
    /// Calls a listener of `listen.grpc`, which also answers health checks.
    pub(crate) fn health(args: ClientArgs) -> Result<Self, ConfigError> {
        Self::new(args, "listen.grpc", Role::Frontend, |config| &config.listen.grpc)
    }

    /// Calls a listener of `listen.grpc`.
    pub(crate) fn sessions(args: ClientArgs) -> Result<Self, ConfigError> {
        Self::health(args)
    }

    /// Calls a listener of `listen.admin`.
    pub(crate) fn admin(args: ClientArgs) -> Result<Self, ConfigError> {
        Self::new(args, "listen.admin", Role::Admin, |config| &config.listen.admin)
    }

    fn new(
        mut args: ClientArgs,
        key: &str,
        role: Role,
        listeners: fn(&Config) -> &Vec<ListenAddr>,
    ) -> Result<Self, ConfigError> {
        let config = args.config.load(false)?;
        let address = match args.address.take() {
            Some(address) => address,
            None => nearest(listeners(&config)).ok_or_else(|| {
                ConfigError::new(key, "holds no address to call; give one with --address")
            })?,
        };
        let given = args.token_file.as_deref();
        let own = Some(config.listen.auth.token_file.as_path());
        let file = given.or(own.filter(|path| !path.as_os_str().is_empty()));
        let token = file.map(|path| authorization(path, role)).transpose();
        let token = token.map_err(|problem| ConfigError::new("--token-file", problem))?;
        Ok(Self { args, config, address, token })
    }

    /// Asks for the health of a service, or of the daemon as a whole if the name is empty.
    pub(crate) async fn ask_health(&self, service: String) -> Result<(), Problem> {
        let mut client = HealthClient::new(self.connect().await?);
        let request = self.request(HealthCheckRequest { service });
        let answer = client.check(request).await.map_err(|status| self.refused(&status))?;
        match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            status => Err(format!("{} answers {}", self.address, status.as_str_name())),
        }
    }

    /// Makes the daemon reload.
    pub(crate) async fn reload(&self) -> Result<ReloadResponse, Problem> {
        let mut client = SessionAdminServiceClient::new(self.connect().await?);
        let answer = client.reload(self.request(ReloadRequest {})).await;
        Ok(answer.map_err(|status| self.refused(&status))?.into_inner())
    }

    /// Makes the daemon sweep now. Returns the number of removed sessions.
    pub(crate) async fn sweep(&self, engine: String) -> Result<u64, Problem> {
        let mut client = SessionAdminServiceClient::new(self.connect().await?);
        let request = self.request(CleanupRequest { engine });
        let answer = client.cleanup(request).await.map_err(|status| self.refused(&status))?;
        Ok(answer.into_inner().removed)
    }

    /// Fetches all live sessions of a principal, page by page.
    pub(crate) async fn list(
        &self,
        engine: &str,
        principal: &str,
    ) -> Result<Vec<Session>, Problem> {
        let mut client = SessionAdminServiceClient::new(self.connect().await?);
        let (mut sessions, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = self.request(ListSessionsRequest {
                engine: engine.to_owned(),
                principal: principal.to_owned(),
                page_size: i32::MAX,
                page_token,
            });
            let answer = client.list_sessions(request).await;
            let page = answer.map_err(|status| self.refused(&status))?.into_inner();
            sessions.extend(page.sessions);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(sessions);
            }
        }
    }

    /// Fetches one session, if it is live.
    pub(crate) async fn session(
        &self,
        request: GetSessionRequest,
    ) -> Result<GetSessionResponse, Problem> {
        let mut client = SessionAdminServiceClient::new(self.connect().await?);
        let answer = client.get_session(self.request(request)).await;
        Ok(answer.map_err(|status| self.refused(&status))?.into_inner())
    }

    /// Asks how the daemon is.
    pub(crate) async fn status(&self) -> Result<GetStatusResponse, Problem> {
        let mut client = SessionAdminServiceClient::new(self.connect().await?);
        let answer = client.get_status(self.request(GetStatusRequest {})).await;
        Ok(answer.map_err(|status| self.refused(&status))?.into_inner())
    }

    /// The address that is called.
    pub(crate) fn address(&self) -> &ListenAddr {
        &self.address
    }

    /// Ends sessions. Returns how many of them were live. To end all sessions of an engine may
    /// take minutes, so that has no timeout.
    pub(crate) async fn revoke(&self, request: RevokeSessionsRequest) -> Result<u32, Problem> {
        let mut client = SessionAdminServiceClient::new(self.connect().await?);
        let request =
            if request.all { self.stream_request(request) } else { self.request(request) };
        let answer = client.revoke_sessions(request).await;
        Ok(answer.map_err(|status| self.refused(&status))?.into_inner().revoked)
    }

    pub(crate) async fn connect(&self) -> Result<Channel, Problem> {
        let unreachable = |error: tonic::transport::Error| {
            use std::error::Error as _;
            let mut causes = vec![error.to_string()];
            let mut next = error.source();
            while let Some(cause) = next {
                causes.push(cause.to_string());
                next = cause.source();
            }
            causes.dedup();
            let causes = causes.join(": ");
            let is_secured = !self.config.listen.tls.cert_file.as_os_str().is_empty();
            let hint = match (reached::found_at(&self.address), &self.address) {
                (Some(found), _) => format!("; {found}"),
                (None, ListenAddr::Tcp(_) | ListenAddr::Name { .. }) if is_secured => {
                    "; with TLS, give its CA with --ca-file and its name with --server-name, or \
                     add a unix socket to listen.grpc for probes"
                        .to_owned()
                }
                (None, _) => String::new(),
            };
            format!("cannot reach a daemon at {}: {causes}{hint}", self.address)
        };
        let connecting = async {
            let endpoint = match (&self.address, self.tls()?) {
                (unix @ ListenAddr::Unix(_), _) => endpoint(unix.to_string())?,
                (tcp, Some(tls)) => {
                    endpoint(format!("https://{tcp}"))?.tls_config(tls).map_err(unreachable)?
                }
                (tcp, None) => endpoint(format!("http://{tcp}"))?,
            };
            endpoint.connect().await.map_err(unreachable)
        };
        let timeout = self.args.timeout;
        let connected = tokio::time::timeout(timeout.0, connecting).await;
        connected.map_err(|_| format!("{} did not answer within {timeout}", self.address))?
    }

    fn tls(&self) -> Result<Option<ClientTlsConfig>, Problem> {
        let given = self.args.ca_file.as_deref();
        let own = Some(self.config.listen.tls.cert_file.as_path());
        let Some(ca) = given.or(own.filter(|path| !path.as_os_str().is_empty())) else {
            return Ok(None);
        };
        let name = match (&self.args.server_name, &self.address) {
            (Some(name), _) => name,
            (None, ListenAddr::Name { host, .. }) => host,
            (None, _) => "localhost",
        };
        let mut tls = ClientTlsConfig::new()
            .domain_name(name)
            .ca_certificate(Certificate::from_pem(read(ca)?));
        if let (Some(cert), Some(key)) = (&self.args.client_cert_file, &self.args.client_key_file) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(Some(tls))
    }

    /// The longest time to wait for an answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.args.timeout.0
    }

    /// A request that ends within the timeout.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = self.stream_request(message);
        request.set_timeout(self.args.timeout.0);
        request
    }

    /// A request without a timeout, for a stream.
    pub(crate) fn stream_request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }

    /// The message for a call that returned an error.
    pub(crate) fn refused(&self, status: &Status) -> Problem {
        use std::error::Error as _;
        // Then the error is not the daemon's answer. Something else may listen there.
        if status.source().is_some()
            && let Some(found) = reached::found_at(&self.address)
        {
            return format!("cannot call a daemon at {}: {found}", self.address);
        }
        let unsaid = match status.code() {
            // A daemon of an earlier release, or another server of gRPC.
            Code::Unimplemented if status.message().is_empty() => {
                "the service is not served at this address"
            }
            _ => "",
        };
        format!("{} answers {:?}: {}{unsaid}", self.address, status.code(), status.message())
    }
}

fn endpoint(uri: String) -> Result<Endpoint, Problem> {
    Endpoint::from_shared(uri.clone()).map_err(|error| format!("cannot call {uri}: {error}"))
}

/// Prefers a unix socket to TCP, because it needs no certificate.
fn nearest(listeners: &[ListenAddr]) -> Option<ListenAddr> {
    let unix = listeners.iter().find(|address| matches!(address, ListenAddr::Unix(_)));
    unix.or(listeners.first()).cloned().map(|address| match address {
        ListenAddr::Tcp(mut tcp) if tcp.ip().is_unspecified() => {
            let loopback = match tcp {
                SocketAddr::V4(_) => [127, 0, 0, 1].into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            };
            tcp.set_ip(loopback);
            ListenAddr::Tcp(tcp)
        }
        other => other,
    })
}

/// The header value: `Bearer` and the first token in the file that has the role.
fn authorization(path: &Path, role: Role) -> Result<MetadataValue<Ascii>, Problem> {
    let token = bearer_token(path, role)
        .map_err(|error| format!("cannot read the file {}: {error}", path.display()))?;
    let token = token.ok_or_else(|| format!("{} holds no token", path.display()))?;
    let mut value = MetadataValue::try_from(format!("Bearer {}", *token))
        .map_err(|_| format!("{} holds a token that is not visible ASCII", path.display()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn read(path: &Path) -> Result<String, Problem> {
    fs::read_to_string(path)
        .map_err(|error| format!("cannot read the file {}: {error}", path.display()))
}
