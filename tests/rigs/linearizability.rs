//! Linearizability: many clients work on few sessions at the same time. For each session there
//! must be an order of its operations that explains every answer.
//!
//! On several threads, a seed repeats what the clients want to do, but not how the threads
//! interleave. On one thread it repeats everything.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use sessiond::{
    session::{
        credential::Credential,
        engine::{Engine, ResolveOptions},
        principals::{Scope, Target},
        record::Principal,
        store::Store,
    },
    store::{memory::MemoryStore, sled::Durability},
};
use tokio::runtime::Builder;

use crate::{
    buggy::{Bug, Buggy},
    checker::{NO_ORDER, Refused, Timed},
    history::{Deed, Event, explain},
    model::{Answer, Change, Held, Millis, Rules, SessionNumber, TokenNumber},
    names::{Names, options},
    rig::{self, Form, Random, SeededEntropy, TaskClock},
    stores::{self, EitherOf, Kind, Restless, open},
};

const CLIENTS: u64 = 8;
const SLOTS: usize = 16;
/// The operations of each client.
const OPERATIONS: u64 = 100;
const KEYS: [&str; 4] = ["a", "b", "c", "d"];
const PRINCIPALS: [&str; 3] = ["", "ann", "bob"];

/// Short durations, with a granularity at which every later touch moves the deadline. So
/// touches, expiry and cleanups take part in the races.
const RULES: Rules = Rules {
    duration: 300,
    granularity: Some(0),
    absolute: Some(2_000),
    roll_grace: 25,
    automatic_touch: true,
    persistent: true,
    max_data_bytes: 120,
    limit: None,
};
const SHORT_DURATION: Millis = 60;

/// The state that the clients share.
struct Field {
    engine: Engine,
    /// Numbers the invocations and the answers.
    order: AtomicU64,
    now: AtomicU64,
    /// The latest time of a cleanup that has begun.
    swept: AtomicU64,
    slots: [Mutex<Slot>; SLOTS],
    names: Mutex<Names>,
    history: Mutex<Vec<Timed<Event>>>,
}

/// A session that many clients use, and its successor when it has ended.
#[derive(Default)]
struct Slot {
    /// In the order in which clients received them, including those of earlier sessions.
    tokens: Vec<(String, SessionNumber, TokenNumber)>,
    /// The version that was seen last.
    version: u64,
    /// No client has found it ended yet.
    live: bool,
}

/// An operation that was invoked and has no answer yet.
struct Begun {
    invoked: u64,
    now: Millis,
}

impl Field {
    fn new(store: Arc<dyn Store>, seed: u64) -> Self {
        Self {
            engine: rig::engine(&RULES, 0, store, SeededEntropy::new(seed)),
            order: AtomicU64::new(0),
            now: AtomicU64::new(rig::START),
            swept: AtomicU64::new(0),
            slots: Default::default(),
            names: Mutex::default(),
            history: Mutex::default(),
        }
    }

    /// Starts an operation. Each one moves the clock forward a little.
    fn begin(&self, random: &mut Random) -> Begun {
        let step = if random.once_in(80) { 30 } else { random.below(2) };
        let now = self.now.fetch_add(step, Ordering::SeqCst);
        Begun { invoked: self.order.fetch_add(1, Ordering::SeqCst), now }
    }

    fn end(&self) -> (u64, Millis) {
        let returned = self.order.fetch_add(1, Ordering::SeqCst);
        (returned, self.swept.load(Ordering::SeqCst))
    }

    fn record(&self, begun: &Begun, (returned, swept): (u64, Millis), deed: Deed, answer: Answer) {
        let session = match (&deed, &answer) {
            (Deed::Create(_), Answer::Created(view, _)) => view.number,
            (Deed::Create(_), other) => panic!("expected a new session, found {other:?}"),
            (Deed::Resolve { held, .. } | Deed::Replace { held }, _)
            | (Deed::Touch(held, _) | Deed::Write(held, _) | Deed::Destroy(held), _) => {
                held.session
            }
            (Deed::Revoke(session, _), _) => *session,
        };
        let event = Event { session, now: begun.now, deed, answer, swept };
        let operation = Timed { invoked: begun.invoked, returned, operation: event };
        self.history.lock().push(operation);
    }

    /// Stores what a client received, for all clients.
    fn learn(&self, slot: usize, session: SessionNumber, answer: &Answer) {
        let mut slot = self.slots[slot].lock();
        match answer {
            Answer::Active(view, told)
            | Answer::Created(view, told)
            | Answer::Written(view, told) => {
                slot.version = view.version;
                if let Some(number) = told.token {
                    let text = self.names.lock().text(number).to_owned();
                    slot.tokens.push((text, view.number, number));
                    slot.live = true;
                }
            }
            Answer::Absent(_) | Answer::Gone | Answer::Destroyed { .. } | Answer::Revoked(_) => {
                if slot.tokens.last().is_some_and(|(_, newest, _)| *newest == session) {
                    slot.live = false;
                }
            }
            Answer::VersionMismatch { current } => slot.version = *current,
            Answer::TooLarge { .. } => {}
            Answer::TooManySessions | Answer::Listed(_) => {
                unreachable!("no client makes these calls")
            }
        }
    }

    async fn create(&self, at: usize, random: &mut Random) {
        let mut change = change(random);
        change.if_version = None;
        let begun = self.begin(random);
        let created = TaskClock::at(begun.now, self.engine.create(options(&change))).await;
        let ended = self.end();
        let answer = self.names.lock().created(created);
        self.created(at, &begun, ended, change, answer);
    }

    fn created(
        &self,
        at: usize,
        begun: &Begun,
        ended: (u64, Millis),
        mut change: Change,
        answer: Answer,
    ) {
        let Answer::Created(view, told) = &answer else {
            panic!("expected a new session, found {answer:?}");
        };
        change.next_token = told.token.expect("a new session has a new token");
        self.learn(at, view.number, &answer);
        self.record(begun, ended, Deed::Create(change), answer);
    }

    /// Does one operation of a client.
    async fn act(&self, at: usize, random: &mut Random) {
        let (token, version) = {
            let mut slot = self.slots[at].lock();
            if !slot.live && random.once_in(3) {
                // So that the other clients do not replace it too.
                slot.live = true;
                (None, 0)
            } else {
                let back = if random.once_in(6) { random.below(4) as usize } else { 0 };
                let newest = slot.tokens.len().saturating_sub(1);
                (slot.tokens.get(newest.saturating_sub(back)).cloned(), slot.version)
            }
        };
        let Some((text, session, token)) = token else {
            return self.create(at, random).await;
        };
        let held = Held { session, token, outdated: false };
        let presented = self.engine.present(Credential::Token(text.as_bytes()));
        match random.below(32) {
            0..9 => {
                let peek = random.once_in(2);
                let resolve = ResolveOptions { peek, create: random.once_in(8) };
                // Half of the operations skip the answer from memory and always ask the store.
                let recalls = random.once_in(2);
                let begun = self.begin(random);
                let resolve = async {
                    match recalls {
                        true => rig::resolve(&self.engine, &presented, resolve).await,
                        false => self.engine.resolve(&presented, resolve).await,
                    }
                };
                let resolved = TaskClock::at(begun.now, resolve).await;
                let ended = self.end();
                let answer = self.names.lock().found(resolved);
                if matches!(answer, Answer::Created(..)) {
                    let absent = Answer::Absent(crate::model::Why::NotFound);
                    self.record(&begun, ended, Deed::Replace { held }, absent);
                    return self.created(at, &begun, ended, Change::default(), answer);
                }
                self.learn(at, session, &answer);
                self.record(&begun, ended, Deed::Resolve { held, peek }, answer);
            }
            9..14 => {
                let recalls = random.once_in(2);
                let duration = own_duration(random);
                let begun = self.begin(random);
                let touch = async {
                    match recalls {
                        true => rig::touch(&self.engine, &presented, duration).await,
                        false => {
                            let duration = duration.map(Duration::from_millis);
                            self.engine.touch(&presented, duration).await
                        }
                    }
                };
                let touched = TaskClock::at(begun.now, touch).await;
                let ended = self.end();
                let answer = self.names.lock().found(touched);
                self.learn(at, session, &answer);
                self.record(&begun, ended, Deed::Touch(held, duration), answer);
            }
            14..29 => {
                let mut change = change(random);
                change.if_version = random.once_in(3).then_some(version.max(1));
                let begun = self.begin(random);
                let write = self.engine.write(&presented, options(&change));
                let written = TaskClock::at(begun.now, write).await;
                let ended = self.end();
                let answer = self.names.lock().written(written);
                change.next_token = match &answer {
                    Answer::Written(_, told) => told.token.unwrap_or(NO_TOKEN),
                    _ => NO_TOKEN,
                };
                self.learn(at, session, &answer);
                self.record(&begun, ended, Deed::Write(held, change), answer);
            }
            29..31 => {
                let name = (!random.once_in(4)).then(|| PRINCIPALS[1 + random.below(2) as usize]);
                let id = self.names.lock().id(session);
                let target = match name {
                    Some(name) => {
                        let whose = Principal::new(name.as_bytes()).expect("short");
                        Target::SessionsOf(whose, vec![id])
                    }
                    None => Target::Sessions(vec![id]),
                };
                let begun = self.begin(random);
                let revoked = TaskClock::at(begun.now, self.engine.revoke(target)).await;
                let ended = self.end();
                let answer = self.names.lock().revoked(revoked);
                if answer == Answer::Revoked(1) {
                    self.learn(at, session, &answer);
                }
                let deed = Deed::Revoke(session, name.map(str::to_owned));
                self.record(&begun, ended, deed, answer);
            }
            _ => {
                let begun = self.begin(random);
                let destroyed =
                    TaskClock::at(begun.now, self.engine.destroy(&presented, Scope::This)).await;
                let ended = self.end();
                let answer = self.names.lock().destroyed(destroyed);
                self.learn(at, session, &answer);
                self.record(&begun, ended, Deed::Destroy(held), answer);
            }
        }
    }

    async fn cleanup(&self, random: &mut Random) {
        let now = self.now.load(Ordering::SeqCst);
        self.swept.fetch_max(now, Ordering::SeqCst);
        let slice = 1 + random.below(4) as usize;
        TaskClock::at(now, self.engine.cleanup(slice)).await.expect("expected the store to work");
    }
}

/// Any slot, or the one that most clients use at this time.
fn slot(operation: u64, random: &mut Random) -> usize {
    let crowd = operation * SLOTS as u64 / OPERATIONS;
    let slot = if random.once_in(2) { crowd } else { random.below(SLOTS as u64) };
    slot as usize
}

/// The number of no token. For answers that contain no token, because none was made.
const NO_TOKEN: TokenNumber = TokenNumber::MAX;

fn change(random: &mut Random) -> Change {
    let mut change =
        Change { replace: random.once_in(12), roll: random.once_in(8), ..Change::default() };
    for key in KEYS {
        match random.below(6) {
            0 | 1 => change.set.push((key.to_owned(), random.below(1_000_000).to_string())),
            2 => change.unset.push(key.to_owned()),
            _ => {}
        }
    }
    if random.once_in(12) {
        let principal = PRINCIPALS[random.below(PRINCIPALS.len() as u64) as usize];
        change.principal = Some(principal.to_owned());
    }
    change.duration = own_duration(random);
    change.persistent = random.once_in(12).then(|| random.once_in(2));
    change.label = random.once_in(12).then(|| random.below(3).to_string());
    change
}

fn own_duration(random: &mut Random) -> Option<Millis> {
    let short = random.once_in(3);
    random.once_in(16).then_some(if short { SHORT_DURATION } else { RULES.duration })
}

/// The figures of a run.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    sessions: usize,
    operations: usize,
    /// How many of these overlapped with another operation on the same session.
    overlapping: usize,
    /// The most situations that one search examined.
    hardest: usize,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.operations += other.operations;
        self.overlapping += other.overlapping;
        self.hardest = self.hardest.max(other.hardest);
    }
}

/// One seed: runs all clients until they end, and then searches for an order of each session.
async fn run(store: Arc<dyn Store>, seed: u64) -> Result<Tally, String> {
    let field = Arc::new(Field::new(Arc::new(Restless::new(store, seed)), seed));
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let field = Arc::clone(&field);
            tokio::spawn(async move {
                let mut random = Random::stream(seed, client);
                for number in 0..OPERATIONS {
                    let slot = slot(number, &mut random);
                    field.act(slot, &mut random).await;
                }
            })
        })
        .collect();
    let sweeper = Arc::clone(&field);
    clients.push(tokio::spawn(async move {
        let mut random = Random::stream(seed, CLIENTS);
        for _ in 0..OPERATIONS / 2 {
            sweeper.cleanup(&mut random).await;
        }
    }));
    for client in clients {
        client.await.map_err(|error| format!("seed {seed}: a client panicked: {error}"))?;
    }
    judge(seed, std::mem::take(&mut *field.history.lock()))
}

fn judge(seed: u64, history: Vec<Timed<Event>>) -> Result<Tally, String> {
    let mut sessions: BTreeMap<SessionNumber, Vec<Timed<Event>>> = BTreeMap::new();
    for event in history {
        sessions.entry(event.operation.session).or_default().push(event);
    }
    let mut tally = Tally { sessions: sessions.len(), ..Tally::default() };
    for (number, history) in sessions {
        tally.operations += history.len();
        tally.overlapping += history.iter().filter(|one| overlaps(one, &history)).count();
        let looked_at = explain(&RULES, history).map_err(|refused| match refused {
            Refused::Impossible(why) => format!("seed {seed}, session {number}: {why}"),
            Refused::Undecided { looked_at } => format!(
                "seed {seed}, session {number}: expected an answer within {looked_at} situations"
            ),
        })?;
        tally.hardest = tally.hardest.max(looked_at);
    }
    Ok(tally)
}

fn overlaps(one: &Timed<Event>, history: &[Timed<Event>]) -> bool {
    let at_once =
        |other: &&Timed<Event>| other.invoked < one.returned && one.invoked < other.returned;
    // The operation always counts itself.
    history.iter().filter(at_once).count() > 1
}

/// The fastest one for most seeds. The other ones make an operation wait between its effect and
/// its answer.
fn durability(seed: u64) -> Durability {
    match seed % 8 {
        0 => Durability::Synced,
        1..4 => Durability::Flushed,
        _ => Durability::Buffered,
    }
}

fn hunt(kind: Kind) {
    let Some(redis) = stores::Engine::start(kind) else { return };
    let form = Form::of_environment();
    let first = form.seed();
    let seeds = form.pick(20, 200, 2_000);
    let runtime =
        Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("a runtime");
    let mut total = Tally::default();
    for seed in first..first + seeds {
        let directory = tempfile::tempdir().expect("a scratch folder");
        // A redis store connects in the runtime.
        let entered = runtime.enter();
        let opened = open(kind, &redis, directory.path(), durability(seed));
        drop(entered);
        let tally = runtime.block_on(run(opened.store, seed));
        total.add(tally.unwrap_or_else(|why| panic!("{kind:?}, {why}")));
    }
    let Tally { sessions, operations, overlapping, hardest } = total;
    rig::report(&format!(
        "rig linearizability: {kind:?}, {form:?}, seed {first}: {seeds} seeds, {operations} operations on {sessions} sessions, {overlapping} of them concurrent with others, at most {hardest} situations in a search"
    ));
}

#[test]
fn memory() {
    hunt(Kind::Memory);
}

#[test]
fn sled_with_a_table() {
    hunt(Kind::SledWithTable);
}

#[test]
fn sled_without_a_table() {
    hunt(Kind::SledWithoutTable);
}

#[test]
fn redis() {
    hunt(Kind::Redis);
}

#[test]
fn redis_cluster() {
    hunt(Kind::RedisCluster);
}

/// Two daemons on one Redis: each sees the changes of the other.
#[test]
fn redis_of_two_daemons() {
    let Some(redis) = stores::Engine::start(Kind::Redis) else { return };
    let form = Form::of_environment();
    let (first, seeds) = (form.seed(), form.pick(20, 200, 2_000));
    let runtime =
        Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("a runtime");
    let mut total = Tally::default();
    for seed in first..first + seeds {
        let world = seed.to_string();
        let entered = runtime.enter();
        let store = EitherOf::new(Arc::new(redis.store(&world)), Arc::new(redis.store(&world)));
        drop(entered);
        let tally = runtime.block_on(run(Arc::new(store), seed));
        total.add(tally.unwrap_or_else(|why| panic!("two daemons, {why}")));
    }
    let Tally { sessions, operations, overlapping, hardest } = total;
    rig::report(&format!(
        "rig linearizability: Redis with two daemons, {form:?}, seed {first}: {seeds} seeds, {operations} operations on {sessions} sessions, {overlapping} of them concurrent with others, at most {hardest} situations in a search"
    ));
}

/// Each bug must be found within this many seeds.
const PATIENCE: u64 = 400;

/// On one thread, so that a seed either always finds the bug or never does.
fn run_with(bug: Option<Bug>, seed: u64) -> Result<Tally, String> {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let store = Buggy::new(Arc::new(MemoryStore::default()), bug, seed);
    runtime.block_on(run(Arc::new(store), seed))
}

#[test]
fn every_seeded_bug_is_caught() {
    let first = Form::of_environment().seed();
    let mut caught = Vec::new();
    for bug in Bug::ALL {
        let at = (first..first + PATIENCE).find(|&seed| match run_with(Some(bug), seed) {
            Ok(_) => false,
            Err(why) => {
                assert!(
                    why.contains(NO_ORDER),
                    "{bug:?}: expected the search to find the bug: {why}"
                );
                true
            }
        });
        let at = at.unwrap_or_else(|| {
            panic!("{bug:?}: expected to find the bug within {PATIENCE} seeds from {first}")
        });
        caught.push(format!("{bug:?} {}", at - first + 1));
    }
    rig::report(&format!(
        "rig linearizability: seed {first}: found all {} seeded bugs; seeds needed: {}",
        caught.len(),
        caught.join(", ")
    ));
}

/// Shows that the runs above find the bug and not an effect of the wrapper around the store.
#[test]
fn without_a_bug_nothing_is_caught() {
    let first = Form::of_environment().seed();
    for seed in first..first + PATIENCE {
        if let Err(why) = run_with(None, seed) {
            panic!("expected an order without a seeded bug: {why}");
        }
    }
}
