//! Real Redis servers on free ports, which end when their handles are dropped.
//!
//! A machine without `redis-server` skips the tests that need one, with a message on stderr.
//! With SESSIOND_TEST_REQUIRE_REDIS=1, as in CI, the test fails instead.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use sessiond::store::redis::{Login, RedisOptions, Source};

use super::program::PATIENCE;

const REQUIRE: &str = "SESSIOND_TEST_REQUIRE_REDIS";

static MISSING: LazyLock<Option<String>> = LazyLock::new(|| {
    let asked = Command::new("redis-server").arg("--version").output();
    asked.err().map(|error| format!("redis-server cannot be run: {error}"))
});

/// True, with a message on stderr, if there is no `redis-server`.
pub(crate) fn is_missing() -> bool {
    let Some(why) = &*MISSING else { return false };
    assert!(std::env::var_os(REQUIRE).is_none(), "{REQUIRE} is set, and {why}");
    eprintln!("skipped: {why}");
    true
}

/// Options with long timeouts, for busy machines.
pub(crate) fn options(url: &str, key_prefix: &str) -> RedisOptions {
    RedisOptions {
        url: url.parse().expect("a URL"),
        login: Login::default(),
        sentinel_login: Login::default(),
        tls: Source::default(),
        key_prefix: key_prefix.to_owned(),
        timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(5),
        connections: 1,
        max_pending: 1000,
        expiry_grace: Duration::from_secs(3600),
        record_layout: sessiond::store::codec::Layout::LATEST,
        wait: None,
    }
}

/// A Redis server with its own data.
pub(crate) struct RedisServer {
    child: Option<Child>,
    pub host: &'static str,
    pub port: u16,
    arguments: Vec<String>,
    sentinel: bool,
    directory: tempfile::TempDir,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a server with these arguments, such as `--maxmemory 10mb`. `{port}` is its port.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        Self::on_a_free_port(arguments, None)
    }

    /// Starts a Sentinel with this configuration.
    pub(crate) fn sentinel(configuration: &str) -> Self {
        Self::on_a_free_port(&[], Some(configuration))
    }

    fn on_a_free_port(arguments: &[&str], sentinel: Option<&str>) -> Self {
        let mut server = Self::new(LOCALHOST, arguments, sentinel);
        // Somebody else may take the port in between: another one, then.
        for _ in 0..20 {
            server.port = free_port();
            if server.run() {
                return server;
            }
        }
        panic!("expected redis-server to start: {}", server.log());
    }

    fn new(host: &'static str, arguments: &[&str], sentinel: Option<&str>) -> Self {
        let directory = tempfile::tempdir().expect("a scratch folder");
        if let Some(configuration) = sentinel {
            let path = directory.path().join("sentinel.conf");
            std::fs::write(path, configuration).expect("the scratch folder can be written");
        }
        Self {
            child: None,
            host,
            port: 0,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            sentinel: sentinel.is_some(),
            directory,
        }
    }

    /// Whether it came up.
    fn run(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        if self.sentinel {
            command.arg(self.directory.path().join("sentinel.conf")).arg("--sentinel");
        } else {
            command.args(["--save", "", "--enable-debug-command", "yes"]);
        }
        command.args(["--port", &self.port.to_string(), "--bind", self.host]);
        command.arg("--dir").arg(self.directory.path());
        let port = self.port.to_string();
        command.args(self.arguments.iter().map(|argument| argument.replace("{port}", &port)));
        if self.arguments.iter().any(|argument| argument == "--cluster-enabled") {
            command.args(["--cluster-port", &free_port().to_string()]);
            // Loopback connections all come from the same address, by which nodes would know
            // each other.
            command.args(["--cluster-announce-ip", self.host]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server can be run");
        let stdout = child.stdout.take().expect("stdout is piped");
        let log = self.directory.path().join("log");
        let mut log = std::fs::File::options().append(true).create(true).open(log).expect("a log");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let ready = lines.by_ref().any(|line| {
            let _ = writeln!(log, "{line}");
            line.contains("Ready to accept connections") || line.contains("+monitor master")
        });
        // A process blocks if nobody reads its pipe.
        std::thread::spawn(move || {
            for line in lines {
                let _ = writeln!(log, "{line}");
            }
        });
        self.child = Some(child);
        if !ready {
            self.kill();
        }
        ready
    }

    /// The output of the server.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Makes it refuse changes with MISCONF: it fails to save its data, because a folder has
    /// the name of the file.
    pub(crate) fn fail_to_save(&self) {
        let dump = self.directory.path().join("dump.rdb");
        let _ = std::fs::remove_file(&dump);
        std::fs::create_dir_all(dump.join("in the way")).expect("the scratch folder is writable");
        self.ask(&["CONFIG", "SET", "save", "3600 1000000"]);
        self.ask(&["BGSAVE"]);
        self.wait_for(&["INFO", "persistence"], "rdb_last_bgsave_status:err");
    }

    /// Ends what [`fail_to_save`](Self::fail_to_save) began.
    pub(crate) fn save_again(&self) {
        std::fs::remove_dir_all(self.directory.path().join("dump.rdb")).expect("it is there");
        self.ask(&["BGSAVE"]);
        self.wait_for(&["INFO", "persistence"], "rdb_last_bgsave_status:ok");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the server was started");
        kill_process(Pid::from_child(child), signal).expect("the server is there");
    }

    /// Kills it with SIGKILL and waits until it has ended.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let since = Instant::now();
        while !self.run() {
            assert!(since.elapsed() < PATIENCE, "expected it to start again: {}", self.log());
        }
    }

    /// Sends a command and returns the raw answer.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let answer = ask_octets_of(self.host, self.port, &[&octets(words)]);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The same after a login with this password.
    pub(crate) fn ask_with(&self, password: &str, words: &[&str]) -> String {
        let commands = [&octets(&["AUTH", password])[..], &octets(words)];
        let answer = ask_octets_of(self.host, self.port, &commands);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        answer.strip_prefix("+OK\r\n").expect("the password is right").to_owned()
    }

    /// How often it ran a command, including commands from its primary.
    pub(crate) fn calls(&self, command: &str) -> u32 {
        let stats = self.ask(&["INFO", "commandstats"]);
        let start = format!("cmdstat_{command}:calls=");
        let count =
            stats.lines().find_map(|line| line.strip_prefix(start.as_str())?.split(',').next());
        count.map_or(0, |count| count.parse().expect("a number"))
    }

    /// Repeats a command until its answer contains `expected`.
    pub(crate) fn wait_for(&self, words: &[&str], expected: &str) {
        let since = Instant::now();
        loop {
            let answer = self.ask(words);
            if answer.contains(expected) {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{words:?}: expected {expected:?} in {answer:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

const LOCALHOST: &str = "127.0.0.1";

/// Not one of those that Linux gives to whoever asks for any (32768 and up). So no other test takes
/// it while its server is away.
fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind((LOCALHOST, *port)).is_ok();
    let mut ports = std::iter::repeat_with(|| rand::random_range(10_000..30_000));
    ports.find(free).expect("a free port")
}

/// A command in the protocol's own words, so that no client of ours is trusted.
pub(crate) fn ask_octets(port: u16, words: &[&[u8]]) -> Vec<u8> {
    ask_octets_of(LOCALHOST, port, &[words])
}

fn octets<'a>(words: &[&'a str]) -> Vec<&'a [u8]> {
    words.iter().map(|word| word.as_bytes()).collect()
}

fn ask_octets_of(host: &str, port: u16, commands: &[&[&[u8]]]) -> Vec<u8> {
    let mut stream = TcpStream::connect((host, port)).expect("redis is there");
    let mut request = Vec::new();
    for words in commands {
        request.extend(format!("*{}\r\n", words.len()).into_bytes());
        for word in *words {
            request.extend(format!("${}\r\n", word.len()).into_bytes());
            request.extend_from_slice(word);
            request.extend(b"\r\n");
        }
    }
    stream.write_all(&request).expect("redis takes it");
    // The server answers, and then sees the end of the requests.
    stream.shutdown(Shutdown::Write).expect("the connection is there");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// A cluster of its own: first the primaries, then `replicas` replicas for each.
pub(crate) struct RedisCluster {
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    pub(crate) fn start(primaries: usize, replicas: usize) -> Self {
        Self::with(primaries, replicas, &[])
    }

    pub(crate) fn with(primaries: usize, replicas: usize, arguments: &[&str]) -> Self {
        let all = Self::arguments(arguments);
        let count = primaries * (1 + replicas);
        let nodes = (0..count).map(|_| RedisServer::with(&all)).collect();
        Self::of(nodes, primaries, replicas)
    }

    /// Three primaries that share a port, each on an address of its own, as on machines of
    /// their own.
    pub(crate) fn on_one_port(arguments: &[&str]) -> Self {
        let all = Self::arguments(arguments);
        // Somebody else may have the port at one of the addresses: another one, then.
        for _ in 0..20 {
            let port = free_port();
            let mut nodes: Vec<_> = [LOCALHOST, "127.0.0.2", "127.0.0.3"]
                .map(|host| {
                    let mut node = RedisServer::new(host, &all, None);
                    node.port = port;
                    node
                })
                .into();
            if nodes.iter_mut().all(RedisServer::run) {
                return Self::of(nodes, 3, 0);
            }
        }
        panic!("expected a port that is free at three addresses");
    }

    fn arguments<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
        let cluster =
            "--cluster-enabled yes --cluster-node-timeout 1000 --repl-diskless-sync-delay 0";
        cluster.split(' ').chain(arguments.iter().copied()).collect()
    }

    fn of(nodes: Vec<RedisServer>, primaries: usize, replicas: usize) -> Self {
        let count = nodes.len();
        let mut command = Command::new("redis-cli");
        command.args(["--cluster", "create"]);
        command.args(nodes.iter().map(RedisServer::address));
        command.args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"]);
        let output = command.output().expect("redis-cli can be run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "expected a cluster: {text}");
        let cluster = Self { nodes };
        for node in &cluster.nodes {
            node.wait_for(&["CLUSTER", "INFO"], "cluster_state:ok");
            node.wait_for(&["CLUSTER", "INFO"], &format!("cluster_known_nodes:{count}"));
        }
        // A replica that never received its primary's data does not take over.
        for replica in &cluster.nodes[primaries..] {
            replica.wait_for(&["INFO", "replication"], "master_link_status:up");
        }
        cluster
    }

    /// Moves the slot of `key`, and the key itself, from one node to another.
    pub(crate) fn move_slot(&self, key: &str, from: &RedisServer, to: &RedisServer) {
        let slot = to.ask(&["CLUSTER", "KEYSLOT", key]);
        let slot = slot.trim().trim_start_matches(':');
        let id = |node: &RedisServer| {
            node.ask(&["CLUSTER", "MYID"]).lines().nth(1).expect("an id").to_owned()
        };
        let (from_id, to_id) = (id(from), id(to));
        to.ask(&["CLUSTER", "SETSLOT", slot, "IMPORTING", &from_id]);
        from.ask(&["CLUSTER", "SETSLOT", slot, "MIGRATING", &to_id]);
        let moved = from.ask(&["MIGRATE", to.host, &to.port.to_string(), key, "0", "5000"]);
        assert_eq!(moved, "+OK\r\n", "{key} moves");
        for node in &self.nodes {
            assert_eq!(node.ask(&["CLUSTER", "SETSLOT", slot, "NODE", &to_id]), "+OK\r\n");
        }
    }

    pub(crate) fn url(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(RedisServer::address).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }
}
