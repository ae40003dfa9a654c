//! What the daemon needs of a server: the commands, the permissions and that it takes
//! changes. It is tried out on a key that nobody has, so that nothing changes.
//!
//! | when | what is sent |
//! |---|---|
//! | at a connection, every 10 s, after a refusal, and while something is missing | each command once |
//! | every second | one command that writes |
//!
//! The log says what is missing when that begins and when it ends, once for all connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use redis::{
    Cmd, Pipeline, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use tokio::sync::watch;

use super::failure::{Failure, answer};

/// What a server is tried out for, and what was found, for all connections to it and to the
/// others.
pub(super) struct Needs {
    key_prefix: String,
    /// Changes wait for replicas.
    waits: bool,
    /// A server had all that is needed, since the start.
    was_met: AtomicBool,
    /// The number of refusals that may be for lack of something.
    refusals: watch::Sender<u64>,
    /// What is missing, and on how many connections. The log has told of each.
    told: Mutex<BTreeMap<Lack, usize>>,
    has_warned_of_eviction: AtomicBool,
}

/// What is missing at a server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lack {
    text: String,
    /// Records can be read all the same.
    pub reads: bool,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A script that nobody has stored: EVALSHA is refused with NOSCRIPT where it is allowed.
const NO_SCRIPT: &str = "0000000000000000000000000000000000000000";

impl Needs {
    pub(super) fn new(key_prefix: &str, waits: bool) -> Self {
        Self {
            key_prefix: key_prefix.to_owned(),
            waits,
            was_met: AtomicBool::new(false),
            refusals: watch::Sender::new(0),
            told: Mutex::default(),
            has_warned_of_eviction: AtomicBool::new(false),
        }
    }

    /// Has all servers tried out, unless the refusal belongs to one key or to one moment.
    pub(super) fn heed(&self, why: &Failure) {
        let usual = ["NOSCRIPT", "MOVED", "ASK", "TRYAGAIN", "WRONGTYPE", "OOM"];
        if why.is_refused() && !why.is_refused_as(&usual) {
            self.refusals.send_modify(|refusals| *refusals += 1);
        }
    }

    /// Changes when the servers are to be tried out.
    pub(super) fn refusals(&self) -> watch::Receiver<u64> {
        self.refusals.subscribe()
    }

    /// Whether a server had all that is needed, since the start. Before that, the daemon
    /// never worked, so it must not count as one that still reads.
    pub(super) fn were_met(&self) -> bool {
        self.was_met.load(Ordering::Relaxed)
    }

    /// Logs it once, however many connections find it.
    pub(super) fn warn_of_eviction(&self, policy: &str) {
        if !self.has_warned_of_eviction.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                policy,
                "redis may evict live sessions when its memory is full; set maxmemory-policy noeviction"
            );
        }
    }

    /// The key on which a server is tried out. Nobody has it.
    pub(super) fn key(&self) -> String {
        format!("{}:probe", self.key_prefix)
    }

    /// A command that writes, on a key that nobody has.
    pub(super) fn write(key: &str) -> Cmd {
        let mut cmd = redis::cmd("DEL");
        cmd.arg(key);
        cmd
    }

    /// Every command that the store sends or that its scripts call, on a key that nobody has.
    /// Without the key they all change nothing. The first one reads.
    fn all(&self, key: &str, is_node: bool) -> (Pipeline, Vec<&'static str>) {
        let on_key: [(&str, &[&str]); 15] = [
            ("get", &[]),
            ("getrange", &["0", "0"]),
            ("pttl", &[]),
            ("set", &["", "XX"]),
            ("setrange", &["0", ""]),
            ("pexpire", &["1"]),
            ("del", &[]),
            ("zadd", &["XX", "0", ""]),
            ("zrem", &[""]),
            ("zremrangebylex", &["-", "+"]),
            ("zrangebylex", &["-", "+"]),
            ("zrandmember", &[]),
            ("eval", &[]),
            ("evalsha", &[]),
            ("time", &[]),
        ];
        let (mut commands, mut names) = (redis::pipe(), Vec::new());
        for (name, arguments) in on_key {
            let cmd = commands.cmd(name);
            match name {
                "eval" => cmd.arg("return 1").arg(1).arg(key),
                "evalsha" => cmd.arg(NO_SCRIPT).arg(1).arg(key),
                "time" => cmd,
                _ => cmd.arg(key).arg(arguments),
            };
            names.push(name);
        }
        if self.waits {
            commands.cmd("wait").arg(0).arg(0);
            names.push("wait");
        }
        if is_node {
            commands.cmd("asking");
            names.push("asking");
        }
        (commands, names)
    }

    /// Tries all that is needed. Fails if the connection is of no use: it is lost, or the
    /// server is a replica or has not loaded its data.
    ///
    /// `is_node`: it is a node of a cluster, which may not hold the slot of the key.
    pub(super) async fn try_out(
        &self,
        connection: &mut MultiplexedConnection,
        key: &str,
        is_node: bool,
    ) -> Result<Option<Lack>, Failure> {
        let (commands, names) = self.all(key, is_node);
        let answers = connection.req_packed_commands(&commands, 0, names.len()).await?;
        let mut found = Found::default();
        for (name, answered) in names.into_iter().zip(answers) {
            found.take(name, answered, is_node)?;
        }
        let lack = found.into_lack();
        if lack.is_none() {
            self.was_met.store(true, Ordering::Relaxed);
        }
        Ok(lack)
    }
}

/// What trying out has found.
#[derive(Default)]
struct Found {
    /// Commands that the user may not send.
    denied: BTreeSet<&'static str>,
    /// The user may not use our keys.
    keys_are_denied: bool,
    /// The first refusal that has nothing to do with the user.
    refused: Option<Failure>,
    cannot_read: bool,
}

impl Found {
    fn take(&mut self, name: &'static str, told: Value, is_node: bool) -> Result<(), Failure> {
        let Err(why) = answer(told) else { return Ok(()) };
        let Failure::Refused { code, text } = &why else { return Err(why) };
        match code.as_str() {
            // Full memory is told when a change meets it. NOSCRIPT and WRONGTYPE come after
            // everything that is tried out here.
            "NOSCRIPT" | "OOM" | "WRONGTYPE" => return Ok(()),
            // The slot has moved, or is being moved.
            "MOVED" | "ASK" | "TRYAGAIN" if is_node => return Ok(()),
            "READONLY" | "LOADING" | "MASTERDOWN" | "MOVED" | "NOAUTH" => return Err(why),
            "CLUSTERDOWN" if !is_node => return Err(why),
            "NOPERM" if text.contains(&format!("'{name}'")) => {
                self.denied.insert(name);
            }
            "NOPERM" => self.keys_are_denied = true,
            _ => {
                self.refused.get_or_insert(why);
            }
        }
        self.cannot_read |= name == "get";
        Ok(())
    }

    fn into_lack(self) -> Option<Lack> {
        let reads = !self.cannot_read;
        let mut problems = Vec::new();
        if !self.denied.is_empty() {
            let denied: Vec<_> = self.denied.iter().map(|name| format!("+{name}")).collect();
            problems.push(format!("the user lacks {}", denied.join(" ")));
        }
        if self.keys_are_denied {
            problems.push("the user may not use the keys ~KEY_PREFIX:*".to_owned());
        }
        if let Some(why) = self.refused {
            problems.push(if reads {
                format!("it takes no changes: {why}")
            } else {
                why.to_string()
            });
        }
        (!problems.is_empty()).then(|| Lack { text: problems.join("; "), reads })
    }
}

/// What one connection lacks, as the log has told.
pub(super) struct Told {
    needs: Arc<Needs>,
    lack: Option<Lack>,
}

impl Told {
    pub(super) fn nothing(needs: Arc<Needs>) -> Self {
        Self { needs, lack: None }
    }

    /// Logs `lack` if no connection has had it so far, and logs that all is well if it was
    /// the last one that something was missing for.
    pub(super) fn found(&mut self, lack: Option<&Lack>, server: &dyn fmt::Display) {
        if self.lack.as_ref() == lack {
            return;
        }
        let mut told = self.needs.told.lock();
        let had_some = forget(&mut told, self.lack.take());
        if let Some(lack) = lack {
            let count = told.entry(lack.clone()).or_default();
            *count += 1;
            if *count == 1 {
                tracing::error!(%server, "redis refuses what the daemon needs: {lack}");
            }
            self.lack = Some(lack.clone());
        } else if had_some && told.is_empty() {
            tracing::info!(%server, "redis gives the daemon all that it needs again");
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        forget(&mut self.needs.told.lock(), self.lack.take());
    }
}

/// Whether there was something to forget.
fn forget(told: &mut BTreeMap<Lack, usize>, lack: Option<Lack>) -> bool {
    let Some(lack) = lack else { return false };
    if let Some(count) = told.get_mut(&lack) {
        *count -= 1;
        if *count == 0 {
            told.remove(&lack);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(lines: &[(&'static str, &str)], is_node: bool) -> Result<Option<Lack>, Failure> {
        let mut found = Found::default();
        for (name, line) in lines {
            let told = redis::parse_redis_value(format!("{line}\r\n").as_bytes());
            found.take(name, told.expect("an answer"), is_node)?;
        }
        Ok(found.into_lack())
    }

    fn text(lines: &[(&'static str, &str)]) -> (String, bool) {
        let lack = found(lines, false).expect("the connection is of use").expect("a lack");
        (lack.to_string(), lack.reads)
    }

    const NO_SET: &str = "-NOPERM this user has no permissions to run the 'set' command";
    const NO_GET: &str = "-NOPERM User app has no permissions to run the 'get' command";
    const NO_KEY: &str =
        "-NOPERM this user has no permissions to access one of the keys used as arguments";

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(found(&[("get", "$-1"), ("evalsha", "-NOSCRIPT none")], false).ok(), Some(None));
        assert_eq!(text(&[("get", "$-1"), ("set", NO_SET)]), ("the user lacks +set".into(), true));
        let all = [("set", NO_SET), ("get", NO_GET)];
        assert_eq!(text(&all), ("the user lacks +get +set".into(), false));
        let keys = "the user may not use the keys ~KEY_PREFIX:*".to_owned();
        assert_eq!(text(&[("get", NO_KEY), ("set", NO_KEY)]), (keys, false));
        let (told, reads) = text(&[("get", "$-1"), ("set", "-NOREPLICAS Not enough")]);
        assert!(told.starts_with("it takes no changes: ") && reads, "{told}");
        let (told, reads) = text(&[("get", "-BUSY a script"), ("set", "-BUSY a script")]);
        assert!(told.contains("BUSY") && !told.contains("changes") && !reads, "{told}");
    }

    #[test]
    fn a_server_that_is_of_no_use_is_left() {
        for line in ["-LOADING its data", "-READONLY a replica", "-MOVED 1 a:1"] {
            assert!(found(&[("get", line)], false).is_err(), "{line}");
        }
        assert_eq!(found(&[("get", "-MOVED 1 a:1")], true).ok(), Some(None), "another's slot");
        let down = found(&[("get", "-CLUSTERDOWN it is down")], true).expect("it may come back");
        assert!(!down.expect("a lack").reads);
    }
}
