//! Power loss: acknowledged changes that are synced must survive, whatever the disk kept of the
//! other writes.
//!
//! The program does a fixed amount of work under the recorder. For each answer the rig notes
//! the length of the recorder's log at that time. Then it builds disks as a power loss at some
//! point of the log may leave them (see `support::disk`), opens them with the store, and
//! compares the sessions with the notes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use sessiond::{
    grpc::pb::{DestroyRequest, WriteRequest, session_service_client::SessionServiceClient},
    store::sled::Durability,
};
use tonic::transport::Channel;

use crate::rig::report;
use crate::support::{
    Form, Random,
    browser::Browser,
    disk::Disk,
    oplog::{self, Operation},
    story::{Left, Step, Story, judge, principal, public_id},
    victim::{Setup, Victim},
};

/// The sessions of a client: all their histories, and the cookies of the live ones.
struct Worker {
    client: SessionServiceClient<Channel>,
    random: Random,
    log: std::path::PathBuf,
    write: Durability,
    load: Load,
    /// Makes no calls that are synced by default.
    calm: bool,
    serial: u64,
    alive: Vec<(usize, Browser)>,
    stories: Vec<Story>,
}

/// The kind of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Many, most of them small.
    Mixed,
    /// Few large sessions that change often, so that segments of sled's log become free.
    Heavy,
    /// Few sessions of the largest size that the store accepts. Without a limit, sled would
    /// write a leaf of them to a file of its own.
    Huge,
}

impl Load {
    fn of(seed: u64) -> Self {
        match seed % 4 {
            2 => Self::Heavy,
            3 => Self::Huge,
            _ => Self::Mixed,
        }
    }

    /// For each worker and each life.
    fn operations(self) -> usize {
        if self == Self::Huge { 20 } else { 60 }
    }
}

const WORKERS: u64 = 6;
/// The program is started so many times; half of the runs end with a kill.
const LIVES: usize = 6;

impl Worker {
    fn position(&self) -> u64 {
        std::fs::metadata(&self.log).expect("the log exists").len()
    }

    fn text(&mut self) -> String {
        let len = match self.random.index(100) {
            _ if self.load == Load::Huge => 70_000 + self.random.index(10_000),
            _ if self.load == Load::Heavy => self.random.index(60_000),
            0..70 => self.random.index(400),
            70..95 => self.random.index(8_000),
            _ => self.random.index(60_000),
        };
        self.serial += 1;
        format!(r#"{{"n":"{}-{}"}}"#, self.serial, "x".repeat(len))
    }

    async fn step(&mut self) {
        let kind = self.random.index(100);
        let most = if self.load == Load::Mixed { usize::MAX } else { 3 };
        if self.alive.is_empty() || kind < 35 && self.alive.len() < most {
            return self.create().await;
        }
        let chosen = self.random.index(self.alive.len());
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
        let answer = self.client.write(request).await.expect("a Write succeeds").into_inner();
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
            // A login as another principal, or a logout into an anonymous session.
            principal: roll.then(|| principal(self.serial).into()),
            ..Default::default()
        };
        let answer = self.client.write(request).await.expect("a Write succeeds").into_inner();
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
        let answer = self.client.destroy(request).await.expect("a Destroy succeeds");
        assert_eq!(answer.into_inner().destroyed, 1);
        let acknowledged = self.position();
        let durability = Durability::Synced;
        self.stories[story].steps.push(Step { durability, sent, acknowledged, left: None });
    }
}

/// Runs the program through its lives, with the recorder's log at `log`.
async fn work(root: &Path, log: &Path, write: Durability, seed: u64) -> Vec<Story> {
    let load = Load::of(seed);
    let mut settings = match write {
        Durability::Synced => vec!["--set=store.sled.durability.write=synced"],
        Durability::Flushed => vec![],
        Durability::Buffered => vec!["--set=store.sled.durability.write=buffered"],
    };
    if load == Load::Huge {
        settings.push("--set=engine.default.max_data_bytes=80KiB");
    }
    let mut workers: Vec<Worker> = Vec::new();
    for life in 0..LIVES {
        let setup = Setup { root, settings: &settings, log: Some(log), fault: None };
        let victim = Victim::start(&setup).expect("the program starts");
        let client = SessionServiceClient::connect(victim.address.clone()).await;
        let client = client.expect("the program listens");
        if workers.is_empty() {
            workers.extend((0..WORKERS).map(|number| Worker {
                client: client.clone(),
                random: Random::stream(seed, number),
                log: log.to_owned(),
                write,
                load,
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
                for _ in 0..load.operations() {
                    worker.step().await;
                }
                worker
            }));
        }
        for task in tasks {
            workers.push(task.await.expect("a worker ends without a panic"));
        }
        drop(client);
        // With buffered writes there is no kill: it loses them, and the workers expect them to
        // be kept.
        let kill = life % 2 == 0 && write != Durability::Buffered;
        let ended = if kill { victim.die() } else { victim.stop() };
        let status = ended.status.expect("the program ends");
        assert_eq!(status.success(), !kill, "{status}: {}", ended.log);
    }
    workers.into_iter().flat_map(|worker| worker.stories).collect()
}

/// Points to cut the log at, in order. Most are random; many are just before an operation that
/// changes more than data.
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
        .map(|_| match random.index(3) {
            0 => (*random.pick(&rare) + random.index(4)).min(entries.len() - 1),
            _ => random.index(entries.len()),
        })
        .collect();
    cuts.sort_unstable();
    cuts
}

/// The results of some images.
#[derive(Default)]
struct Outcome {
    images: usize,
    failed: usize,
    /// The number of images that are harsher than Linux file systems.
    harsh: usize,
    harsh_failed: usize,
    operations: usize,
    calls: usize,
    sessions: usize,
    /// How often sled began a segment of its log, and how often that segment had been used
    /// before.
    segments: usize,
    reused: usize,
    /// Files that sled made for leaves that are too large for its log.
    blobs: usize,
    syncs: Syncs,
    /// The number of images for each kind of finding.
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
        self.blobs += other.blobs;
        self.syncs.add(other.syncs);
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
    }
}

/// One run of the work, and images of it. If `honest` is false, the disk reports syncs without
/// doing them.
async fn round(write: Durability, images: usize, seed: u64, honest: bool) -> Outcome {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (root, log) = (scratch.path().join("root"), scratch.path().join("log"));
    std::fs::create_dir(&root).expect("a folder");
    let stories = work(&root, &log, write, seed).await;
    let entries = oplog::read(&log);
    let mut random = Random::stream(seed, 1000);
    let (mut disk, mut applied) = (Disk::new(), 0);
    let segments = segments(&entries);
    let mut outcome = Outcome {
        images,
        operations: entries.len(),
        calls: stories.iter().map(|story| story.steps.len()).sum(),
        sessions: stories.len(),
        segments: segments.len(),
        reused: segments.len() - BTreeSet::from_iter(&segments).len(),
        blobs: entries.iter().filter(|entry| makes_blob(&entry.operation)).count(),
        syncs: Syncs::of(&entries),
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
        // Prints the first finding of each kind.
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

/// The offsets at which sled began segments of its log, in order.
fn segments(entries: &[oplog::Entry]) -> Vec<u64> {
    let begun = entries.iter().filter_map(|entry| match &entry.operation {
        Operation::Write { at, data, .. } if begins_segment(*at, data) => Some(*at),
        _ => None,
    });
    begun.collect()
}

fn begins_segment(at: u64, data: &[u8]) -> bool {
    at.is_multiple_of(SEGMENT_BYTES) && !fills_segment(data)
}

fn makes_blob(operation: &Operation) -> bool {
    matches!(operation, Operation::Open { path, made: true, .. } if path.contains("/blobs/"))
}

/// When the store opens, sled fills free segments with one repeated byte.
fn fills_segment(data: &[u8]) -> bool {
    data.len() as u64 == SEGMENT_BYTES && data.iter().all(|octet| *octet == data[0])
}

/// What the store relies on: sled's log is synced at least once within each segment.
#[derive(Default)]
struct Syncs {
    /// The most bytes that were written to the log between two syncs.
    most_unsynced_bytes: u64,
    /// For each sync of the log, how long the first write before it had waited. For that time a
    /// flushed change may still be lost.
    waits: Vec<Duration>,
    /// Segments that were begun although the previous one had not been synced since its
    /// beginning.
    missing: usize,
}

impl Syncs {
    fn of(entries: &[oplog::Entry]) -> Self {
        let mut found = Self::default();
        let (mut logs, mut unsynced_bytes, mut begun) = (BTreeSet::new(), 0, 0);
        let mut unsynced_since = None;
        for entry in entries {
            match &entry.operation {
                Operation::Start => {
                    logs.clear();
                    unsynced_since = None;
                }
                Operation::Open { fd, path, .. } if path.ends_with("/db") => {
                    logs.insert(*fd);
                }
                Operation::Close { fd } => {
                    logs.remove(fd);
                }
                Operation::Sync { fd } if logs.contains(fd) => {
                    (unsynced_bytes, begun) = (0, 0);
                    let since = unsynced_since.take();
                    found.waits.extend(since.map(|since| entry.time - since));
                }
                Operation::Write { fd, at, data } if logs.contains(fd) && !fills_segment(data) => {
                    unsynced_bytes += data.len() as u64;
                    unsynced_since.get_or_insert(entry.time);
                    begun += usize::from(begins_segment(*at, data));
                    found.missing += usize::from(begun > 1);
                    found.most_unsynced_bytes = found.most_unsynced_bytes.max(unsynced_bytes);
                }
                _ => {}
            }
        }
        found
    }

    fn add(&mut self, other: Self) {
        self.most_unsynced_bytes = self.most_unsynced_bytes.max(other.most_unsynced_bytes);
        self.missing += other.missing;
        self.waits.extend(other.waits);
    }

    /// The waits in milliseconds: median, p99 and maximum.
    fn waits_ms(mut self) -> [u128; 3] {
        self.waits.sort_unstable();
        let most = self.waits.len().saturating_sub(1);
        [most / 2, most * 99 / 100, most]
            .map(|at| self.waits.get(at).map_or(0, Duration::as_millis))
    }
}

/// The segment size of sled's log, as the store sets it.
const SEGMENT_BYTES: u64 = 8 << 20;

const IMAGES_A_ROUND: usize = 100;
/// Buffered is included because it writes the most between two syncs.
const WRITES: [Durability; 3] = [Durability::Flushed, Durability::Synced, Durability::Buffered];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_loss_takes_nothing_that_was_synced() {
    let form = Form::of_environment();
    let (images, seed) = (form.pick(60_usize, 500, 5000), form.seed());
    let (mut outcome, mut seeds) = (Outcome::default(), seed..);
    let writes = &WRITES[..form.pick(2, WRITES.len(), WRITES.len())];
    let rounds = images.div_ceil(writes.len() * IMAGES_A_ROUND);
    for _ in 0..rounds {
        for &write in writes {
            let images = images.div_ceil(writes.len() * rounds);
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
        blobs,
        syncs,
        kinds,
    } = outcome;
    let (most_unsynced_bytes, missing) = (syncs.most_unsynced_bytes, syncs.missing);
    let [half, nearly_all, all] = syncs.waits_ms();
    report(&format!(
        "rig power loss: {images} images, {failed} with findings, and {harsh_failed} of the {harsh} that are harsher than Linux {kinds:?}; of {calls} calls on {sessions} sessions in {operations} file operations, {segments} segments begun, {reused} of them reused, at most {:.1} MiB of the log between two syncs, {missing} syncs missing, flushed changes were synced within {half} ms (median), {nearly_all} ms (p99), {all} ms (max); seed {seed}",
        most_unsynced_bytes as f64 / (1 << 20) as f64,
    ));
    assert_eq!(failed, 0, "expected no findings, see above; SESSIOND_RIG_SEED repeats a round");
    let met = [images > harsh, segments > 0, reused > 0 || matches!(form, Form::Short)];
    assert!(met.iter().all(|met| *met), "expected images and segments of all kinds, found {met:?}");
    assert_eq!(blobs, 0, "expected every leaf to stay in the log: see SEGMENT_BYTES");
    assert_eq!(missing, 0, "expected a sync of the log between the starts of two segments");
}

/// The rig finds it if syncs do nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_does_not_sync_is_found_out() {
    let outcome = round(Durability::Flushed, 20, Form::of_environment().seed(), false).await;
    report(&format!(
        "rig power loss: with syncs ignored {} of 20 images fail {:?}",
        outcome.failed + outcome.harsh_failed,
        outcome.kinds
    ));
    let lost = outcome.kinds.get("a synced change is lost").is_some_and(|count| *count > 0);
    assert!(lost, "expected findings of lost changes");
}
