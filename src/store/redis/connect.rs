//! How connections are made: to one server, or to the primary that Sentinels name.

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

/// What every connection needs to know.
#[derive(Clone)]
pub struct Access {
    pub tls: Option<Tls>,
    pub servers: Login,
    pub sentinels: Login,
    /// How long a connection may take to be made, or to answer a probe.
    pub timeout: Duration,
    /// What a new connection is tried out with; `None`: it is only read from.
    pub probe_key: Option<String>,
}

/// PEM texts; empty: the system's roots, and no certificate of our own.
#[derive(Clone, Default)]
pub struct Tls {
    pub roots: Vec<u8>,
    pub certificate: Vec<u8>,
    pub key: Zeroizing<Vec<u8>>,
}

/// Empty: none.
#[derive(Clone, Default)]
pub struct Login {
    pub username: String,
    pub password: Zeroizing<String>,
}

/// Commands that wait in a connection for their turn to be written.
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
            // Each operation has its own, for all it does.
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
        // A peer that is gone without a word is noticed by the probe; this frees what
        // the kernel still keeps of it.
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

/// Makes connections to one place.
#[derive(Clone)]
pub struct Connector {
    pub access: Arc<Access>,
    pub place: Place,
}

/// Where a connection leads.
#[derive(Clone)]
pub enum Place {
    Server {
        address: Address,
        database: u32,
    },
    /// The primary of a service, wherever it is by now.
    Primary {
        sentinels: Arc<[Address]>,
        service: Arc<str>,
        database: u32,
        naming: Arc<Naming>,
    },
    /// A node of a cluster.
    Node(Address),
}

/// Who the primary is, as the Sentinels told last. All connections go by it, so that
/// none still reads from the old primary when another has written to the new one.
#[derive(Default)]
pub struct Naming {
    primary: Mutex<Option<Address>>,
    /// How often another one was named.
    changes: AtomicU64,
    /// The Sentinel that answered last, by its place among them. It is asked first.
    last_sentinel: AtomicUsize,
}

impl Naming {
    /// Returns the number of this naming.
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
pub struct Connected {
    pub connection: MultiplexedConnection,
    /// Where it leads.
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
    pub fn timeout(&self) -> Duration {
        self.access.timeout
    }

    /// Grows when another server is named the primary: connections made before are
    /// not to be used any more.
    pub fn naming(&self) -> u64 {
        match &self.place {
            Place::Primary { naming, .. } => naming.changes.load(Ordering::Acquire),
            Place::Server { .. } | Place::Node(_) => 0,
        }
    }

    pub async fn connect(&self) -> Result<Connected, Failure> {
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
            // A key of one node is none of another.
            if !matches!(self.place, Place::Node(_)) {
                try_out(&mut connection, key).await?;
            }
            warn_of_eviction(&mut connection).await;
        }
        Ok(Connected { connection, address, naming })
    }

    /// Who is the primary instead of `address`, if the Sentinels say so. A primary
    /// that was away may not know it, and what is written there is lost.
    pub async fn is_deposed(&self, address: &Address) -> Option<Address> {
        let Place::Primary { sentinels, service, naming, .. } = &self.place else { return None };
        let named = self.primary(sentinels, service, naming).await.ok()?;
        naming.told(&named);
        (named != *address).then_some(named)
    }

    /// Asks one Sentinel after the other, at first the one that answered last.
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
            // One that hangs must not use up the time of the others.
            let share = self.access.timeout / (sentinels.len() as u32 + 1);
            match tokio::time::timeout(share, self.ask(sentinel, service)).await {
                Ok(Ok(Some(primary))) => {
                    naming.last_sentinel.store(number, Ordering::Relaxed);
                    return Ok(primary);
                }
                Ok(Ok(None)) => problems.push(format!("{sentinel} knows no {service}")),
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

/// A server that can not be written to is none to be used: a replica, or one
/// that is still loading. Other refusals are left to the commands they meet.
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
        Err(why @ Failure::Refused { .. }) => tracing::error!("this redis will not do: {why}"),
        _ => {}
    }
    Ok(())
}

async fn warn_of_eviction(connection: &mut MultiplexedConnection) {
    let mut command = Cmd::new();
    command.arg("INFO").arg("memory");
    let Ok(Value::BulkString(text)) = connection.send_packed_command(&command).await else {
        return; // It may not be allowed, which is no harm.
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
