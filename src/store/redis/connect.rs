//! Makes connections: to one server, or to the primary that Sentinels name.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, IntoConnectionInfo,
    RedisConnectionInfo, TlsCertificates, Value, aio::MultiplexedConnection, from_redis_value,
    io::tcp::TcpSettings,
};
use zeroize::Zeroizing;

use super::{
    failure::{Failure, answer},
    url::Address,
};

/// The settings of every connection.
#[derive(Clone)]
pub(super) struct Access {
    pub tls: Option<Tls>,
    pub servers: Login,
    pub sentinels: Login,
    /// The time limit for making a connection, and for answering a probe.
    pub timeout: Duration,
    /// The key that tests a new connection; `None` if it is only read from.
    pub probe_key: Option<String>,
}

/// PEM texts. Empty means the system's roots, and no client certificate.
#[derive(Clone, Default)]
pub struct Tls {
    /// The CAs that may sign a server's certificate.
    pub roots: Vec<u8>,
    /// The client's certificate, with its chain.
    pub certificate: Vec<u8>,
    /// The key of that certificate.
    pub key: Zeroizing<Vec<u8>>,
}

/// Empty fields mean no credentials.
#[derive(Clone, Default)]
pub struct Login {
    /// Empty: the default user.
    pub username: String,
    /// Empty: no AUTH is sent.
    pub password: Zeroizing<String>,
}

/// The number of commands that may wait in a connection to be written.
const WRITE_QUEUE: usize = 1024;

impl Access {
    async fn connect(
        &self,
        address: &Address,
        login: &Login,
        database: u32,
    ) -> Result<MultiplexedConnection, Failure> {
        let unreached = |error: redis::RedisError| match Failure::from(error) {
            Failure::Lost(why) => Failure::Unreached(why),
            refused => refused,
        };
        let client = self.client(address, login, database).map_err(unreached)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            // Each operation has its own limit for all that it does.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(WRITE_QUEUE);
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(unreached)
    }

    fn client(
        &self,
        address: &Address,
        login: &Login,
        database: u32,
    ) -> redis::RedisResult<Client> {
        let Address { host, port } = address.clone();
        let mut settings = RedisConnectionInfo::default()
            .set_db(database.into())
            .set_lib_name("sessiond", env!("CARGO_PKG_VERSION"));
        if !login.password.is_empty() {
            settings = settings.set_password(login.password.as_str());
            if !login.username.is_empty() {
                settings = settings.set_username(&login.username);
            }
        }
        let addr = match &self.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        // The probe detects a silent loss of the peer. This setting frees what
        // the kernel still keeps for the connection.
        let tcp = TcpSettings::default().set_nodelay(true).set_user_timeout(self.timeout * 10);
        let info = addr.into_connection_info()?.set_redis_settings(settings).set_tcp_settings(tcp);
        let Some(tls) = &self.tls else {
            return Client::open(info);
        };
        let own = |tls: &Tls| ClientTlsConfig {
            client_cert: tls.certificate.clone(),
            client_key: tls.key.to_vec(),
        };
        let certificates = TlsCertificates {
            client_tls: (!tls.certificate.is_empty()).then(|| own(tls)),
            root_cert: (!tls.roots.is_empty()).then(|| tls.roots.clone()),
        };
        Client::build_with_tls(info, certificates)
    }
}

/// Makes connections to one destination.
#[derive(Clone)]
pub(super) struct Connector {
    pub access: Arc<Access>,
    pub place: Place,
}

/// The destination of a connection.
#[derive(Clone)]
pub(super) enum Place {
    Server {
        address: Address,
        database: u32,
    },
    /// The current primary of a service.
    Primary {
        sentinels: Arc<[Address]>,
        service: Arc<str>,
        database: u32,
        naming: Arc<Naming>,
    },
    /// A node of a cluster.
    Node(Address),
}

/// The primary that the Sentinels named last. All connections follow it.
/// Otherwise one could still read from the old primary after another has
/// written to the new one.
#[derive(Default)]
pub(super) struct Naming {
    primary: Mutex<Option<Address>>,
    /// How often the primary has changed.
    changes: AtomicU64,
    /// The index of the Sentinel that answered last. It is asked first.
    last_sentinel: AtomicUsize,
}

impl Naming {
    /// Records the named primary, and returns the number of this naming.
    fn told(&self, named: &Address) -> u64 {
        let mut primary = self.primary.lock();
        if primary.as_ref() != Some(named) {
            *primary = Some(named.clone());
            self.changes.fetch_add(1, Ordering::Release);
        }
        self.changes.load(Ordering::Acquire)
    }
}

/// A connection that is ready for commands.
pub(super) struct Connected {
    pub connection: MultiplexedConnection,
    /// The server's address.
    pub address: Address,
    /// See [`Connector::naming`].
    pub naming: u64,
}

impl fmt::Display for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Server { address, .. } | Place::Node(address) => address.fmt(f),
            Place::Primary { service, .. } => write!(f, "the primary of {service}"),
        }
    }
}

impl Connector {
    pub(super) fn timeout(&self) -> Duration {
        self.access.timeout
    }

    /// Grows when another server is named as the primary. Earlier connections
    /// must not be used after that.
    pub(super) fn naming(&self) -> u64 {
        match &self.place {
            Place::Primary { naming, .. } => naming.changes.load(Ordering::Acquire),
            Place::Server { .. } | Place::Node(_) => 0,
        }
    }

    pub(super) async fn connect(&self) -> Result<Connected, Failure> {
        let (address, database, naming) = match &self.place {
            Place::Node(address) => (address.clone(), 0, 0),
            Place::Server { address, database } => (address.clone(), *database, 0),
            Place::Primary { sentinels, service, database, naming } => {
                let named = self.primary(sentinels, service, naming).await?;
                let number = naming.told(&named);
                (named, *database, number)
            }
        };
        let mut connection = self.access.connect(&address, &self.access.servers, database).await?;
        if let Some(key) = &self.access.probe_key {
            // A node may not hold the slot of this key.
            if !matches!(self.place, Place::Node(_)) {
                try_out(&mut connection, key).await?;
            }
            warn_of_eviction(&mut connection).await;
        }
        Ok(Connected { connection, address, naming })
    }

    /// The primary that the Sentinels name, if it is not `address`. A primary
    /// that was away may not know that it was replaced, and writes to it are
    /// lost.
    pub(super) async fn is_deposed(&self, address: &Address) -> Option<Address> {
        let Place::Primary { sentinels, service, naming, .. } = &self.place else { return None };
        let named = self.primary(sentinels, service, naming).await.ok()?;
        naming.told(&named);
        (named != *address).then_some(named)
    }

    /// Asks the Sentinels in turn, starting with the one that answered last.
    async fn primary(
        &self,
        sentinels: &[Address],
        service: &str,
        naming: &Naming,
    ) -> Result<Address, Failure> {
        let mut problems = Vec::new();
        let first = naming.last_sentinel.load(Ordering::Relaxed);
        let in_turn = sentinels.iter().enumerate().cycle().skip(first).take(sentinels.len());
        for (number, sentinel) in in_turn {
            // One that hangs must not use the time of the others.
            let share = self.access.timeout / (sentinels.len() as u32 + 1);
            match tokio::time::timeout(share, self.ask(sentinel, service)).await {
                Ok(Ok(Some(primary))) => {
                    naming.last_sentinel.store(number, Ordering::Relaxed);
                    return Ok(primary);
                }
                Ok(Ok(None)) => problems.push(format!("{sentinel} does not know {service}")),
                Ok(Err(why)) => problems.push(format!("{sentinel}: {why}")),
                Err(_) => problems.push(format!("{sentinel}: no answer within {share:?}")),
            }
        }
        Err(Failure::Unreached(format!("no sentinel names a primary: {}", problems.join("; "))))
    }

    async fn ask(&self, sentinel: &Address, service: &str) -> Result<Option<Address>, Failure> {
        let mut connection = self.access.connect(sentinel, &self.access.sentinels, 0).await?;
        let mut command = Cmd::new();
        command.arg("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(service);
        let value = answer(connection.send_packed_command(&command).await?)?;
        let named: Option<(String, u16)> = from_redis_value(value).map_err(|_| Failure::Absurd)?;
        Ok(named.map(|(host, port)| Address { host, port }))
    }
}

/// Fails if the server cannot be used for writes, for instance because it is a
/// replica or still loads its data. Other refusals are logged here; the
/// commands that meet them report them.
async fn try_out(connection: &mut MultiplexedConnection, key: &str) -> Result<(), Failure> {
    let mut command = Cmd::new();
    command.arg("DEL").arg(key);
    match answer(connection.send_packed_command(&command).await?) {
        Err(why)
            if why.is_refused_as(&[
                "READONLY",
                "LOADING",
                "MASTERDOWN",
                "MOVED",
                "CLUSTERDOWN",
                "NOAUTH",
            ]) =>
        {
            return Err(why);
        }
        Err(why @ Failure::Refused { .. }) => {
            tracing::error!("this redis cannot be used as it is configured: {why}")
        }
        _ => {}
    }
    Ok(())
}

async fn warn_of_eviction(connection: &mut MultiplexedConnection) {
    let mut command = Cmd::new();
    command.arg("INFO").arg("memory");
    let Ok(Value::BulkString(text)) = connection.send_packed_command(&command).await else {
        return; // INFO may be forbidden, which does no harm.
    };
    let text = String::from_utf8_lossy(&text);
    let policy = text.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
    if let Some(policy) = policy.filter(|policy| *policy != "noeviction") {
        tracing::warn!(
            policy,
            "redis may evict live sessions when its memory is full; set maxmemory-policy noeviction"
        );
    }
}
