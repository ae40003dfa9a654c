//! Redis for comparison, used as connect-redis uses it.
//!
//! A read is GETEX with the duration of the session, a write is SET with EX. `redis-benchmark`
//! makes the load. The number of commands, and that no command missed its key, are read from
//! the server.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::{
    Problem,
    machine::{Process, has},
};

use super::rows::Sample;

const SERVER: &str = "redis-server";
const GENERATOR: &str = "redis-benchmark";
/// 30 minutes, the duration of the daemon's sessions.
const LIFE_SECONDS: &str = "1800";
const IN_FLIGHT: &str = "64";
/// The commands of the warm-up. Its rate decides how many commands the measurement needs.
const WARM_UP: u64 = 40_000;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RedisCommand {
    Getex,
    Set,
}

impl RedisCommand {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Getex => "getex",
            Self::Set => "set",
        }
    }
}

pub(crate) struct Redis {
    process: Process,
    port: u16,
    /// The connection for questions to the server.
    stream: BufReader<TcpStream>,
    data: String,
    keys: usize,
}

/// What these rows need and this machine lacks, if anything.
pub(crate) fn missing() -> Option<String> {
    let missing = [SERVER, GENERATOR].into_iter().find(|program| !has(program))?;
    Some(format!("{missing} is not on the PATH: the rows with Redis are left out"))
}

impl Redis {
    /// Starts a server with this many keys, and waits until it serves.
    pub(crate) fn start(
        cores: &[usize],
        directory: &Path,
        keys: usize,
        data: &str,
    ) -> Result<Self, Problem> {
        // It does not accept port 0. Another program may take this port first. Then the server
        // ends, and `version` notices.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = free.map_err(|error| error.to_string())?.port();
        let mut serve = Command::new(SERVER);
        serve.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        serve.args(["--save", "", "--appendonly", "no", "--dir"]).arg(directory);
        serve.stdin(Stdio::null()).stdout(Stdio::null());
        let process = Process::spawn(serve, cores)?;
        let until = Instant::now() + Duration::from_secs(10);
        let stream = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break BufReader::new(stream),
                Err(error) if Instant::now() > until => {
                    return Err(format!("{SERVER} does not answer on port {port}: {error}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut redis = Self { process, port, stream, data: data.to_owned(), keys };
        redis.fill()?;
        Ok(redis)
    }

    /// The URL for `store.redis.url`.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn version(&mut self) -> Result<String, Problem> {
        let info = self.info("server")?;
        if !info.contains(&format!("process_id:{}\r\n", self.process.id())) {
            return Err(format!("another Redis answers on port {}; try again", self.port));
        }
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        Ok(version.unwrap_or("unknown version").to_owned())
    }

    /// Writes every key that the generator may use.
    fn fill(&mut self) -> Result<(), Problem> {
        for key in 0..self.keys {
            // The key format of redis-benchmark.
            let key = format!("key:{key:012}");
            let data = self.data.clone();
            let answer = self.ask(&["SET", &key, &data, "EX", LIFE_SECONDS])?;
            if answer != "OK" {
                return Err(format!("expected Redis to store a key, found {answer}"));
            }
        }
        Ok(())
    }

    pub(crate) fn measure(
        &mut self,
        command: RedisCommand,
        pipelined: bool,
        wanted: Duration,
        cores: &[usize],
    ) -> Result<Sample, Problem> {
        let first = self.load(command, pipelined, WARM_UP, cores)?;
        let count = first.per_second * wanted.as_secs_f64();
        self.load(command, pipelined, (count as u64).max(WARM_UP), cores)
    }

    fn load(
        &mut self,
        command: RedisCommand,
        pipelined: bool,
        count: u64,
        cores: &[usize],
    ) -> Result<Sample, Problem> {
        let (clients, pipeline) = if pipelined { ("1", IN_FLIGHT) } else { (IN_FLIGHT, "1") };
        let mut load = Command::new(GENERATOR);
        load.args(["-p", &self.port.to_string(), "-c", clients, "-P", pipeline, "-q"]);
        load.args(["-n", &count.to_string(), "-r", &self.keys.to_string()]);
        match command {
            RedisCommand::Getex => load.args(["GETEX", "key:__rand_int__", "EX", LIFE_SECONDS]),
            RedisCommand::Set => {
                load.args(["SET", "key:__rand_int__", &self.data, "EX", LIFE_SECONDS])
            }
        };
        load.stdin(Stdio::null()).stdout(Stdio::null());
        let before = (self.calls(command)?, self.misses()?, self.process.cpu_time()?);
        let started = Instant::now();
        let mut process = Process::spawn(load, cores)?;
        let ended = process.child().wait().map_err(|error| error.to_string())?;
        let seconds = started.elapsed().as_secs_f64();
        let cpu = self.process.cpu_time()?.saturating_sub(before.2);
        let operations = self.calls(command)?.saturating_sub(before.0);
        if !ended.success() || operations < count {
            return Err(format!("{GENERATOR}: {ended}, {operations} of {count} commands"));
        }
        let misses = self.misses()?.saturating_sub(before.1);
        // A daemon on this Redis looks for keys that are not there, to see what it may do.
        if misses > operations / 1000 {
            return Err(format!(
                "{misses} of {operations} commands found no key; expected all to be there"
            ));
        }
        Ok(Sample::new(operations, cpu, seconds))
    }

    /// How often this command ran since the start.
    fn calls(&mut self, command: RedisCommand) -> Result<u64, Problem> {
        let name = format!("cmdstat_{}:calls=", command.name());
        self.figure("commandstats", &name)
    }

    fn misses(&mut self) -> Result<u64, Problem> {
        self.figure("stats", "keyspace_misses:")
    }

    /// 0 if the section has no such figure.
    fn figure(&mut self, section: &str, name: &str) -> Result<u64, Problem> {
        let info = self.info(section)?;
        let digits = info.lines().find_map(|line| line.strip_prefix(name));
        let digits = digits.and_then(|text| text.split([',', '\r']).next()).unwrap_or("0");
        digits.parse().map_err(|_| format!("expected a count after {name}, found {digits}"))
    }

    fn info(&mut self, section: &str) -> Result<String, Problem> {
        self.ask(&["INFO", section])
    }

    fn ask(&mut self, command: &[&str]) -> Result<String, Problem> {
        let mut ask = || {
            let mut request = format!("*{}\r\n", command.len());
            for part in command {
                request += &format!("${}\r\n{part}\r\n", part.len());
            }
            self.stream.get_mut().write_all(request.as_bytes())?;
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let line = line.trim_end();
            let Some(len) = line.strip_prefix('$').and_then(|len| len.parse::<usize>().ok()) else {
                return Ok(line.trim_start_matches('+').to_owned());
            };
            let mut text = vec![0; len + "\r\n".len()];
            self.stream.read_exact(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        ask().map_err(|error: std::io::Error| format!("Redis does not answer: {error}"))
    }
}
