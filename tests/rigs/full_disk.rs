//! A disk that is full, for real: the program's data on a small file system of
//! its own, which fills up slowly by what clients store and by a file of somebody
//! else's, and then at once.
//!
//! Held to: with little space left, what takes more is refused as STORE_FULL and
//! nothing else is; what is left of the floor stays; it goes on by itself when
//! space returns. When all the space is taken at once the store may fail, and
//! then says so. Whatever happens, no call takes longer than its deadline, and
//! what was acknowledged is there after a kill.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use self::clients::{Client, Common, DEADLINE, Phase};
use crate::{
    rig::{Form, report},
    support::{
        small_disk::SmallDisk,
        victim::{Ended, PATIENCE, Setup, Victim},
    },
};

mod clients;

const REQUIRE: &str = "SESSIOND_TEST_REQUIRE_FULL_DISK";

const MIB: u64 = 1 << 20;
const DISK_BYTES: u64 = 96 * MIB;
const FLOOR_BYTES: u64 = 32 * MIB;
/// Of the floor, so much is there to stay, whatever goes on.
const LEAST_BYTES: u64 = FLOOR_BYTES / 4;
const SETTINGS: [&str; 6] = [
    "--set=store.sled.min_free_bytes=32MiB",
    // A disk that is full has to be told from one that has damaged something.
    "--set=store.sled.on_damage=quarantine",
    // So that nearly each touch writes.
    "--set=engine.default.duration=30days",
    "--set=engine.default.touch_granularity=1ms",
    "--set=store.sled.cache_bytes=4MiB",
    "--set=cleanup.interval=1s",
];

const CLIENTS: u64 = 8;

struct Rig {
    disk: SmallDisk,
    common: Arc<Common>,
    clients: Vec<Client>,
    /// The least that was free while all but the floor was taken.
    least_free_bytes: u64,
    closed: u64,
    refused_starts: u64,
}

impl Rig {
    fn start(&self) -> Result<Victim, Ended> {
        let setup = Setup { root: self.disk.path(), settings: &SETTINGS, log: None, fault: None };
        Victim::start(&setup)
    }

    /// Runs the clients beside `meanwhile`, and ends the daemon with SIGKILL.
    async fn run(&mut self, victim: Victim, meanwhile: impl AsyncFnOnce(&mut Self, &Victim)) {
        self.common.ending.store(false, Ordering::SeqCst);
        let clients: Vec<_> = self
            .clients
            .drain(..)
            .map(|client| {
                tokio::spawn(client.work(victim.address.clone(), Arc::clone(&self.common)))
            })
            .collect();
        meanwhile(self, &victim).await;
        self.common.ending.store(true, Ordering::SeqCst);
        drop(victim);
        for client in clients {
            self.clients.push(client.await.expect("a client ends without a panic"));
        }
    }

    async fn verify(&mut self) {
        let victim = match self.start() {
            Ok(victim) => victim,
            Err(ended) => panic!("it should open again: {:?} {}", ended.status, ended.log),
        };
        self.common.ending.store(false, Ordering::SeqCst);
        let clients: Vec<_> = self
            .clients
            .drain(..)
            .map(|client| {
                tokio::spawn(client.verify(victim.address.clone(), Arc::clone(&self.common)))
            })
            .collect();
        for client in clients {
            self.clients.push(client.await.expect("a client ends without a panic"));
        }
        let ended = victim.stop();
        assert_eq!(ended.status.and_then(|status| status.code()), Some(0), "{}", ended.log);
        self.judge();
    }

    fn judge(&self) {
        let quarantine = self.disk.path().join("data/quarantine");
        assert!(!Path::new(&quarantine).exists(), "a full disk is no damage");
        let findings = self.common.findings.lock().expect("no panic");
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }

    /// Space goes slowly, and stays at the floor for a while.
    async fn fill_slowly(&mut self, at_the_floor: Duration) {
        self.disk.relieve();
        let victim = self.start().expect("it starts while there is space");
        self.common.enter(Phase::Filling);
        let before = self.common.refused.load(Ordering::SeqCst);
        self.run(victim, async |rig, _| {
            let common = Arc::clone(&rig.common);
            let begun = Instant::now();
            // The clients do a part of it, and the ballast the rest.
            while common.refused.load(Ordering::SeqCst) < before + 100 {
                assert!(begun.elapsed() < PATIENCE * 2, "creations should be refused by now");
                let above = 12 * MIB * (4000 - begun.elapsed().as_millis().min(4000) as u64) / 4000;
                if rig.disk.free_bytes() > FLOOR_BYTES + above {
                    rig.disk.leave(FLOOR_BYTES + above);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // Somebody takes nearly half of the floor, too; touches, which make
            // the log grow, take a bit more, and then only destroys go on.
            rig.disk.leave(FLOOR_BYTES / 2 + 2 * MIB);
            common.enter(Phase::Full);
            let begun = Instant::now();
            while begun.elapsed() < at_the_floor {
                rig.least_free_bytes = rig.least_free_bytes.min(rig.disk.free_bytes());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // By itself.
            rig.disk.relieve();
            common.enter(Phase::Filling);
            let created = common.created.load(Ordering::SeqCst);
            let begun = Instant::now();
            while common.created.load(Ordering::SeqCst) < created + 50 {
                assert!(begun.elapsed() < PATIENCE, "creations should be taken by now");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        self.verify().await;
        assert!(
            self.least_free_bytes >= LEAST_BYTES,
            "expected {LEAST_BYTES} bytes of the floor of {FLOOR_BYTES} to stay, found {}",
            self.least_free_bytes
        );
    }

    /// All the space goes at once.
    async fn fill_at_once(&mut self, load: Duration) {
        let victim = self.start().expect("it starts while there is space");
        let before = self.common.failed.load(Ordering::SeqCst);
        self.common.enter(Phase::Nothing);
        self.run(victim, async |rig, _| {
            tokio::time::sleep(load / 4).await;
            let begun = Instant::now();
            while begun.elapsed() < load {
                // Whatever comes free is taken, too.
                rig.disk.leave(0);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        self.closed += u64::from(self.common.failed.load(Ordering::SeqCst) > before);
        // It may start without space, or say why not.
        match self.start() {
            Ok(victim) => drop(victim),
            Err(ended) => {
                self.refused_starts += 1;
                let code = ended.status.and_then(|status| status.code());
                assert_eq!(code, Some(1), "{}", ended.log);
                assert!(!ended.log.contains("damaged"), "a full disk is no damage: {}", ended.log);
            }
        }
        self.judge();
        self.disk.relieve();
        self.common.enter(Phase::Filling);
        self.verify().await;
    }

    /// So that the next round has room again.
    fn forget(&mut self) {
        self.disk.relieve();
        let _ = std::fs::remove_dir_all(self.disk.path().join("data"));
        for client in &mut self.clients {
            client.forget();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_what_takes_more_and_loses_nothing() {
    let disk = match SmallDisk::new(DISK_BYTES) {
        Ok(disk) => disk,
        Err(why) => {
            assert!(std::env::var_os(REQUIRE).is_none(), "{REQUIRE} is set, but: {why}");
            return report(&format!(
                "rig full disk: SKIPPED, no file system of its own here: {why}"
            ));
        }
    };
    let form = Form::of_environment();
    let seed = form.seed();
    let rounds = form.pick(1, 5, 60);
    let at_the_floor = Duration::from_secs(form.pick(2, 8, 20));
    let mut rig = Rig {
        disk,
        common: Arc::default(),
        clients: Vec::new(),
        least_free_bytes: u64::MAX,
        closed: 0,
        refused_starts: 0,
    };
    rig.clients.extend((0..CLIENTS).map(|number| Client::new(seed, number)));
    for _ in 0..rounds {
        rig.fill_slowly(at_the_floor).await;
        rig.fill_at_once(Duration::from_secs(1)).await;
        rig.forget();
    }
    let of = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    let common = &rig.common;
    report(&format!(
        "rig full disk: {rounds} rounds, {} creations, {} changes, {} touches, {} destroys acknowledged, \
         0 lost, 0 back; {} refused as STORE_FULL; of a floor of {} MiB at least {:.1} MiB stayed; all \
         space gone: {} of {rounds} stores closed, {} of {rounds} starts refused, {} calls \
         UNAVAILABLE; longest call {:.2} s of {DEADLINE:?}; seed {seed}",
        of(&common.created),
        of(&common.changed),
        of(&common.touched),
        of(&common.destroyed),
        of(&common.refused),
        FLOOR_BYTES / MIB,
        rig.least_free_bytes as f64 / MIB as f64,
        rig.closed,
        rig.refused_starts,
        of(&common.failed),
        of(&common.longest_micros) as f64 / 1e6,
    ));
}
