//! Churn: sessions are created, changed, destroyed and expire all the time. Disk, memory and
//! descriptors must stay in proportion to the live sessions.
//!
//! Kept sessions are rewritten all the time. Besides them there are visitors, whose engine has
//! a short duration: half of them log out, half only leave. Disk, memory and descriptors are
//! sampled at intervals.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sessiond::grpc::pb::{
    DestroyRequest, ResolveRequest, SessionState, WriteRequest,
    session_service_client::SessionServiceClient,
};
use tonic::transport::Channel;

use crate::{
    rig::{Form, report},
    support::{
        browser::token as credential,
        metrics::scrape,
        program::{PATIENCE, Program},
    },
};

type Service = SessionServiceClient<Channel>;

const CLIENTS: usize = 16;
/// How long the session of a visitor may count as live: the engine's duration, plus its
/// granularity, plus the time until the next sweep.
const SWEPT_AFTER: Duration = Duration::from_secs(4);
/// The size of a record without its data: key, codec, deadline in the index, and the index
/// entry.
const RECORD_BYTES: u64 = 12 + 59 + 8 + 20;

const MIB: u64 = 1 << 20;
/// Every so many samples, one is printed during the run.
const SAMPLES_PER_LINE: usize = 20;

/// How much the rig does.
struct Plan {
    kept_per_client: usize,
    /// It stops after this many operations or
    operations: u64,
    /// after this time, whichever comes first.
    time: Duration,
    /// Time between two samples.
    pause: Duration,
}

impl Plan {
    fn of(form: Form) -> Self {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        Self {
            kept_per_client: form.pick(100, 200, 200),
            operations: form.pick(8_000, u64::MAX, u64::MAX),
            time: form.pick(minutes(1), minutes(3), minutes(60)),
            pause: Duration::from_millis(form.pick(250, 1_000, 5_000)),
        }
    }
}

/// What the clients report to the task that takes the samples.
#[derive(Default)]
struct Progress {
    done: AtomicBool,
    operations: AtomicU64,
    /// Bytes of kept sessions only. Those of visitors are counted from their list.
    live_bytes: AtomicU64,
}

/// A measurement of the daemon.
#[derive(Debug, Clone, Copy)]
struct Sample {
    disk_bytes: u64,
    live_bytes: u64,
    resident_bytes: u64,
    descriptors: u64,
}

impl Sample {
    fn take(program: &Program, data: &Path, progress: &Progress) -> Self {
        let process = format!("/proc/{}", program.pid().as_raw_nonzero());
        let status = fs::read_to_string(format!("{process}/status")).expect("the daemon is there");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|text| text.trim().strip_suffix(" kB"));
        let kib: u64 = resident.expect("a VmRSS line in kB").parse().expect("a number");
        let descriptors = fs::read_dir(format!("{process}/fd")).expect("the daemon is there");
        Self {
            disk_bytes: disk_bytes(data),
            live_bytes: progress.live_bytes.load(Ordering::SeqCst),
            resident_bytes: kib * 1024,
            descriptors: descriptors.count() as u64,
        }
    }

    /// Bytes on the disk divided by live bytes.
    fn ratio(&self) -> f64 {
        self.disk_bytes as f64 / self.live_bytes as f64
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "live {:.1} MiB, disk {:.1} MiB, {:.2} times; resident {:.1} MiB; descriptors {}",
            mib(self.live_bytes),
            mib(self.disk_bytes),
            self.ratio(),
            mib(self.resident_bytes),
            self.descriptors
        )
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

/// Disk usage as `du` counts it: the blocks of all files.
fn disk_bytes(folder: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => sum += disk_bytes(&path),
            Ok(meta) => sum += meta.blocks() * 512,
            // sled has removed the file in the meantime.
            Err(_) => {}
        }
    }
    sum
}

#[test]
fn the_daemon_stays_as_large_as_what_is_live() {
    let plan = Plan::of(Form::of_environment());
    let seed = Form::of_environment().seed();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(churn(&plan, seed));
}

async fn churn(plan: &Plan, seed: u64) {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let program = Program::serve_in(
        directory.path(),
        &[
            "--set=engine.default.duration=2s",
            "--set=cleanup.interval=500ms",
            "--set=store.sled.cache_bytes=16MiB",
            // This rig is about space. Without fdatasync more operations fit into the time.
            "--set=store.sled.durability.destroy=flushed",
            "--set=store.sled.durability.roll=flushed",
        ],
    );
    let uri = format!("http://{}", program.address("grpc"));
    let progress = Arc::new(Progress::default());
    let mut seeds = StdRng::seed_from_u64(seed);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let channel = Channel::from_shared(uri.clone()).expect("an address").connect_lazy();
            let client = Client {
                service: SessionServiceClient::new(channel),
                random: StdRng::seed_from_u64(seeds.random()),
                progress: Arc::clone(&progress),
                kept: Vec::new(),
                visitors: Vec::new(),
            };
            tokio::spawn(client.run(plan.kept_per_client))
        })
        .collect();

    let begun = Instant::now();
    let mut samples = Vec::new();
    loop {
        tokio::time::sleep(plan.pause).await;
        let sample = Sample::take(&program, &directory.path().join("data"), &progress);
        if samples.len() % SAMPLES_PER_LINE == 0 {
            println!("churn: after {:.0?}: {sample}", begun.elapsed());
        }
        samples.push(sample);
        let operations = progress.operations.load(Ordering::SeqCst);
        if operations >= plan.operations || begun.elapsed() >= plan.time {
            break;
        }
        assert!(
            clients.iter().all(|client| !client.is_finished()),
            "expected all clients to be running; one has ended, its panic is above"
        );
    }
    progress.done.store(true, Ordering::SeqCst);
    let mut kept = Vec::new();
    for client in clients {
        kept.extend(client.await.expect("expected a client to end without a panic"));
    }
    let took = begun.elapsed();

    // The visitors' sessions are swept. Only the kept sessions remain in the count.
    wait_for_count(&program, kept.len() as u64).await;
    let channel = Channel::from_shared(uri).expect("an address").connect_lazy();
    let service = SessionServiceClient::new(channel);
    for session in &kept {
        session.verify(&service).await;
    }
    let idle = Sample::take(&program, &directory.path().join("data"), &progress);
    judge(&samples, idle, progress.operations.load(Ordering::SeqCst), took, seed);
    assert_eq!(program.stop().0, Some(0));
}

/// sled allocates segments of 8 MiB and needs some free ones to write to, even if little is
/// live.
const SEGMENT_BYTES: u64 = 8 * MIB;
/// In a run of seconds almost no data is live.
const FIXED_DISK_BYTES: u64 = 4 * SEGMENT_BYTES;
const MOST_DISK_RATIO: u64 = 4;
/// With 16 MiB of cache. Measured: 120 to 140 MiB over three minutes. With mimalloc, which
/// keeps more memory for each thread, it was 350 to 425 MiB.
const MOST_RESIDENT_BYTES: u64 = 256 * MIB;
/// The mean of the second half of the samples, in percent of the mean of the first half.
const MOST_RESIDENT_GROWTH_PERCENT: u64 = 115;
const MOST_NEW_DESCRIPTORS: u64 = 8;

fn judge(samples: &[Sample], idle: Sample, operations: u64, took: Duration, seed: u64) {
    // The first third is the warm-up.
    let steady = &samples[samples.len() / 3..];
    let most = |of: fn(&Sample) -> u64| steady.iter().map(of).max().expect("there are samples");
    let least = |of: fn(&Sample) -> u64| steady.iter().map(of).min().expect("there are samples");
    let worst = steady.iter().max_by(|a, b| a.ratio().total_cmp(&b.ratio()));
    let worst = worst.expect("expected samples");
    report(&format!(
        "rig churn: {operations} operations in {took:.0?}, {} samples after the warm-up: live {:.1} \
         to {:.1} MiB, disk {:.1} to {:.1} MiB, at most {:.2} times live ({:.1} of {:.1} MiB); when \
         idle {:.1} times; resident {:.1} to {:.1} MiB; descriptors {} to {}; seed {seed}",
        steady.len(),
        mib(least(|sample| sample.live_bytes)),
        mib(most(|sample| sample.live_bytes)),
        mib(least(|sample| sample.disk_bytes)),
        mib(most(|sample| sample.disk_bytes)),
        worst.ratio(),
        mib(worst.disk_bytes),
        mib(worst.live_bytes),
        idle.ratio(),
        mib(least(|sample| sample.resident_bytes)),
        mib(most(|sample| sample.resident_bytes)),
        least(|sample| sample.descriptors),
        most(|sample| sample.descriptors),
    ));
    let is_long = took >= Duration::from_secs(120);
    let fixed = if is_long { SEGMENT_BYTES } else { FIXED_DISK_BYTES };
    for sample in steady {
        assert!(
            sample.disk_bytes <= fixed + MOST_DISK_RATIO * sample.live_bytes,
            "expected at most {MOST_DISK_RATIO} times the live bytes plus {fixed} bytes on the disk, \
             found {sample:?}"
        );
        assert!(
            sample.resident_bytes <= MOST_RESIDENT_BYTES,
            "expected at most {MOST_RESIDENT_BYTES} bytes resident, found {sample:?}"
        );
    }
    let mean = |samples: &[Sample]| {
        samples.iter().map(|sample| sample.resident_bytes).sum::<u64>() / samples.len() as u64
    };
    let (earlier, later) = steady.split_at(steady.len() / 2);
    let (earlier, later) = (mean(earlier), mean(later));
    // In a run of seconds the memory is still growing to its final size.
    assert!(
        !is_long || later * 100 <= earlier * MOST_RESIDENT_GROWTH_PERCENT,
        "expected constant memory, found {later} bytes resident after {earlier}"
    );
    let new = most(|sample| sample.descriptors) - least(|sample| sample.descriptors);
    assert!(
        new <= MOST_NEW_DESCRIPTORS,
        "expected a constant number of descriptors, found {new} more"
    );
}

/// Waits until the daemon counts this many sessions.
async fn wait_for_count(program: &Program, expected: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = scrape(program.address("metrics").to_owned()).await;
        let line = page.lines().find(|line| line.starts_with("sessiond_sessions{"));
        let line = line.expect("a line with the number of sessions");
        let found = line.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok());
        if found == Some(expected) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "expected {expected} sessions to be left, found: {line}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A kept session, or a session of a visitor.
struct Session {
    token: String,
    bytes: u64,
    letter: u8,
    /// For the session of a visitor: when it no longer counts as live.
    until: Option<Instant>,
}

impl Session {
    async fn verify(&self, service: &Service) {
        let peek = ResolveRequest {
            credential: credential(self.token.as_str()),
            peek: true,
            ..Default::default()
        };
        let answer = service.clone().resolve(peek).await.expect("a Resolve is answered");
        let answer = answer.into_inner();
        assert_eq!(answer.state(), SessionState::Active, "expected a kept session to be live");
        let data = answer.session.expect("it is live").data;
        assert_eq!(RECORD_BYTES + data.len() as u64, self.bytes, "the size of a kept session");
        assert!(data.contains(&self.letter), "expected the data that was written last");
    }
}

struct Client {
    service: Service,
    random: StdRng,
    progress: Arc<Progress>,
    kept: Vec<Session>,
    visitors: Vec<Session>,
}

impl Client {
    /// Returns the sessions that it kept.
    async fn run(mut self, keep: usize) -> Vec<Session> {
        while !self.progress.done.load(Ordering::SeqCst) {
            match self.random.random_range(0..100) {
                _ if self.kept.len() < keep => {
                    let session = self.create(None).await;
                    self.kept.push(session);
                }
                // Some kept sessions are replaced, so that keys are added and removed.
                0..3 => {
                    let at = self.random.random_range(0..self.kept.len());
                    let session = self.kept.swap_remove(at);
                    self.destroy(session).await;
                }
                3..50 => {
                    let at = self.random.random_range(0..self.kept.len());
                    self.rewrite(at).await;
                }
                50..80 => {
                    let session = self.create(Some(Instant::now() + SWEPT_AFTER)).await;
                    self.visitors.push(session);
                }
                80..95 if !self.visitors.is_empty() => {
                    let session = self.visitors.pop().expect("not empty");
                    self.destroy(session).await;
                }
                _ => self.forget(),
            }
            self.progress.operations.fetch_add(1, Ordering::SeqCst);
        }
        self.kept
    }

    /// Drops the visitors whose sessions no longer count as live.
    fn forget(&mut self) {
        let now = Instant::now();
        let live_bytes = &self.progress.live_bytes;
        self.visitors.retain(|visitor| {
            let left = visitor.until.is_some_and(|until| until <= now);
            if left {
                live_bytes.fetch_sub(visitor.bytes, Ordering::SeqCst);
            }
            !left
        });
    }

    /// Most data are small; one in ten has 30 to 60 KiB.
    fn data(&mut self) -> (String, u8) {
        let len = match self.random.random_range(0..10) {
            0 => self.random.random_range(30 * 1024..60 * 1024),
            1..4 => self.random.random_range(1024..8 * 1024),
            _ => self.random.random_range(50..500),
        };
        let letter = self.random.random_range(b'A'..=b'Z');
        let pad: String = std::iter::repeat_n(char::from(letter), len).collect();
        (format!(r#"{{"pad":"{pad}"}}"#), letter)
    }

    async fn create(&mut self, until: Option<Instant>) -> Session {
        let (data, letter) = self.data();
        let bytes = RECORD_BYTES + data.len() as u64;
        let write = WriteRequest {
            set: data.into(),
            duration: until
                .is_none()
                .then_some(prost_types::Duration { seconds: 36_000, nanos: 0 }),
            ..Default::default()
        };
        let answer = self.service.write(write).await.expect("a create is acknowledged");
        self.progress.live_bytes.fetch_add(bytes, Ordering::SeqCst);
        Session { token: answer.into_inner().token, bytes, letter, until }
    }

    async fn rewrite(&mut self, at: usize) {
        let (data, letter) = self.data();
        let bytes = RECORD_BYTES + data.len() as u64;
        let session = &mut self.kept[at];
        let write = WriteRequest {
            credential: credential(session.token.as_str()),
            set: data.into(),
            ..Default::default()
        };
        self.service.write(write).await.expect("a Write is acknowledged");
        self.progress.live_bytes.fetch_add(bytes, Ordering::SeqCst);
        self.progress.live_bytes.fetch_sub(session.bytes, Ordering::SeqCst);
        (session.bytes, session.letter) = (bytes, letter);
    }

    async fn destroy(&mut self, session: Session) {
        let request =
            DestroyRequest { credential: credential(session.token.as_str()), ..Default::default() };
        self.service.destroy(request).await.expect("a Destroy is acknowledged");
        self.progress.live_bytes.fetch_sub(session.bytes, Ordering::SeqCst);
    }
}
