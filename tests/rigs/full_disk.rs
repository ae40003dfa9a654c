//! A disk that is really full: the program's data are on a small file system of their own.
//! Clients and a file of another program fill it, first slowly, then at once.
//!
//! Checked:
//!
//! - While little space is left, calls that need space are refused as STORE_FULL, and no others
//!   are.
//! - The rest of the reserved space (the floor) stays free.
//! - When space returns, the store continues without help.
//! - When all space is taken at once, the store may fail, and then it reports that.
//! - In every case, no call takes longer than its deadline, and acknowledged changes are stored
//!   after a kill.

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
/// The part of the floor that must stay free in every case.
const LEAST_BYTES: u64 = FLOOR_BYTES / 4;
const SETTINGS: [&str; 6] = [
    "--set=store.sled.min_free_bytes=32MiB",
    // With this setting the test shows that a full disk is not taken for damage.
    "--set=store.sled.on_damage=quarantine",
    // Makes nearly every touch write.
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
    /// The least free space that was seen while another program left only the floor.
    least_free_bytes: u64,
    closed: u64,
    refused_starts: u64,
}

impl Rig {
    fn start(&self) -> Result<Victim, Ended> {
        let setup = Setup { root: self.disk.path(), settings: &SETTINGS, log: None, fault: None };
        Victim::start(&setup)
    }

    /// Runs the clients during `meanwhile`, then ends the daemon with SIGKILL.
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
            self.clients.push(client.await.expect("expected a client to end without a panic"));
        }
    }

    async fn verify(&mut self) {
        let victim = match self.start() {
            Ok(victim) => victim,
            Err(ended) => panic!("expected it to open again: {:?} {}", ended.status, ended.log),
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
            self.clients.push(client.await.expect("expected a client to end without a panic"));
        }
        let ended = victim.stop();
        assert_eq!(ended.status.and_then(|status| status.code()), Some(0), "{}", ended.log);
        self.judge();
    }

    fn judge(&self) {
        let quarantine = self.disk.path().join("data/quarantine");
        assert!(
            !Path::new(&quarantine).exists(),
            "expected no quarantine: a full disk is not damage"
        );
        let findings = self.common.findings.lock().expect("no panic");
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }

    /// Space runs out slowly, and free space stays at the floor for a while.
    async fn fill_slowly(&mut self, at_the_floor: Duration) {
        self.disk.relieve();
        let victim = self.start().expect("expected a start while there is space");
        self.common.enter(Phase::Filling);
        let before = self.common.refused.load(Ordering::SeqCst);
        self.run(victim, async |rig, _| {
            let common = Arc::clone(&rig.common);
            let begun = Instant::now();
            // The clients take part of the space, the ballast file takes the rest.
            while common.refused.load(Ordering::SeqCst) < before + 100 {
                assert!(begun.elapsed() < PATIENCE * 2, "expected refused creations by now");
                let above = 12 * MIB * (4000 - begun.elapsed().as_millis().min(4000) as u64) / 4000;
                if rig.disk.free_bytes() > FLOOR_BYTES + above {
                    rig.disk.leave(FLOOR_BYTES + above);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // The ballast takes nearly half of the floor too. Touches, which make the log grow,
            // take a little more. After that, only destroys are served.
            rig.disk.leave(FLOOR_BYTES / 2 + 2 * MIB);
            common.enter(Phase::Full);
            let begun = Instant::now();
            while begun.elapsed() < at_the_floor {
                rig.least_free_bytes = rig.least_free_bytes.min(rig.disk.free_bytes());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // The daemon continues without help.
            rig.disk.relieve();
            common.enter(Phase::Filling);
            let created = common.created.load(Ordering::SeqCst);
            let begun = Instant::now();
            while common.created.load(Ordering::SeqCst) < created + 50 {
                assert!(
                    begun.elapsed() < PATIENCE,
                    "expected creations to be accepted again by now"
                );
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        self.verify().await;
        assert!(
            self.least_free_bytes >= LEAST_BYTES,
            "expected {LEAST_BYTES} bytes of the floor of {FLOOR_BYTES} to stay free, found {}",
            self.least_free_bytes
        );
    }

    /// All space is taken at once.
    async fn fill_at_once(&mut self, load: Duration) {
        let victim = self.start().expect("expected a start while there is space");
        let before = self.common.failed.load(Ordering::SeqCst);
        self.common.enter(Phase::Nothing);
        self.run(victim, async |rig, _| {
            tokio::time::sleep(load / 4).await;
            let begun = Instant::now();
            while begun.elapsed() < load {
                // Space that is freed is taken again.
                rig.disk.leave(0);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        self.closed += u64::from(self.common.failed.load(Ordering::SeqCst) > before);
        // Without space, it may start, or it may refuse and give the reason.
        match self.start() {
            Ok(victim) => drop(victim),
            Err(ended) => {
                self.refused_starts += 1;
                let code = ended.status.and_then(|status| status.code());
                assert_eq!(code, Some(1), "{}", ended.log);
                assert!(
                    !ended.log.contains("damaged"),
                    "expected no damage, the disk is only full: {}",
                    ended.log
                );
            }
        }
        self.judge();
        self.disk.relieve();
        self.common.enter(Phase::Filling);
        self.verify().await;
    }

    /// Deletes the data, so that the next round has space.
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
                "rig full disk: SKIPPED, cannot mount a file system of its own: {why}"
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
         0 lost, 0 back; {} refused as STORE_FULL; of a floor of {} MiB at least {:.1} MiB stayed free; with no \
         space left: {} of {rounds} stores closed, {} of {rounds} starts refused, {} calls \
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
