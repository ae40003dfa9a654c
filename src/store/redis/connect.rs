//! Makes connections: to one server, or to the primary that Sentinels name.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, IntoConnectionInfo,
    RedisConnectionInfo, TlsCertificates, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    from_redis_value,
    io::tcp::TcpSettings,
};
use zeroize::Zeroizing;

use super::{
    failure::{Failure, answer},
    needs::{Lack, Needs},
    source::Source,
    url::{Address, Endpoint},
};
use crate::timing::Timings;

/// The settings of every connection.
#[derive(Clone)]
pub(super) struct Access {
    pub tls: Option<Source<Tls>>,
    pub servers: Login,
    pub sentinels: Login,
    /// The time limit for making a connection, and for answering a probe.
    pub timeout: Duration,
    /// What servers are tried out for; `None` if they are only read from.
    pub needs: Option<Arc<Needs>>,
    pub traffic: Arc<Traffic>,
}

/// What goes over all connections of a database.
#[derive(Default)]
pub(super) struct Traffic {
    /// From sending commands to their answers.
    pub round_trips: Timings,
    /// Connections that broke.
    pub lost: AtomicU64,
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
    pub password: Source<Zeroizing<String>>,
}

/// The number of commands that may wait in a connection to be written.
const WRITE_QUEUE: usize = 1024;

impl Access {
    async fn connect(
        &self,
        endpoint: &Endpoint,
        login: &Login,
        database: u32,
    ) -> Result<MultiplexedConnection, Failure> {
        let unreached = |error: redis::RedisError| match Failure::from(error) {
            Failure::Lost(why) => Failure::Unreached(why),
            refused => refused,
        };
        let password = login.password.get().await?;
        let tls = match &self.tls {
            None => None,
            Some(tls) => Some(tls.get().await?),
        };
        let client = self.client(endpoint, tls, &login.username, &password, database);
        let client = client.map_err(unreached)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            // Each operation has its own limit for all that it does.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(WRITE_QUEUE);
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(unreached)
    }

    fn client(
        &self,
        endpoint: &Endpoint,
        tls: Option<Tls>,
        username: &str,
        password: &str,
        database: u32,
    ) -> redis::RedisResult<Client> {
        let mut settings = RedisConnectionInfo::default()
            .set_db(database.into())
            .set_lib_name("sessiond", env!("CARGO_PKG_VERSION"));
        if !password.is_empty() {
            settings = settings.set_password(password);
            if !username.is_empty() {
                settings = settings.set_username(username);
            }
        }
        let addr = match (endpoint.clone(), &tls) {
            (Endpoint::Unix(path), _) => ConnectionAddr::Unix(path),
            (Endpoint::Tcp(Address { host, port }), None) => ConnectionAddr::Tcp(host, port),
            (Endpoint::Tcp(Address { host, port }), Some(_)) => {
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
            }
        };
        // The probe detects a silent loss of the peer. This setting frees what
        // the kernel still keeps for the connection.
        let tcp = TcpSettings::default().set_nodelay(true).set_user_timeout(self.timeout * 10);
        let info = addr.into_connection_info()?.set_redis_settings(settings).set_tcp_settings(tcp);
        let Some(Tls { roots, certificate, key }) = tls else {
            return Client::open(info);
        };
        let certificates = TlsCertificates {
            client_tls: (!certificate.is_empty())
                .then(|| ClientTlsConfig { client_cert: certificate, client_key: key.to_vec() }),
            root_cert: (!roots.is_empty()).then_some(roots),
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
        endpoint: Endpoint,
        database: u32,
    },
    /// The current primary of a service.
    Primary {
        sentinels: Arc<[Address]>,
        service: Arc<str>,
        database: u32,
        naming: Arc<Naming>,
    },
    /// A node of a cluster, and a key in one of its slots.
    Node(Address, Arc<ProbeKey>),
}

/// A key in a slot of one node, on which the node is tried out.
pub(super) struct ProbeKey(Mutex<Arc<str>>);

impl ProbeKey {
    pub(super) fn new(key: String) -> Self {
        Self(Mutex::new(key.into()))
    }

    pub(super) fn get(&self) -> Arc<str> {
        Arc::clone(&self.0.lock())
    }

    pub(super) fn set(&self, key: String) {
        *self.0.lock() = key.into();
    }
}

/// The primary that the Sentinels named last. All connections follow it.
/// Otherwise one could still read from the old primary after another has
/// written to the new one.
#[derive(Default)]
pub(super) struct Naming {
    primary: Mutex<Option<Address>>,
    /// How often the primary has changed.
    changes: AtomicU64,
    /// The Sentinel that answered last. It is asked first.
    last_sentinel: Mutex<Option<Address>>,
    /// The other Sentinels that it knew, those that it took for down at the end.
    learned: Mutex<Vec<Address>>,
}

/// How many Sentinels are remembered beside those of the URL.
const MOST_LEARNED: usize = 8;

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

    /// The Sentinels to ask, in turn.
    fn in_turn(&self, configured: &[Address]) -> Vec<Address> {
        let mut in_turn = Vec::new();
        let last = self.last_sentinel.lock().clone();
        let learned = self.learned.lock().clone();
        for sentinel in last.into_iter().chain(configured.iter().cloned()).chain(learned) {
            if !in_turn.contains(&sentinel) {
                in_turn.push(sentinel);
            }
        }
        in_turn
    }

    fn answered(&self, sentinel: &Address, others: Vec<Address>) {
        *self.last_sentinel.lock() = Some(sentinel.clone());
        // One that may not tell, or knows none, makes nothing forgotten.
        if !others.is_empty() {
            *self.learned.lock() = others;
        }
    }
}

/// A connection that is ready for commands.
pub(super) struct Connected {
    pub connection: MultiplexedConnection,
    pub endpoint: Endpoint,
    /// What is missing there.
    pub lack: Option<Lack>,
    /// See [`Connector::naming`].
    pub naming: u64,
}

impl fmt::Display for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Server { endpoint, .. } => endpoint.fmt(f),
            Place::Node(address, _) => address.fmt(f),
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
            Place::Server { .. } | Place::Node(..) => 0,
        }
    }

    /// What the connections are tried out for. `None`: they are only read from.
    pub(super) fn needed(&self) -> Option<&Arc<Needs>> {
        self.access.needs.as_ref()
    }

    pub(super) async fn connect(&self) -> Result<Connected, Failure> {
        let (endpoint, database, naming) = match &self.place {
            Place::Node(address, _) => (Endpoint::Tcp(address.clone()), 0, 0),
            Place::Server { endpoint, database } => (endpoint.clone(), *database, 0),
            Place::Primary { sentinels, service, database, naming } => {
                let named = self.primary(sentinels, service, naming).await?;
                let number = naming.told(&named);
                (Endpoint::Tcp(named), *database, number)
            }
        };
        let access = &self.access;
        let mut connection = access.connect(&endpoint, &access.servers, database).await?;
        let lack = self.try_out(&mut connection).await?;
        if let Some(needs) = &access.needs
            && let Some(policy) = eviction(&mut connection).await
        {
            needs.warn_of_eviction(&policy);
        }
        Ok(Connected { connection, endpoint, lack, naming })
    }

    /// Tries out all that is needed. Fails if the connection is of no use.
    pub(super) async fn try_out(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Option<Lack>, Failure> {
        let Some((needs, key)) = self.needs_on_key() else { return Ok(None) };
        needs.try_out(connection, &key, matches!(self.place, Place::Node(..))).await
    }

    /// The same with one command that writes; what is missing is not found out. An error of
    /// the server, unless it is of no account, is `false`.
    pub(super) async fn takes_changes(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<bool, Failure> {
        let Some((_, key)) = self.needs_on_key() else { return Ok(true) };
        let told = connection.send_packed_command(&Needs::write(&key)).await?;
        let moved = |why: &Failure| why.is_refused_as(&["MOVED", "ASK", "TRYAGAIN"]);
        let is_node = matches!(self.place, Place::Node(..));
        Ok(answer(told).map_or_else(|why| is_node && moved(&why), |_| true))
    }

    fn needs_on_key(&self) -> Option<(&Needs, Arc<str>)> {
        let needs = self.needed()?.as_ref();
        let key = match &self.place {
            Place::Node(_, key) => key.get(),
            Place::Server { .. } | Place::Primary { .. } => needs.key().into(),
        };
        Some((needs, key))
    }

    /// The primary that the Sentinels name, if it is another one. A primary
    /// that was away may not know that it was replaced, and writes to it are
    /// lost.
    pub(super) async fn is_deposed(&self, endpoint: &Endpoint) -> Option<Address> {
        let Place::Primary { sentinels, service, naming, .. } = &self.place else { return None };
        let named = self.primary(sentinels, service, naming).await.ok()?;
        naming.told(&named);
        (Endpoint::Tcp(named.clone()) != *endpoint).then_some(named)
    }

    /// Asks the Sentinels in turn, starting with the one that answered last.
    async fn primary(
        &self,
        configured: &[Address],
        service: &str,
        naming: &Naming,
    ) -> Result<Address, Failure> {
        let mut problems = Vec::new();
        let since = Instant::now();
        let in_turn = naming.in_turn(configured);
        for (asked, sentinel) in in_turn.iter().enumerate() {
            // One that hangs must not use the time of the others. The ones that were learned
            // share what those of the URL leave to them.
            let rest = match configured.len().saturating_sub(asked) {
                0 => in_turn.len() - asked,
                of_url => of_url + usize::from(in_turn.len() > configured.len()),
            };
            let share = self.access.timeout.saturating_sub(since.elapsed()) / (rest as u32 + 1);
            match tokio::time::timeout(share, self.ask(sentinel, service)).await {
                Ok(Ok((Some(primary), others))) => {
                    naming.answered(sentinel, others);
                    return Ok(primary);
                }
                Ok(Ok((None, _))) => problems.push(format!("{sentinel} does not know {service}")),
                Ok(Err(why)) => problems.push(format!("{sentinel}: {why}")),
                Err(_) => problems.push(format!("{sentinel}: no answer in time")),
            }
        }
        Err(Failure::Unreached(format!("no sentinel names a primary: {}", problems.join("; "))))
    }

    /// The primary, and the other Sentinels.
    async fn ask(
        &self,
        sentinel: &Address,
        service: &str,
    ) -> Result<(Option<Address>, Vec<Address>), Failure> {
        let endpoint = Endpoint::Tcp(sentinel.clone());
        let mut connection = self.access.connect(&endpoint, &self.access.sentinels, 0).await?;
        let mut commands = redis::pipe();
        commands.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(service);
        commands.cmd("SENTINEL").arg("SENTINELS").arg(service);
        let answers = connection.req_packed_commands(&commands, 0, 2).await?;
        let [named, others] = <[_; 2]>::try_from(answers).map_err(|_| Failure::Absurd)?;
        let named: Option<(String, u16)> =
            from_redis_value(answer(named)?).map_err(|_| Failure::Absurd)?;
        // The user may be permitted the first question only, which is enough.
        let others = answer(others).map(sentinels).unwrap_or_default();
        Ok((named.map(|(host, port)| Address { host, port }), others))
    }
}

/// The answer of SENTINEL SENTINELS. Those that are taken for down come last.
fn sentinels(told: Value) -> Vec<Address> {
    let told: Vec<HashMap<String, String>> = from_redis_value(told).unwrap_or_default();
    let address = |sentinel: &HashMap<String, String>| {
        let host = sentinel.get("ip").filter(|host| !host.is_empty())?.clone();
        let port = sentinel.get("port")?.parse().ok()?;
        let flags = sentinel.get("flags").map(String::as_str).unwrap_or_default();
        Some((flags.contains("down"), Address { host, port }))
    };
    let mut found: Vec<_> = told.iter().filter_map(address).collect();
    found.sort_by_key(|(is_down, _)| *is_down);
    found.into_iter().map(|(_, address)| address).take(MOST_LEARNED).collect()
}

/// The policy by which the server evicts keys when its memory is full, if it does.
async fn eviction(connection: &mut MultiplexedConnection) -> Option<String> {
    let mut command = Cmd::new();
    command.arg("INFO").arg("memory");
    let Ok(Value::BulkString(text)) = connection.send_packed_command(&command).await else {
        return None; // INFO may be forbidden, which does no harm.
    };
    let text = String::from_utf8_lossy(&text);
    let policy = text.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
    policy.filter(|policy| *policy != "noeviction").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Address {
        Address { host: "a".to_owned(), port }
    }

    #[test]
    fn sentinels_that_are_up_come_first_and_their_number_is_bounded() {
        let sentinel = |port: u16, flags: &str| {
            let fields =
                [("ip", "a".to_owned()), ("port", port.to_string()), ("flags", flags.to_owned())];
            let words = fields.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
            Value::Array(words.map(|word| Value::BulkString(word.into_bytes())).collect())
        };
        let told = [sentinel(1, "s_down,sentinel"), sentinel(2, "sentinel")];
        assert_eq!(sentinels(Value::Array(told.into())), [at(2), at(1)]);
        let many = (0..100).map(|port| sentinel(port, "sentinel")).collect();
        assert_eq!(sentinels(Value::Array(many)).len(), MOST_LEARNED);
        assert_eq!(sentinels(Value::Nil), []);
    }

    #[test]
    fn each_sentinel_is_asked_once_and_the_last_one_first() {
        let naming = Naming::default();
        let configured = [at(1), at(2)];
        assert_eq!(naming.in_turn(&configured), configured);
        naming.answered(&at(2), vec![at(1), at(3)]);
        assert_eq!(naming.in_turn(&configured), [at(2), at(1), at(3)]);
        naming.answered(&at(3), Vec::new());
        assert_eq!(naming.in_turn(&configured), [at(3), at(1), at(2)], "none is forgotten");
    }
}
