//! A cluster: which server holds which slot, and what happens when that
//! changes.
//!
//! The crate's own cluster client is not used: it repeats a command when its
//! connection breaks. If the first attempt took effect, the answer to the
//! second one is wrong for the caller.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use redis::{Cmd, Value, from_redis_value};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    command::Command,
    connect::{Access, Connector, Place},
    failure::{Failure, answer},
    scan::{Holders, number_of},
    server::{Manner, Server},
    time::Timekeeper,
    url::Address,
};

const SLOTS: usize = 16384;
/// The limit of redirections for one command.
const MOST_REDIRECTIONS: usize = 8;
/// How long to wait while a key moves between two servers.
const BETWEEN_SERVERS: Duration = Duration::from_millis(20);
/// How often the map is fetched if all is well.
const MAP_INTERVAL: Duration = Duration::from_secs(10);
/// The shortest pause between two fetches of the map.
const MAP_PAUSE: Duration = Duration::from_millis(100);

/// A handle to the map. Dropping it ends its task.
pub(super) struct Cluster {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    access: Arc<Access>,
    time: Arc<Timekeeper>,
    manner: Manner,
    seeds: Vec<Address>,
    map: RwLock<Map>,
    /// Signals that the map is outdated.
    outdated: Notify,
    /// The outcome of the last attempt to fetch the map; `None` before the
    /// first one.
    learned: watch::Sender<Option<Result<(), Failure>>>,
}

/// Which server holds which slot.
struct Map {
    holders: Vec<Option<Arc<Server>>>,
    /// All servers that hold slots, in the order of their addresses.
    primaries: Vec<Arc<Server>>,
    /// Changes when a slot gets another holder.
    number: u64,
    /// The servers that hold slots, and those that a redirection named.
    servers: BTreeMap<Address, Arc<Server>>,
    /// All nodes, including replicas: any of them can give the map.
    nodes: BTreeSet<Address>,
    /// The servers that have reported the cluster as down since the map was
    /// last fetched.
    doubted: BTreeSet<Address>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cluster {
    /// Starts to fetch the map. Needs a tokio runtime.
    pub(super) fn start(
        access: Arc<Access>,
        time: Arc<Timekeeper>,
        manner: Manner,
        seeds: Vec<Address>,
    ) -> Self {
        let map = Map {
            holders: vec![None; SLOTS],
            primaries: Vec::new(),
            number: 0,
            servers: BTreeMap::new(),
            nodes: BTreeSet::new(),
            doubted: BTreeSet::new(),
        };
        let shared = Arc::new(Shared {
            access,
            time,
            manner,
            seeds,
            map: RwLock::new(map),
            outdated: Notify::new(),
            learned: watch::Sender::new(None),
        });
        let task = tokio::spawn(keep_learning(Arc::clone(&shared))).abort_handle();
        Self { shared, task }
    }

    /// Sends a command to the server that holds its key.
    pub(super) async fn run(&self, command: &Command<'_>) -> Result<Value, Failure> {
        let shared = &self.shared;
        let slot = slot(command.key);
        self.first_learned().await;
        let holder = shared.map.read().holders[slot].clone();
        let Some(mut server) = holder else {
            shared.outdated.notify_one();
            let known = shared.learned.borrow().clone();
            let why = format!("no server is known for slot {slot}");
            return Err(known.and_then(Result::err).unwrap_or(Failure::Unreached(why)));
        };
        let mut asking = false;
        let mut last = Failure::Unreached("there were too many redirections".to_owned());
        for _ in 0..MOST_REDIRECTIONS {
            last = match server.run(command, asking).await {
                Ok(value) => return Ok(value),
                Err(why) => why,
            };
            match &last {
                Failure::Refused { code, text } if code == "MOVED" || code == "ASK" => {
                    asking = code == "ASK";
                    if !asking {
                        shared.outdated.notify_one();
                    }
                    let Some(address) = redirection(text, || shared.address(&server)) else {
                        return Err(last);
                    };
                    server = shared.server(address);
                }
                Failure::Refused { code, .. } if code == "TRYAGAIN" => {
                    sleep(BETWEEN_SERVERS).await;
                }
                Failure::Unreached(_) | Failure::Lost(_) => {
                    shared.outdated.notify_one();
                    return Err(last);
                }
                Failure::Refused { code, .. } if code == "CLUSTERDOWN" => {
                    shared.doubt(&server);
                    return Err(last);
                }
                _ => return Err(last),
            }
        }
        Err(last)
    }

    /// The servers that hold slots, in the order of their addresses.
    pub(super) fn holders(&self) -> Result<Holders, Failure> {
        let map = self.shared.map.read();
        match map.holders.iter().position(Option::is_none) {
            None => {
                Ok(Holders { map: map.number, servers: map.primaries.clone(), are_cluster: true })
            }
            Some(slot) => Err(Failure::Unreached(format!("no server is known for slot {slot}"))),
        }
    }

    /// Fetches the map.
    pub(super) async fn learn(&self) -> Result<(), Failure> {
        self.shared.learn().await
    }

    async fn first_learned(&self) {
        if self.shared.learned.borrow().is_none() {
            // An error would mean that the sender is gone, but `self` owns it.
            let _ = self.shared.learned.subscribe().wait_for(Option::is_some).await;
        }
    }

    /// Fails if none of the servers can be reached. Does not wait.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let map = self.shared.map.read();
        let mut failure = match &*self.shared.learned.borrow() {
            Some(Err(why)) => why.clone(),
            _ => Failure::Unreached("no server is known yet".to_owned()),
        };
        for server in map.servers.values() {
            match server.check() {
                Ok(()) => return Ok(()),
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }

    /// Waits until the map is known and connections to its servers were
    /// attempted.
    pub(super) async fn tried(&self) -> Result<(), Failure> {
        self.first_learned().await;
        self.shared.learned.borrow().clone().unwrap_or(Ok(()))?;
        let servers: Vec<_> = self.shared.map.read().servers.values().cloned().collect();
        for server in servers {
            server.tried().await?;
        }
        Ok(())
    }
}

impl Shared {
    /// The server at `address`. Starts it if it is new.
    fn server(&self, address: Address) -> Arc<Server> {
        let mut map = self.map.write();
        let start = || Arc::new(self.start(&address));
        Arc::clone(map.servers.entry(address.clone()).or_insert_with(start))
    }

    /// The address of a server; `None` if it is not in the cluster any more.
    fn address(&self, server: &Arc<Server>) -> Option<Address> {
        let map = self.map.read();
        let mut known = map.servers.iter();
        known.find(|(_, known)| Arc::ptr_eq(known, server)).map(|(address, _)| address.clone())
    }

    fn start(&self, address: &Address) -> Server {
        Server::start(&self.connector(address), &self.time, self.manner)
    }

    fn connector(&self, address: &Address) -> Connector {
        Connector { access: Arc::clone(&self.access), place: Place::Node(address.clone()) }
    }

    /// Remembers that a server reported the cluster as down. A server that is
    /// cut off from the others still returns its old map.
    fn doubt(&self, server: &Arc<Server>) {
        if let Some(address) = self.address(server) {
            self.map.write().doubted.insert(address);
        }
        self.outdated.notify_one();
    }

    /// Fetches the map from the quickest source first: connected servers, then
    /// the other nodes and the seeds. Among the connected servers, doubted ones
    /// come last.
    async fn learn(&self) -> Result<(), Failure> {
        let mut command = Cmd::new();
        command.arg("CLUSTER").arg("SLOTS");
        let limit = self.access.timeout;
        let late = || Failure::Lost(format!("no answer within {limit:?}"));
        let mut problems = Vec::new();
        for (address, server) in self.in_turn() {
            let ask = async {
                if let Some(server) = server {
                    return server.ask(&command).await;
                }
                let mut connection = self.connector(&address).connect().await?.connection;
                answer(connection.send_packed_command(&command).await?)
            };
            let asked = timeout(limit, ask).await;
            match asked.unwrap_or_else(|_| Err(late())).and_then(|map| self.install(map, &address))
            {
                Ok(()) => return Ok(()),
                Err(why) => problems.push(format!("{address}: {why}")),
            }
        }
        Err(Failure::Unreached(format!(
            "no node returned the map of slots: {}",
            problems.join("; ")
        )))
    }

    /// The addresses to ask for the map, with the server if it is connected.
    fn in_turn(&self) -> Vec<(Address, Option<Arc<Server>>)> {
        let mut map = self.map.write();
        // A server that still sees the cluster as down will report that again.
        let doubted = std::mem::take(&mut map.doubted);
        let connected = map.servers.iter().filter(|(_, server)| server.check().is_ok());
        let mut in_turn: Vec<_> = connected
            .map(|(address, server)| (address.clone(), Some(Arc::clone(server))))
            .collect();
        // They still come before unconnected nodes: one of those that hangs
        // would delay a map that all agree on.
        in_turn.sort_by_key(|(address, _)| doubted.contains(address));
        let mut others = map.nodes.clone();
        others.extend(self.seeds.iter().cloned());
        others.retain(|node| in_turn.iter().all(|(address, _)| address != node));
        in_turn.extend(others.into_iter().map(|address| (address, None)));
        in_turn
    }

    /// Installs the answer of CLUSTER SLOTS. Servers that stay keep their
    /// connections.
    fn install(&self, told: Value, by: &Address) -> Result<(), Failure> {
        let ranges = ranges(told, by).ok_or(Failure::Absurd)?;
        if ranges.is_empty() {
            return Err(Failure::Unreached("it is not in a cluster that holds slots".to_owned()));
        }
        let mut map = self.map.write();
        let mut servers = BTreeMap::new();
        let mut holders = vec![None; SLOTS];
        map.nodes = ranges.iter().flat_map(|range| range.nodes.iter().cloned()).collect();
        for range in &ranges {
            let Some(primary) = range.nodes.first() else { continue };
            let server = servers.entry(primary.clone()).or_insert_with(|| {
                let known = map.servers.get(primary).cloned();
                known.unwrap_or_else(|| Arc::new(self.start(primary)))
            });
            if range.first == 0 {
                self.time.follow(primary.clone());
            }
            for slot in holders.get_mut(range.first..=range.last).ok_or(Failure::Absurd)? {
                *slot = Some(Arc::clone(server));
            }
        }
        let mut told: Vec<_> = ranges.iter().map(Range::to_string).collect();
        told.sort_unstable();
        map.number = number_of(told.concat().as_bytes());
        map.primaries = servers.values().cloned().collect();
        map.servers = servers;
        map.holders = holders;
        Ok(())
    }

    fn all_is_well(&self) -> bool {
        self.map.read().servers.values().all(|server| server.check().is_ok())
    }
}

/// Fetches the map if it is outdated, if a server cannot be reached, and at
/// intervals.
async fn keep_learning(shared: Arc<Shared>) {
    let mut told = false;
    loop {
        let outcome = shared.learn().await;
        match &outcome {
            Ok(()) => told = false,
            Err(why) if !told => {
                tracing::error!("the map of the cluster is unknown, retrying: {why}");
                told = true;
            }
            Err(_) => {}
        }
        let interval = match outcome.is_ok() && shared.all_is_well() {
            true => MAP_INTERVAL,
            false => MAP_PAUSE * 2,
        };
        shared.learned.send_replace(Some(outcome));
        sleep(MAP_PAUSE).await;
        let _ = timeout(interval, shared.outdated.notified()).await;
    }
}

struct Range {
    first: usize,
    last: usize,
    /// The primary comes first.
    nodes: Vec<Address>,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let primary = self.nodes.first();
        write!(
            f,
            "{}-{} {};",
            self.first,
            self.last,
            primary.map(Address::to_string).unwrap_or_default()
        )
    }
}

fn ranges(told: Value, by: &Address) -> Option<Vec<Range>> {
    let Value::Array(ranges) = told else { return None };
    ranges.into_iter().map(|range| self::range(range, by)).collect()
}

fn range(told: Value, by: &Address) -> Option<Range> {
    let Value::Array(told) = told else { return None };
    let mut told = told.into_iter();
    let mut number = || from_redis_value::<usize>(told.next()?).ok();
    let (first, last) = (number()?, number()?);
    let nodes: Option<Vec<_>> = told.map(|node| self::node(node, by)).collect();
    Some(Range { first, last, nodes: nodes? })
}

/// Some clusters give no host, or "?" if they do not know it.
fn is_host(host: &str) -> bool {
    !host.is_empty() && host != "?"
}

/// A node without a host has the host of the server that answered.
fn node(told: Value, by: &Address) -> Option<Address> {
    let Value::Array(told) = told else { return None };
    let mut told = told.into_iter();
    let host: Option<String> = from_redis_value(told.next()?).ok()?;
    let port: u16 = from_redis_value(told.next()?).ok()?;
    let host = host.filter(|host| is_host(host));
    Some(Address { host: host.unwrap_or_else(|| by.host.clone()), port })
}

/// The address in "3999 127.0.0.1:6381". Without a host, it has the host of the
/// server that answered.
fn redirection(text: &str, by: impl FnOnce() -> Option<Address>) -> Option<Address> {
    let (host, port) = text.split_whitespace().nth(1)?.rsplit_once(':')?;
    let host = if is_host(host) { host.to_owned() } else { by()?.host };
    Some(Address { host, port: port.parse().ok()? })
}

/// CRC16 (XMODEM) of the key, or of the text between its first pair of braces.
/// Our keys have no braces.
fn slot(key: &str) -> usize {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    let hashed = tag.map(|(tag, _)| tag).filter(|tag| !tag.is_empty()).unwrap_or(key);
    usize::from(crc16::State::<crc16::XMODEM>::calculate(hashed.as_bytes())) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot_of_all(key: &str) -> usize {
        usize::from(crc16::State::<crc16::XMODEM>::calculate(key.as_bytes())) % SLOTS
    }

    #[test]
    fn slots_are_those_of_redis() {
        // The results of CLUSTER KEYSLOT.
        assert_eq!(slot("123456789"), 0x31c3 % SLOTS);
        assert_eq!(slot("foo"), 12182);
        assert_eq!(slot("{foo}bar{baz}"), 12182);
        assert_eq!(slot("a{}b{foo}"), slot_of_all("a{}b{foo}"));
        assert_eq!(slot("}foo{"), slot_of_all("}foo{"));
    }

    #[test]
    fn redirections_are_read() {
        let by = || Some(Address { host: "redis-3".to_owned(), port: 6379 });
        for (text, host) in [
            ("3999 127.0.0.1:6381", "127.0.0.1"),
            ("0 fd00::1:6381", "fd00::1"),
            ("3999 :6381", "redis-3"),
            ("3999 ?:6381", "redis-3"),
        ] {
            let address = redirection(text, by).expect("an address");
            assert_eq!((address.host.as_str(), address.port), (host, 6381), "{text}");
        }
        assert_eq!(redirection("3999", by), None);
        assert_eq!(redirection("3999 :6381", || None), None, "the server that answered is unknown");
    }
}
