//! Disk faults: a fixed script runs once for each of its writes, syncs and renames. In each run
//! that operation fails, either once or from then on.
//!
//! Checked in each run:
//!
//! - acknowledged changes are stored afterwards;
//! - a call that cannot be served fails within its deadline, with an error of the store;
//! - the program ends when it is asked to, if it has not ended before;
//! - the store opens again.

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sessiond::{
    grpc::pb::{
        DestroyRequest, WriteRequest, WriteResponse, session_service_client::SessionServiceClient,
    },
    store::sled::Durability,
};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::rig::report;
use crate::support::{
    Form, Random,
    browser::Browser,
    oplog::{self, Operation},
    story::{Findings, Left, Step, Story, judge, principal, public_id},
    victim::{Ended, Setup, Victim},
};

/// How long a client waits for an answer.
const DEADLINE: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Start {
    /// With an empty directory.
    Fresh,
    /// With the directory that a killed daemon left.
    Again,
}

#[derive(Clone, Copy)]
struct Case {
    start: Start,
    class: &'static str,
    /// The position of the operation among those of its class, counted from 1.
    number: usize,
    errno: i32,
    how_long: &'static str,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, class, number, errno, how_long } = self;
        let errno = if *errno == libc::EIO { "EIO" } else { "ENOSPC" };
        write!(f, "{start:?}, {class} {number} fails with {errno} {how_long}")
    }
}

/// A session of the script.
struct Visit {
    browser: Browser,
    story: Story,
    /// A call failed, so the stored state is unknown, within limits.
    unknown: bool,
}

/// One run of the script against a program.
struct Script {
    client: SessionServiceClient<Channel>,
    findings: Mutex<Findings>,
    visits: Mutex<Vec<Visit>>,
    /// Creations that were not acknowledged.
    untold: AtomicUsize,
    /// Calls that failed without an answer from the daemon. Allowed only if it has ended.
    lost_calls: AtomicUsize,
}

const EVER: u64 = u64::MAX;

impl Script {
    /// Returns the answer. Records a finding if the answer is not allowed.
    async fn ask<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Option<T> {
        match tokio::time::timeout(DEADLINE, call).await {
            Ok(Ok(answer)) => return Some(answer.into_inner()),
            Err(_) => self.found("a call hangs", what.to_owned()),
            Ok(Err(status)) => {
                let details = status.get_error_details();
                let reason = details.error_info().map(|info| info.reason.clone());
                match (status.code(), reason.as_deref()) {
                    (Code::Unavailable, Some("STORE_UNAVAILABLE"))
                    | (Code::ResourceExhausted, Some(_)) => {}
                    (_, None) => {
                        self.lost_calls.fetch_add(1, Ordering::SeqCst);
                    }
                    _ => self.found("a call fails wrongly", format!("{what}: {status:?}")),
                }
            }
        }
        None
    }

    fn found(&self, kind: &'static str, detail: String) {
        self.findings.lock().expect("no panic").push((kind, detail));
    }

    async fn create(&self, number: u64, text: &str) -> Option<Visit> {
        let request = WriteRequest {
            set: text.to_owned().into(),
            principal: Some(principal(number).into()),
            ..Default::default()
        };
        let Some(answer) = self.ask("create", self.client.clone().write(request)).await else {
            self.untold.fetch_add(1, Ordering::SeqCst);
            return None;
        };
        let mut story =
            Story { id: public_id(answer.session.as_ref().expect("a session")), steps: Vec::new() };
        note(&mut story, Some(&answer), text);
        Some(Visit { browser: Browser::with(&answer.set_cookie), story, unknown: false })
    }

    async fn write(&self, visit: &mut Visit, text: &str, roll: bool) {
        if visit.unknown {
            return;
        }
        let request = WriteRequest {
            credential: visit.browser.credential(),
            set: text.to_owned().into(),
            replace: true,
            roll,
            principal: roll.then(|| "bob".into()),
            ..Default::default()
        };
        let what = if roll { "roll" } else { "write" };
        let answer = self.ask(what, self.client.clone().write(request)).await;
        note(&mut visit.story, answer.as_ref(), text);
        match answer {
            Some(answer) if roll => visit.browser.learn(&answer.set_cookie),
            Some(_) => {}
            None => visit.unknown = true,
        }
    }

    async fn destroy(&self, visit: &mut Visit) {
        let credential = visit.browser.credential();
        let request = DestroyRequest { credential, ..Default::default() };
        let answer = self.ask("destroy", self.client.clone().destroy(request)).await;
        let acknowledged = if answer.is_some() { 0 } else { EVER };
        let durability = Durability::Synced;
        visit.story.steps.push(Step { durability, sent: 0, acknowledged, left: None });
    }

    /// Runs the script: first one call after the other, then several at once.
    async fn run(&self) {
        let mut visits = Vec::new();
        for number in 0..4 {
            visits.extend(self.create(number, &format!(r#"{{"n":{number}}}"#)).await);
        }
        for (number, visit) in visits.iter_mut().enumerate() {
            let long = "x".repeat(20_000);
            match number {
                0 => self.write(visit, r#"{"n":"short"}"#, false).await,
                1 => self.write(visit, r#"{"n":"rolled"}"#, true).await,
                2 => self.destroy(visit).await,
                _ => self.write(visit, &format!(r#"{{"n":"{long}"}}"#), false).await,
            }
        }
        self.visits.lock().expect("no panic").extend(visits);
        futures_util::future::join_all((0..8).map(|number| async move {
            let Some(mut visit) = self.create(number, &format!(r#"{{"m":{number}}}"#)).await else {
                return;
            };
            for turn in 0..3 {
                self.write(&mut visit, &format!(r#"{{"m":{turn}}}"#), false).await;
            }
            if number % 2 == 0 {
                self.destroy(&mut visit).await;
            }
            self.visits.lock().expect("no panic").push(visit);
        }))
        .await;
    }
}

/// Records what a Write stored or, without an answer, what it may have stored.
fn note(story: &mut Story, answer: Option<&WriteResponse>, text: &str) {
    let before = story.steps.last().and_then(|step| step.left.as_ref());
    let guess = before.map_or(1, |left| left.version + 1);
    let session = answer.and_then(|answer| answer.session.as_ref());
    let version = session.map_or(guess, |session| session.version);
    // Only the process ends here, not the machine, so the change has to survive. `judge` checks
    // this for changes that are marked as synced.
    story.steps.push(Step {
        durability: Durability::Synced,
        sent: 0,
        acknowledged: if answer.is_some() { 0 } else { EVER },
        left: Some(Left { version, data: text.as_bytes().to_vec() }),
    });
}

struct Outcome {
    findings: Findings,
    /// The operation that was to fail was executed.
    reached: bool,
    failed_calls: usize,
    ended_early: bool,
}

/// The directory of a killed daemon, and the changes that it acknowledged.
struct Leftovers {
    root: tempfile::TempDir,
    stories: Vec<Story>,
}

async fn run(case: Option<Case>, start: Start, left: Option<&Leftovers>) -> (Outcome, Counts) {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (root, log) = (scratch.path().join("root"), scratch.path().join("log"));
    std::fs::create_dir(&root).expect("a folder");
    let mut stories = Vec::new();
    if let (Start::Again, Some(left)) = (start, left) {
        copy(left.root.path(), &root);
        stories.extend(left.stories.iter().cloned());
    }
    let fault = case.map(|Case { class, number, errno, how_long, .. }| {
        format!("{class}:{number}:{errno}:{how_long}")
    });
    let setup = Setup { root: &root, settings: &[], log: Some(&log), fault: fault.as_deref() };
    let mut outcome =
        Outcome { findings: Vec::new(), reached: false, failed_calls: 0, ended_early: false };
    let mut untold = 0;
    let ended = match Victim::start(&setup) {
        Err(ended) => {
            outcome.ended_early = true;
            if ended.status.is_none() {
                outcome.findings.push(("a start hangs", ended.log.clone()));
            }
            ended
        }
        Ok(mut victim) => {
            let connected = SessionServiceClient::connect(victim.address.clone()).await;
            if let Ok(client) = connected {
                let script = Script {
                    client,
                    findings: Mutex::default(),
                    visits: Mutex::default(),
                    untold: AtomicUsize::new(0),
                    lost_calls: AtomicUsize::new(0),
                };
                script.run().await;
                untold = script.untold.into_inner();
                outcome.findings = script.findings.into_inner().expect("no panic");
                let visits = script.visits.into_inner().expect("no panic");
                outcome.failed_calls = untold + visits.iter().filter(|v| v.unknown).count();
                stories.extend(visits.into_iter().map(|visit| visit.story));
                outcome.ended_early = !victim.is_running();
                if script.lost_calls.into_inner() > 0 && !outcome.ended_early {
                    let detail =
                        "the daemon is running, but calls fail without an answer".to_owned();
                    outcome.findings.push(("a call fails wrongly", detail));
                }
            } else {
                outcome.ended_early = !victim.is_running();
            }
            victim.stop()
        }
    };
    let Ended { status, log: said } = ended;
    if status.is_none() {
        outcome.findings.push(("does not stop", last_lines(&said)));
    }
    // The log may contain the message of a panic that was caught, so the exit code decides.
    if status.is_some_and(|status| !matches!(status.code(), Some(0 | 1))) {
        outcome.findings.push(("ends badly", format!("{status:?}: {}", last_lines(&said))));
    }
    let counts = Counts::of(&log);
    outcome.reached = counts.faults > 0;
    let checked = judge(&root.join("data"), &stories, 1, untold).await;
    outcome.findings.extend(checked);
    (outcome, counts)
}

fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().rev().take(6).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            std::fs::create_dir(&to).expect("a folder");
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("a file is copied");
        }
    }
}

/// The number of operations of each class.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    writes: usize,
    syncs: usize,
    renames: usize,
    faults: usize,
}

impl Counts {
    fn of(log: &Path) -> Self {
        let mut counts = Self::default();
        for entry in oplog::read(log) {
            match entry.operation {
                Operation::Write { .. } => counts.writes += 1,
                Operation::Sync { .. } | Operation::SyncRange => counts.syncs += 1,
                Operation::Rename { .. } => counts.renames += 1,
                Operation::Fault => counts.faults += 1,
                _ => {}
            }
        }
        counts
    }
}

/// Makes a directory as a killed daemon leaves it.
async fn leftovers() -> Leftovers {
    let root = tempfile::tempdir().expect("a scratch folder");
    let log = tempfile::NamedTempFile::new().expect("a file");
    let log = log.path();
    let setup = Setup { root: root.path(), settings: &[], log: Some(log), fault: None };
    let victim = Victim::start(&setup).expect("the program starts");
    let client = SessionServiceClient::connect(victim.address.clone()).await;
    let script = Script {
        client: client.expect("the program listens"),
        findings: Mutex::default(),
        visits: Mutex::default(),
        untold: AtomicUsize::new(0),
        lost_calls: AtomicUsize::new(0),
    };
    script.run().await;
    victim.die();
    let visits = script.visits.into_inner().expect("no panic");
    let stories = visits.into_iter().map(|visit| visit.story).collect();
    Leftovers { root, stories }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_the_disk_is_never_hidden() {
    let left = leftovers().await;
    let mut cases = Vec::new();
    let mut totals = BTreeMap::new();
    for start in [Start::Fresh, Start::Again] {
        let (outcome, counts) = run(None, start, Some(&left)).await;
        assert_eq!(outcome.findings, Findings::new(), "{start:?} without a fault");
        totals.insert(start, counts);
        let classes =
            [("write", counts.writes), ("sync", counts.syncs), ("rename", counts.renames)];
        for (class, count) in classes {
            for number in 1..=count {
                for errno in [libc::EIO, libc::ENOSPC] {
                    for how_long in ["once", "always"] {
                        cases.push(Case { start, class, number, errno, how_long });
                    }
                }
            }
        }
    }
    let all = cases.len();
    let seed = Form::of_environment().seed();
    let mut random = Random::stream(seed, 2000);
    // A random choice without repetitions.
    let wanted = Form::of_environment().pick(40, all, all).min(all);
    for at in 0..wanted {
        let other = at + random.index(all - at);
        cases.swap(at, other);
    }
    cases.truncate(wanted);
    let (mut reached, mut failed, mut ended_early, mut calls) = (0, 0, 0, 0);
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    let runs = cases.into_iter().map(|case| {
        let left = &left;
        async move { (case, run(Some(case), case.start, Some(left)).await.0) }
    });
    let mut runs = std::pin::pin!(futures_util::StreamExt::buffer_unordered(
        futures_util::stream::iter(runs),
        3
    ));
    while let Some((case, outcome)) = futures_util::StreamExt::next(&mut runs).await {
        reached += usize::from(outcome.reached);
        ended_early += usize::from(outcome.ended_early);
        calls += outcome.failed_calls;
        failed += usize::from(!outcome.findings.is_empty());
        for (kind, detail) in BTreeMap::from_iter(outcome.findings.into_iter().rev()) {
            *kinds.entry(kind).or_default() += 1;
            eprintln!("{case}: {kind}: {detail}");
        }
    }
    report(&format!(
        "rig faults: {wanted} of {all} cases, {reached} with the fault executed, {ended_early} ended early, {calls} calls refused, {failed} with findings {kinds:?}; seed {seed}"
    ));
    assert_eq!(failed, 0, "see above");
    assert!(
        reached * 4 > wanted * 3,
        "expected most faults to be executed, {reached} of {wanted} were"
    );
}
