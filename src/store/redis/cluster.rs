//! A cluster: which server holds which slot, and what happens when that
//! changes.
//!
//! The crate's own cluster client is not used: it repeats a command when its
//! connection breaks. If the first attempt took effect, the answer to the
//! second one is wrong for the caller.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use redis::{Cmd, Value};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    command::Command,
    connect::{Access, Connector, Place, ProbeKey},
    failure::{Failure, answer},
    scan::{Holders, number_of},
    server::{Manner, Server},
    slots::{Range, Redirection, SLOTS, key_within, ranges, slot},
    time::Timekeeper,
    url::Address,
};

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
    /// For each server, a key in one of its slots.
    probe_keys: BTreeMap<Address, Arc<ProbeKey>>,
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
            probe_keys: BTreeMap::new(),
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
                    let learned = shared.learned.subscribe();
                    if !asking {
                        shared.outdated.notify_one();
                    }
                    let Some(redirection) = Redirection::read(text) else { return Err(last) };
                    let next = match redirection.address(|| shared.address(&server)) {
                        Some(address) => Some(shared.server(address)),
                        None if asking => shared.neighbour(&server, redirection.port),
                        None => shared.holder_next_time(slot, learned).await,
                    };
                    let Some(next) = next else { return Err(last) };
                    server = next;
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

    /// Fails if `check` fails for all servers. Does not wait.
    pub(super) fn check(
        &self,
        check: impl Fn(&Server) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let map = self.shared.map.read();
        let mut failure = match &*self.shared.learned.borrow() {
            Some(Err(why)) => why.clone(),
            _ => Failure::Unreached("no server is known yet".to_owned()),
        };
        for server in map.servers.values() {
            match check(server) {
                Ok(()) => return Ok(()),
                // What a server lacks says more than that another one is gone.
                Err(_) if matches!(failure, Failure::Lacking(_)) => {}
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }

    /// Calls `with` for all servers that are known.
    pub(super) fn each_server(&self, with: impl FnMut(&Arc<Server>)) {
        self.shared.map.read().servers.values().for_each(with);
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
        if let Some(server) = map.servers.get(&address) {
            return Arc::clone(server);
        }
        let server = Arc::new(self.start(&mut map, &address));
        map.servers.insert(address, Arc::clone(&server));
        server
    }

    /// The server that an ASK means which names a port and no host: the only other one with
    /// that port.
    fn neighbour(&self, server: &Arc<Server>, port: u16) -> Option<Arc<Server>> {
        let map = self.map.read();
        let mut others = map
            .servers
            .iter()
            .filter(|(address, other)| address.port == port && !Arc::ptr_eq(other, server));
        let (_, other) = others.next()?;
        others.next().is_none().then(|| Arc::clone(other))
    }

    /// The holder of a slot when the map has been fetched again.
    async fn holder_next_time(
        &self,
        slot: usize,
        mut learned: watch::Receiver<Option<Result<(), Failure>>>,
    ) -> Option<Arc<Server>> {
        learned.changed().await.ok()?;
        self.map.read().holders[slot].clone()
    }

    /// The address of a server; `None` if it is not in the cluster any more.
    fn address(&self, server: &Arc<Server>) -> Option<Address> {
        let map = self.map.read();
        let mut known = map.servers.iter();
        known.find(|(_, known)| Arc::ptr_eq(known, server)).map(|(address, _)| address.clone())
    }

    fn start(&self, map: &mut Map, address: &Address) -> Server {
        let connector = self.connector(address, self.probe_key(map, address));
        Server::start(&connector, &self.time, self.manner)
    }

    fn connector(&self, address: &Address, probe_key: Arc<ProbeKey>) -> Connector {
        let place = Place::Node(address.clone(), probe_key);
        Connector { access: Arc::clone(&self.access), place }
    }

    /// The key of a server. It is in one of its slots when [`install`](Self::install) has
    /// said which those are.
    fn probe_key(&self, map: &mut Map, address: &Address) -> Arc<ProbeKey> {
        let any = || Arc::new(ProbeKey::new(self.any_probe_key()));
        Arc::clone(map.probe_keys.entry(address.clone()).or_insert_with(any))
    }

    fn any_probe_key(&self) -> String {
        self.access.needs.as_ref().map(|needs| needs.key()).unwrap_or_default()
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
                let key = Arc::new(ProbeKey::new(self.any_probe_key()));
                let connector = self.connector(&address, key);
                let mut connection = connector.connect().await?.connection;
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
        let connected = map.servers.iter().filter(|(_, server)| server.is_connected());
        let mut connected: Vec<_> = connected.collect();
        // They still come before unconnected nodes: one of those that hangs
        // would delay a map that all agree on.
        connected.sort_by_key(|(address, server)| {
            doubted.contains(*address) || server.check_reading().is_err()
        });
        let mut in_turn: Vec<_> = connected
            .into_iter()
            .map(|(address, server)| (address.clone(), Some(Arc::clone(server))))
            .collect();
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
        map.nodes = ranges.iter().flat_map(Range::nodes).cloned().collect();
        let mut probe_keys = BTreeMap::new();
        for range in &ranges {
            let slots = holders.get_mut(range.first..=range.last).ok_or(Failure::Absurd)?;
            let Some(primary) = &range.primary else { continue };
            let known = servers.get(primary).or_else(|| map.servers.get(primary)).cloned();
            let server = known.unwrap_or_else(|| Arc::new(self.start(&mut map, primary)));
            servers.insert(primary.clone(), Arc::clone(&server));
            if !probe_keys.contains_key(primary) {
                let key = self.probe_key(&mut map, primary);
                if !(range.first..=range.last).contains(&slot(&key.get())) {
                    key.set(key_within(&self.any_probe_key(), range.first, range.last));
                }
                probe_keys.insert(primary.clone(), key);
            }
            if range.first == 0 {
                self.time.follow(primary.clone());
            }
            slots.fill(Some(server));
        }
        let mut told: Vec<_> = ranges.iter().map(Range::to_string).collect();
        told.sort_unstable();
        map.number = number_of(told.concat().as_bytes());
        map.primaries = servers.values().cloned().collect();
        map.servers = servers;
        map.probe_keys = probe_keys;
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
