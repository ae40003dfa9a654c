//! Power loss: what was acknowledged as synced stays, whatever the disk kept of
//! the rest.
//!
//! The program does a fixed piece of work under the recorder; each answer is
//! noted with the place in the recorder's log that was reached by then. Then
//! disks are made as a loss of power at some place in the log may leave them
//! (`support::disk` says which), opened with the store, and held to the notes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use sessiond::{
    grpc::wire::{DestroyRequest, WriteRequest, session_service_client::SessionServiceClient},
    store::sled::Durability,
};
use tonic::transport::Channel;

use crate::support::{
    Form,
    browser::Browser,
    disk::Disk,
    oplog::{self, Operation},
    random::{Random, seed},
    story::{Left, Step, Story, judge, principal, public_id},
    victim::{Setup, Victim},
};

/// A client's sessions: their stories, and the cookies of those that live.
struct Worker {
    client: SessionServiceClient<Channel>,
    random: Random,
    log: std::path::PathBuf,
    write: Durability,
    /// Few sessions that are large and change often, so that parts of sled's
    /// log fall out of use; else many, most of them small.
    heavy: bool,
    /// Nothing that is synced by default.
    calm: bool,
    serial: u64,
    alive: Vec<(usize, Browser)>,
    stories: Vec<Story>,
}

const WORKERS: u64 = 6;
const OPERATIONS: usize = 60;
/// Of the program, one after the other; half of them are killed.
const LIVES: usize = 6;

impl Worker {
    fn position(&self) -> u64 {
        std::fs::metadata(&self.log).expect("the log is there").len()
    }

    fn text(&mut self) -> String {
        let len = match self.random.below(100) {
            _ if self.heavy => self.random.below(60_000),
            0..70 => self.random.below(400),
            70..95 => self.random.below(8_000),
            _ => self.random.below(60_000),
        };
        self.serial += 1;
        format!(r#"{{"n":"{}-{}"}}"#, self.serial, "x".repeat(len))
    }

    async fn step(&mut self) {
        let kind = self.random.below(100);
        let most = if self.heavy { 3 } else { usize::MAX };
        if self.alive.is_empty() || kind < 35 && self.alive.len() < most {
            return self.create().await;
        }
        let chosen = self.random.below(self.alive.len());
        match kind {
            _ if self.calm => self.write(chosen, false).await,
            0..70 => self.write(chosen, false).await,
            70..82 => self.write(chosen, true).await,
            _ => self.destroy(chosen).await,
        }
    }

    async fn create(&mut self) {
        let text = self.text();
        let sent = self.position();
        let whose = Some(principal(self.serial).into());
        let set = text.clone().into();
        let request = WriteRequest { set, principal: whose, ..Default::default() };
        let answer = self.client.write(request).await.expect("a Write is taken").into_inner();
        let session = answer.session.expect("a session");
        let id = public_id(&session);
        let left = Some(Left { version: session.version, data: text.into_bytes() });
        let acknowledged = self.position();
        let step = Step { durability: self.write, sent, acknowledged, left };
        self.alive.push((self.stories.len(), Browser::with(&answer.set_cookie)));
        self.stories.push(Story { id, steps: vec![step] });
    }

    async fn write(&mut self, chosen: usize, roll: bool) {
        let text = self.text();
        let sent = self.position();
        let (story, browser) = &mut self.alive[chosen];
        let request = WriteRequest {
            credential: browser.credential(),
            set: text.clone().into(),
            replace: true,
            roll,
            // A login as somebody else, or a logout into an anonymous session.
            principal: roll.then(|| principal(self.serial).into()),
            ..Default::default()
        };
        let answer = self.client.write(request).await.expect("a Write is taken").into_inner();
        if roll {
            browser.learn(&answer.set_cookie);
        }
        let story = *story;
        let version = answer.session.expect("a session").version;
        let left = Some(Left { version, data: text.into_bytes() });
        let durability = if roll { Durability::Synced } else { self.write };
        let acknowledged = self.position();
        self.stories[story].steps.push(Step { durability, sent, acknowledged, left });
    }

    async fn destroy(&mut self, chosen: usize) {
        let sent = self.position();
        let (story, browser) = self.alive.swap_remove(chosen);
        let request = DestroyRequest { credential: browser.credential(), ..Default::default() };
        let answer = self.client.destroy(request).await.expect("a Destroy is answered");
        assert_eq!(answer.into_inner().destroyed, 1);
        let acknowledged = self.position();
        let durability = Durability::Synced;
        self.stories[story].steps.push(Step { durability, sent, acknowledged, left: None });
    }
}

/// Runs the program through its lives; its log is at `log` then.
async fn work(root: &Path, log: &Path, write: Durability, seed: u64) -> Vec<Story> {
    let settings: &[&str] = match write {
        Durability::Synced => &["--set=store.sled.durability.write=synced"],
        _ => &[],
    };
    let mut workers: Vec<Worker> = Vec::new();
    for life in 0..LIVES {
        let setup = Setup { root, settings, log: Some(log), fault: None };
        let victim = Victim::start(&setup).expect("the program starts");
        let client = SessionServiceClient::connect(victim.address.clone()).await;
        let client = client.expect("the program listens");
        if workers.is_empty() {
            workers.extend((0..WORKERS).map(|number| Worker {
                client: client.clone(),
                random: Random::part(seed, number),
                log: log.to_owned(),
                write,
                heavy: seed % 4 >= 2,
                calm: false,
                serial: number * 1_000_000,
                alive: Vec::new(),
                stories: Vec::new(),
            }));
        }
        let mut tasks = Vec::new();
        for mut worker in workers.drain(..) {
            worker.client = client.clone();
            worker.calm = life % 3 == 2;
            tasks.push(tokio::spawn(async move {
                for _ in 0..OPERATIONS {
                    worker.step().await;
                }
                worker
            }));
        }
        for task in tasks {
            workers.push(task.await.expect("a worker ends well"));
        }
        drop(client);
        let ended = if life % 2 == 0 { victim.die() } else { victim.stop() };
        let status = ended.status.expect("the program ends");
        assert_eq!(status.success(), life % 2 == 1, "{status}: {}", ended.log);
    }
    workers.into_iter().flat_map(|worker| worker.stories).collect()
}

/// Places to cut at, in order: anywhere, and often where something is about to
/// change that is more than data.
fn cuts(entries: &[oplog::Entry], images: usize, random: &mut Random) -> Vec<usize> {
    let rare: Vec<usize> = (0..entries.len())
        .filter(|at| match &entries[*at].operation {
            Operation::Open { made, emptied, .. } => *made || *emptied,
            Operation::Start
            | Operation::Truncate { .. }
            | Operation::Rename { .. }
            | Operation::Unlink { .. }
            | Operation::MakeDirectory { .. } => true,
            Operation::Write { data, .. } => data.len() > 1 << 20,
            _ => false,
        })
        .collect();
    let mut cuts: Vec<usize> = (0..images)
        .map(|_| match random.below(3) {
            0 => (*random.pick(&rare) + random.below(4)).min(entries.len() - 1),
            _ => random.below(entries.len()),
        })
        .collect();
    cuts.sort_unstable();
    cuts
}

/// What came of some images.
#[derive(Default)]
struct Outcome {
    images: usize,
    failed: usize,
    /// Of images that are harsher than the file systems of Linux.
    harsh: usize,
    harsh_failed: usize,
    operations: usize,
    calls: usize,
    sessions: usize,
    /// How often sled went on in another segment of its log, and how often in
    /// one that it had used before.
    segments: usize,
    reused: usize,
    /// Images by kind of finding.
    kinds: BTreeMap<&'static str, usize>,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.images += other.images;
        self.failed += other.failed;
        self.harsh += other.harsh;
        self.harsh_failed += other.harsh_failed;
        self.operations += other.operations;
        self.calls += other.calls;
        self.sessions += other.sessions;
        self.segments += other.segments;
        self.reused += other.reused;
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
    }
}

/// One piece of work and images of it. With `honest` false the disk only says
/// that it syncs.
async fn round(write: Durability, images: usize, seed: u64, honest: bool) -> Outcome {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (root, log) = (scratch.path().join("root"), scratch.path().join("log"));
    std::fs::create_dir(&root).expect("a folder");
    let stories = work(&root, &log, write, seed).await;
    let entries = oplog::read(&log);
    let mut random = Random::part(seed, 1000);
    let (mut disk, mut applied) = (Disk::new(), 0);
    let segments = segments(&entries);
    let mut outcome = Outcome {
        images,
        operations: entries.len(),
        calls: stories.iter().map(|story| story.steps.len()).sum(),
        sessions: stories.len(),
        segments: segments.len(),
        reused: segments.len() - BTreeSet::from_iter(&segments).len(),
        ..Default::default()
    };
    for (number, cut) in cuts(&entries, images, &mut random).into_iter().enumerate() {
        for entry in &entries[applied..=cut] {
            if honest || !matches!(entry.operation, Operation::Sync { .. }) {
                disk.apply(&entry.operation);
            }
        }
        applied = cut + 1;
        let image = scratch.path().join("image");
        std::fs::create_dir(&image).expect("a folder");
        let loss = disk.lose_power(&mut random, &image).expect("an image is written");
        let findings = judge(&image.join("data"), &stories, entries[cut].end, 0).await;
        let _ = std::fs::remove_dir_all(&image);
        match loss.journal {
            true => outcome.failed += usize::from(!findings.is_empty()),
            false => {
                outcome.harsh += 1;
                outcome.harsh_failed += usize::from(!findings.is_empty());
            }
        }
        // The first of each kind.
        for (kind, detail) in BTreeMap::from_iter(findings.into_iter().rev()) {
            *outcome.kinds.entry(kind).or_default() += 1;
            if honest {
                eprintln!(
                    "seed {seed}, write {write:?}, image {number}, cut after operation {cut}, a {}, of {}, {loss:?}: {kind}: {detail}",
                    entries[cut].operation.name(),
                    entries.len(),
                );
            }
        }
    }
    outcome
}

/// Where sled began segments of its log, in order.
fn segments(entries: &[oplog::Entry]) -> Vec<u64> {
    let begun = entries.iter().filter_map(|entry| match &entry.operation {
        // A segment that is out of use is filled with one octet.
        Operation::Write { at, data, .. }
            if at % (4 << 20) == 0 && data.len() > 100 && data[..100] != [data[0]; 100] =>
        {
            Some(*at)
        }
        _ => None,
    });
    begun.collect()
}

const IMAGES_A_ROUND: usize = 125;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_loss_takes_nothing_that_was_synced() {
    let (images, seed) = (Form::of_environment().pick(60_usize, 500, 5000), seed());
    let (mut outcome, mut seeds) = (Outcome::default(), seed..);
    let rounds = images.div_ceil(2 * IMAGES_A_ROUND);
    for _ in 0..rounds {
        for write in [Durability::Flushed, Durability::Synced] {
            let images = images / (2 * rounds);
            let seed = seeds.next().expect("they do not end");
            outcome.add(round(write, images, seed, true).await);
        }
    }
    let Outcome {
        images,
        failed,
        harsh,
        harsh_failed,
        operations,
        calls,
        sessions,
        segments,
        reused,
        kinds,
    } = outcome;
    println!(
        "power loss: {images} images, {failed} with findings, and {harsh_failed} of the {harsh} that are harsher than Linux {kinds:?}; of {calls} calls on {sessions} sessions in {operations} file operations, {segments} segments begun, {reused} of them used before; seed {seed}"
    );
    assert_eq!(failed, 0, "see above; SESSIOND_RIG_SEED repeats a round");
}

/// The rig notices when syncs do nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_does_not_sync_is_found_out() {
    let outcome = round(Durability::Flushed, 20, seed(), false).await;
    println!(
        "power loss, syncs ignored: {} of 20 images fail {:?}",
        outcome.failed + outcome.harsh_failed,
        outcome.kinds
    );
    let lost = outcome.kinds.get("synced is lost").is_some_and(|count| *count > 0);
    assert!(lost, "nothing was lost: the rig is blind");
}
