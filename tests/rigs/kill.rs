//! kill -9, again and again, on one data directory.
//!
//! Each round starts the built daemon, lets clients work, and kills it at a random moment:
//! during the load, during a clean stop, or (before the next round) while it opens its data. In
//! the next round the daemon must open the data again, and everything that was acknowledged
//! must be there: see [`model`].

mod clients;
mod model;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rustix::process::Signal;
use sessiond::{
    session::{
        clock::Moment,
        record::Principal,
        store::{Certainty, Store},
    },
    store::sled::{Durability, SledDatabase, SledOptions},
};

use self::{
    clients::{Client, Common},
    model::Tally,
};
use crate::{
    rig::{Form, report},
    support::program::{Program, sessiond},
};

/// The number of clients that work at the same time, each over its own connection.
const CLIENTS: usize = 16;

/// How a round ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// SIGKILL during the load.
    Killed,
    /// SIGTERM during the load and SIGKILL after this time. The daemon may have stopped by
    /// then.
    KilledWhileStopping(Duration),
    /// SIGTERM during the load, and enough time to stop.
    Stopped,
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_destroyed_is_back() {
    let rounds = Form::of_environment().pick(6, 200, 2000);
    let seed = Form::of_environment().seed();
    let directory = tempfile::tempdir().expect("a scratch folder");
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
    let mut rig = Rig::new(directory.path(), seed);
    let begun = Instant::now();
    for round in 1..=rounds {
        let did = runtime.block_on(rig.round());
        if !rig.tally.violations.is_empty() {
            let kept = directory.keep();
            println!("{}", rig.summary(round));
            panic!(
                "seed {seed}, round {round} ({did}), data kept in {}:\n{}",
                kept.display(),
                rig.tally.violations.join("\n")
            );
        }
        if round % 50 == 0 && round < rounds {
            println!("kill: {}", rig.summary(round));
        }
    }
    let ended = runtime.block_on(rig.finish());
    report(&format!("rig kill: {}; seed {seed}, {:.0?}", rig.summary(rounds), begun.elapsed()));
    assert!(rig.tally.violations.is_empty(), "at the end: {}", rig.tally.violations.join("\n"));
    assert_eq!(ended, Some(0), "expected the last stop to be clean");
}

struct Rig {
    directory: PathBuf,
    random: StdRng,
    clients: Vec<Client>,
    common: Arc<Common>,
    tally: Tally,
    /// The time that the last start needed until its ready line.
    start_took: Duration,
    opened: u64,
    killed_at_start: u64,
    killed_in_stop: u64,
    killed_in_load: u64,
}

impl Rig {
    fn new(directory: &Path, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let clients = (0..CLIENTS).map(|number| Client::new(number, random.random())).collect();
        Self {
            directory: directory.to_owned(),
            random,
            clients,
            common: Arc::new(Common::new(CLIENTS)),
            tally: Tally::default(),
            start_took: Duration::from_millis(100),
            opened: 0,
            killed_at_start: 0,
            killed_in_stop: 0,
            killed_in_load: 0,
        }
    }

    /// Kills a daemon while it opens, then opens, verifies, works, kills. Returns what it did.
    async fn round(&mut self) -> String {
        let kills = if self.random.random_bool(0.4) { self.random.random_range(1..4) } else { 0 };
        for _ in 0..kills {
            self.kill_at_start();
        }
        let program = self.open();
        self.verify(&program, Depth::Sample).await;
        let end = match self.random.random_range(0..10) {
            0 => End::Stopped,
            1..4 => {
                End::KilledWhileStopping(Duration::from_micros(self.random.random_range(0..40_000)))
            }
            _ => End::Killed,
        };
        let load = Duration::from_micros(self.random.random_range(10_000..400_000));
        self.work(program, load, end).await;
        format!("{kills} kills at the start, then {load:?} of load, then {end:?}")
    }

    /// Opens for the last time, verifies everything, and stops cleanly.
    async fn finish(&mut self) -> Option<i32> {
        let program = self.open();
        self.verify(&program, Depth::All).await;
        let ended = program.stop().0;
        self.judge_index().await;
        ended
    }

    /// Checks after all the crashes that the index has an entry for each session and no others.
    async fn judge_index(&mut self) {
        let options = SledOptions {
            path: self.directory.join("data"),
            cache_bytes: 16 << 20,
            flush_interval: Duration::from_secs(1),
            on_damage: sessiond::store::sled::OnDamage::Refuse,
            threads: 2,
            max_pending: 64,
            min_free_bytes: 0,
            write: Durability::Buffered,
            destroy: Durability::Buffered,
            roll: Durability::Buffered,
        };
        let database = SledDatabase::open(options).expect("expected it to open after a clean stop");
        let store = database.store("default").expect("a store");
        // No session is due at time 0, but this completes the cleanup that the daemon had
        // begun.
        store.cleanup(Moment::from_unix_millis(0), usize::MAX).await.expect("the store works");
        let entries = store.index_entries().expect("the entries can be counted").principals;
        let mut listed = 0;
        for client in 0..CLIENTS {
            let name = clients::principal(client);
            let principal = Principal::new(name.as_bytes()).expect("short");
            let records = store
                .list(principal, None, usize::MAX, Certainty::Current)
                .await
                .expect("the store works");
            listed += records.records.len();
        }
        if entries != listed {
            self.tally.violate(format!("{entries} entries in the index for {listed} sessions"));
        }
    }

    fn open(&mut self) -> Program {
        let begun = Instant::now();
        // Some rounds have a small cache, so that reads go to sled.
        let mut arguments = arguments().to_vec();
        if self.random.random_bool(0.5) {
            arguments.push("--set=store.sled.cache_bytes=2MiB");
        }
        // Panics with the daemon's log if the daemon does not open.
        let program = Program::serve_in(&self.directory, &arguments);
        self.start_took = begun.elapsed();
        self.opened += 1;
        program
    }

    /// Starts a daemon and kills it at about the moment when it is ready.
    fn kill_at_start(&mut self) {
        let path = format!("--set=store.sled.path={}", self.directory.join("data").display());
        let secret = "--set=engine.default.cookie.secrets=a-signing-secret-for-tests-long-enough";
        let all = ["serve", "--set=listen.grpc=127.0.0.1:0", path.as_str(), secret];
        let mut command: Command = sessiond(all.into_iter().chain(arguments()));
        command.args(["--set=listen.admin=", "--set=listen.metrics="]);
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it can be run");
        std::thread::sleep(self.start_took.mul_f64(self.random.random_range(0.0..1.3)));
        let early = child.try_wait().expect("the child can be waited for");
        if let Some(status) = early {
            self.tally.violate(format!("a daemon ended by itself while it opened: {status}"));
        }
        let _ = child.kill();
        child.wait().expect("the child can be waited for");
        self.killed_at_start += 1;
    }

    async fn verify(&mut self, program: &Program, depth: Depth) {
        let checks = self.clients.drain(..).map(|mut client| {
            let (common, address) = (self.common.clone(), program.address("grpc").to_owned());
            tokio::spawn(async move {
                let tally = client.verify(&common, &address, depth).await;
                (client, tally)
            })
        });
        for check in checks.collect::<Vec<_>>() {
            let (client, tally) = check.await.expect("expected a check to end without a panic");
            self.clients.push(client);
            self.tally.add(tally);
        }
        let tally = self.common.verify(program.address("grpc")).await;
        self.tally.add(tally);
        for client in &self.clients {
            client.verify_list(program.address("admin"), &mut self.tally).await;
        }
    }

    async fn work(&mut self, mut program: Program, load: Duration, end: End) {
        self.common.begins();
        let clients = self.clients.drain(..).map(|mut client| {
            let (common, address) = (self.common.clone(), program.address("grpc").to_owned());
            let admin = program.address("admin").to_owned();
            tokio::spawn(async move {
                let tally = client.work(&common, &address, &admin).await;
                (client, tally)
            })
        });
        let clients: Vec<_> = clients.collect();
        tokio::time::sleep(load).await;
        // Before the signal, because from then on a failed call is not a fault of the daemon.
        self.common.ends();
        match end {
            End::Killed => {
                program.signal(Signal::KILL);
                self.killed_in_load += 1;
            }
            End::KilledWhileStopping(after) => {
                program.signal(Signal::TERM);
                tokio::time::sleep(after).await;
                program.signal(Signal::KILL);
                self.killed_in_stop += 1;
            }
            End::Stopped => program.signal(Signal::TERM),
        }
        let status = program.wait();
        self.common.gone();
        for client in clients {
            let (client, tally) = client.await.expect("expected a client to end without a panic");
            self.clients.push(client);
            self.tally.add(tally);
        }
        if matches!(end, End::Stopped) && status.code() != Some(0) {
            self.tally.violate(format!("expected a clean stop to end with 0, found {status}"));
        }
        let log = program.log();
        let bad = log.lines().filter(|line| line.contains("ERROR") || line.contains("panicked"));
        for line in bad {
            self.tally.violate(format!("the daemon logged: {line}"));
        }
    }

    fn summary(&self, rounds: u64) -> String {
        let Tally { acknowledged, resolved, lost, back, .. } = &self.tally;
        format!(
            "{rounds} rounds, {} re-opens ({} kills at the start, {} during a stop, {} during the \
             load), {acknowledged} acknowledged operations checked by {resolved} Resolves, {lost} \
             lost, {back} back",
            self.opened, self.killed_at_start, self.killed_in_stop, self.killed_in_load
        )
    }
}

/// How much of the acknowledged state is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// All live sessions, the ended sessions that are not verified yet, and some older ones.
    Sample,
    All,
}

/// The durabilities are the defaults, because the rig tests them. No session expires except the
/// short-lived ones that are made to expire.
fn arguments() -> [&'static str; 2] {
    ["--set=engine.default.duration=30days", "--set=cleanup.interval=200ms"]
}
