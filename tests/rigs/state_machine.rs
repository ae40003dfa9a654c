//! A state machine: random operations, one after the other, on an engine and on
//! the model. After each step both must say the same.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    sync::Arc,
};

use proptest::{
    prelude::*,
    test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestError, TestRng, TestRunner},
};
use sessiond::{
    session::{
        credential::Credential,
        engine::{Engine, ResolveOptions},
        id::SessionId,
    },
    store::{AnyStore, sled::Durability},
};

use crate::{
    model::{Answer, Change, Held, Millis, Model, Rules, SessionNumber, Shown, TokenNumber, Why},
    names::{Names, options},
    rig::{self, COOKIE_NAME, Form, Random, SeededEntropy, TaskClock},
    steps::{
        DURATIONS, Guess, KEYS, PRINCIPALS, Piece, Request, Step, VALUES, Who, durability, rules,
        step,
    },
    stores::{Kind, Opened, Shared, open},
};

const MAX_STEPS: usize = 60;
/// Cookies of one name that an engine looks at.
const MAX_CANDIDATES: usize = 8;
/// A token as a browser keeps it.
struct Token {
    text: String,
    session: SessionNumber,
    number: TokenNumber,
    epoch: u8,
}

/// An engine and the model beside it.
struct Machine {
    kind: Kind,
    durability: Durability,
    rules: Rules,
    directory: tempfile::TempDir,
    opened: Option<(Option<sessiond::store::sled::SledDatabase>, Arc<AnyStore>)>,
    engine: Option<Engine<Shared<AnyStore>>>,
    entropy: Arc<SeededEntropy>,
    epoch: u8,
    now: Millis,
    model: Model,
    names: Names,
    /// In the order in which they were given.
    tokens: Vec<Token>,
    answers: Answers,
}

/// How often each kind of answer was given: a hunt that meets only closed doors
/// would find nothing.
type Answers = BTreeMap<&'static str, u32>;

type Outcome = Result<(), TestCaseError>;

impl Machine {
    fn new(kind: Kind, durability: Durability, rules: Rules, seed: u64) -> Self {
        let mut machine = Self {
            kind,
            durability,
            rules,
            directory: tempfile::tempdir().expect("a scratch folder"),
            opened: None,
            engine: None,
            entropy: SeededEntropy::new(seed),
            epoch: 0,
            now: rig::START,
            model: Model::default(),
            names: Names::default(),
            tokens: Vec::new(),
            answers: Answers::new(),
        };
        machine.open();
        machine
    }

    fn open(&mut self) {
        let Opened { database, store } = open(self.kind, self.directory.path(), self.durability);
        self.opened = Some((database, Arc::new(store)));
        self.make_engine();
    }

    fn make_engine(&mut self) {
        let (_, store) = self.opened.as_ref().expect("the store is open");
        let store = Shared(Arc::clone(store));
        self.engine =
            Some(rig::engine(&self.rules, self.epoch, store, Arc::clone(&self.entropy) as _));
    }

    fn engine(&self) -> &Engine<Shared<AnyStore>> {
        self.engine.as_ref().expect("the engine is running")
    }

    async fn at<F: Future>(&self, work: F) -> F::Output {
        TaskClock::at(self.now, work).await
    }

    async fn step(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Create(request) => {
                let change = self.change(request, None);
                let created = self.at(self.engine().create(options(&change))).await;
                let number = self.names.next_session();
                let expected = self.model.create(&self.rules, self.now, number, &change);
                let found = self.names.created(created);
                self.agree(expected, found)?;
            }
            Step::Resolve { who, peek, create } => {
                let (credential, shown) = self.show(who);
                let resolve = ResolveOptions { peek: *peek, create: *create };
                let engine = self.engine();
                let presented = engine.present(credential.as_credential());
                let resolved = self.at(engine.resolve(&presented, resolve)).await;
                let mut expected = self.model.resolve(&self.rules, self.now, &shown, *peek);
                if *create && matches!(expected, Answer::Absent(_)) {
                    let change = self.numbered(Change::default());
                    let number = self.names.next_session();
                    expected = self.model.create(&self.rules, self.now, number, &change);
                }
                let found = self.names.resolved(resolved);
                self.agree(expected, found)?;
            }
            Step::Touch(who) => {
                let (credential, shown) = self.show(who);
                let engine = self.engine();
                let presented = engine.present(credential.as_credential());
                let touched = self.at(engine.touch(&presented)).await;
                let expected = self.model.touch(&self.rules, self.now, &shown);
                let found = self.names.touched(touched);
                self.agree(expected, found)?;
            }
            Step::Write(who, request) => {
                let (credential, shown) = self.show(who);
                let change = self.change(request, Some(&shown));
                let engine = self.engine();
                let presented = engine.present(credential.as_credential());
                let written = self.at(engine.write(&presented, options(&change))).await;
                let expected = self.model.write(&self.rules, self.now, &shown, &change);
                let found = self.names.written(written);
                self.agree(expected, found)?;
            }
            Step::Destroy(who) => {
                let (credential, shown) = self.show(who);
                let engine = self.engine();
                let presented = engine.present(credential.as_credential());
                let destroyed = self.at(engine.destroy(&presented)).await;
                let expected = self.model.destroy(&self.rules, self.now, &shown);
                let found = self.names.destroyed(destroyed);
                self.agree(expected, found)?;
            }
            Step::Cleanup { slice } => self.cleanup(*slice).await?,
            Step::Sweep { slice } => {
                let removed = self.at(self.engine().sweep(*slice)).await.expect("the store works");
                let due = self.model.due(self.now);
                prop_assert_eq!(removed, due.len() as u64, "a sweep removes all that is due");
                self.model.sessions.retain(|number, _| !due.contains(number));
            }
            Step::Advance(by) => self.now += by,
            Step::Rotate => {
                self.epoch = self.epoch.saturating_add(1);
                self.make_engine();
            }
            Step::Restart => self.restart().await?,
        }
        let (found, expected) = (self.engine().count(), self.model.sessions.len() as u64);
        prop_assert_eq!(found, expected, "sessions stored, found and expected");
        Ok(())
    }

    /// The answers are the same. What the browser is told, it keeps.
    fn agree(&mut self, expected: Answer, found: Answer) -> Outcome {
        prop_assert_eq!(&found, &expected, "the answer, found and expected by the model");
        *self.answers.entry(kind_of(&found)).or_default() += 1;
        let (Answer::Active(view, told)
        | Answer::Created(view, told)
        | Answer::Written(view, told)) = found
        else {
            return Ok(());
        };
        if let Some(cookie) = told.cookie {
            let text = self.names.text(cookie.token).to_owned();
            let (session, number, epoch) = (view.number, cookie.token, self.epoch);
            self.tokens.push(Token { text, session, number, epoch });
        }
        Ok(())
    }

    /// A slice may remove any that is due, and the answer says how many.
    async fn cleanup(&mut self, slice: usize) -> Outcome {
        let swept = self.at(self.engine().cleanup(slice)).await.expect("the store works");
        let due = self.model.due(self.now);
        let mut gone = Vec::new();
        for number in &due {
            if self.peek(*number).await == Answer::Absent(Why::NotFound) {
                gone.push(*number);
            }
        }
        prop_assert!(swept.examined <= slice, "a slice has a limit: {swept:?}");
        prop_assert_eq!(swept.removed, gone.len(), "the answer counts what was removed");
        if swept.examined < slice {
            prop_assert_eq!(gone.len(), due.len(), "all is removed that was due");
        }
        self.model.sessions.retain(|number, _| !gone.contains(number));
        let earliest = self.model.sessions.values().map(|session| session.deadline).min();
        prop_assert_eq!(swept.next.is_some(), earliest.is_some(), "whether anything is left");
        let early = swept.next.map(|next| next.unix_millis()) <= earliest;
        prop_assert!(early, "{:?} is after the earliest deadline {earliest:?}", swept.next);
        Ok(())
    }

    /// What the engine says of a session to whom holds its valid token.
    async fn peek(&mut self, number: SessionNumber) -> Answer {
        let current = self.model.sessions[&number].current;
        let token = self.tokens.iter().rfind(|token| token.number == current);
        let text = token.expect("every token was given to somebody").text.clone();
        let engine = self.engine();
        let presented = engine.present(Credential::Token(text.as_bytes()));
        let peek = ResolveOptions { peek: true, create: false };
        let resolved = self.at(engine.resolve(&presented, peek)).await;
        self.names.resolved(resolved)
    }

    async fn restart(&mut self) -> Outcome {
        if self.kind == Kind::Memory {
            return Ok(());
        }
        self.engine = None;
        // The store first: its end writes the count into the database.
        if let Some((database, store)) = self.opened.take() {
            drop(store);
            drop(database);
        }
        self.open();
        self.compare_all().await
    }

    /// Every session that exists, and every token that was ever given.
    async fn compare_all(&mut self) -> Outcome {
        for at in 0..self.tokens.len() {
            let who = Who::Token(Piece::Any(at));
            Box::pin(self.step(&Step::Resolve { who, peek: true, create: false })).await?;
        }
        Ok(())
    }

    fn numbered(&self, change: Change) -> Change {
        Change { next_token: self.names.next_token(), ..change }
    }

    fn change(&self, request: &Request, shown: Option<&Shown>) -> Change {
        let version = shown.map(|shown| {
            let found = shown.held.iter().find_map(|held| self.model.sessions.get(&held.session));
            found.map_or(1, |session| session.version)
        });
        self.numbered(Change {
            set: request
                .set
                .iter()
                .map(|&(key, value)| (KEYS[key].to_owned(), VALUES[value].to_owned()))
                .collect(),
            unset: request.unset.iter().map(|&key| KEYS[key].to_owned()).collect(),
            replace: request.replace,
            if_version: version.and_then(|version| match request.if_version {
                Guess::None => None,
                Guess::Current => Some(version),
                Guess::Next => Some(version + 1),
            }),
            roll: request.roll,
            principal: request.principal.map(|at| PRINCIPALS[at].to_owned()),
            duration: request.duration.map(|at| DURATIONS[at]),
            next_token: 0,
        })
    }

    /// A credential, and what it proves.
    fn show(&self, who: &Who) -> (Offer, Shown) {
        let mut shown = Shown { held: Vec::new(), why: Why::None };
        let offer = match who {
            Who::Nobody => Offer::Nothing,
            Who::Token(piece) => Offer::Token(self.piece(*piece, false, &mut shown)),
            Who::Cookies(pieces) => {
                let mut header = format!("other=1; {COOKIE_NAME}x=2; {COOKIE_NAME}");
                let mut passed_over = shown.clone();
                for (at, piece) in pieces.iter().enumerate() {
                    let shown = if at < MAX_CANDIDATES { &mut shown } else { &mut passed_over };
                    let value = self.piece(*piece, true, shown);
                    header.push_str(&format!(";{COOKIE_NAME}={value}"));
                }
                Offer::Header(header)
            }
        };
        (offer, shown)
    }

    /// The value of one cookie. Adds what it proves.
    fn piece(&self, piece: Piece, in_header: bool, shown: &mut Shown) -> String {
        let (token, spelling) = match piece {
            Piece::Newest(at, spelling) => {
                let sessions = &self.model.sessions;
                let session = sessions.keys().nth(at % sessions.len().max(1));
                let newest = |token: &&Token| Some(&token.session) == session;
                (self.tokens.iter().rfind(newest), spelling)
            }
            Piece::Any(at) => (self.tokens.get(at % self.tokens.len().max(1)), 0),
            Piece::Junk(kind) => {
                shown.why = shown.why.max(Why::Invalid);
                return self.junk(kind);
            }
            Piece::Stranger => (None, 0),
        };
        shown.why = shown.why.max(Why::NotFound);
        let Some(token) = token else {
            let stranger = SessionId::generate(SeededEntropy::new(u64::MAX).as_ref());
            return rig::keyring(self.epoch).sign(&stranger).into_exposed();
        };
        let outdated = token.epoch != self.epoch;
        shown.held.push(Held { session: token.session, token: token.number, outdated });
        let encoded = || token.text.replace('/', "%2F").replace('+', "%2b");
        match spelling {
            1 => format!("s:{}", token.text),
            2 => encoded(),
            3 => format!("s%3A{}", encoded()),
            // Quotes belong to the header; a token has none.
            4 if in_header => format!("\"{}\" ", token.text),
            _ => token.text.clone(),
        }
    }

    fn junk(&self, kind: u8) -> String {
        let Some(token) = self.tokens.last() else { return String::new() };
        let (id, signature) = token.text.split_at(SessionId::TEXT_LEN);
        match kind {
            0 => String::new(),
            1 => id.to_owned(),
            2 => format!("{}{signature}", &id[1..]),
            _ => format!("{id}{}=", signature),
        }
    }
}

fn kind_of(answer: &Answer) -> &'static str {
    match answer {
        Answer::Active(..) => "active",
        Answer::Created(..) => "created",
        Answer::Written(..) => "written",
        Answer::Gone => "gone",
        Answer::VersionMismatch { .. } => "version mismatch",
        Answer::TooLarge { .. } => "too large",
        Answer::Destroyed { count: 0, .. } => "destroyed none",
        Answer::Destroyed { .. } => "destroyed",
        Answer::Absent(Why::None) => "none",
        Answer::Absent(Why::Invalid) => "invalid",
        Answer::Absent(Why::NotFound) => "not found",
        Answer::Absent(Why::Superseded) => "superseded",
        Answer::Absent(Why::Expired) => "expired",
    }
}

/// A credential that owns its text.
enum Offer {
    Nothing,
    Token(String),
    Header(String),
}

impl Offer {
    fn as_credential(&self) -> Credential<'_> {
        match self {
            Self::Nothing => Credential::Absent,
            Self::Token(token) => Credential::Token(token.as_bytes()),
            Self::Header(header) => Credential::CookieHeader(header.as_bytes()),
        }
    }
}

/// One case: a fresh engine, some steps, and a look at everything.
async fn run(
    kind: Kind,
    rules: Rules,
    durability: Durability,
    steps: Vec<Step>,
    answers: &RefCell<Answers>,
) -> Outcome {
    let mut machine = Machine::new(kind, durability, rules, steps.len() as u64);
    for (at, step) in steps.iter().enumerate() {
        let outcome = machine.step(step).await;
        outcome.map_err(|error| match error {
            TestCaseError::Fail(reason) => {
                TestCaseError::fail(format!("step {at}, {step:?}: {reason}"))
            }
            reject => reject,
        })?;
    }
    machine.compare_all().await?;
    let mut all = answers.borrow_mut();
    for (kind, count) in &machine.answers {
        *all.entry(kind).or_default() += count;
    }
    Ok(())
}

fn hunt(kind: Kind) {
    let form = Form::of_environment();
    let seed = form.seed();
    let config = Config {
        cases: form.pick(64, 400, 5_000),
        max_shrink_time: 60_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/rigs/state_machine.seeds",
        ))),
        ..Config::default()
    };
    let cases = config.cases;
    let mut random = Random::stream(seed, kind as u64);
    let bytes: Vec<u8> = (0..4).flat_map(|_| random.next().to_be_bytes()).collect();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let steps_run = Cell::new(0);
    let answers = RefCell::default();
    let strategy = (rules(), durability(), prop::collection::vec(step(), 1..=MAX_STEPS));
    let outcome =
        TestRunner::new_with_rng(config, rng).run(&strategy, |(rules, durability, steps)| {
            steps_run.set(steps_run.get() + steps.len());
            runtime.block_on(run(kind, rules, durability, steps, &answers))
        });
    let steps_run = steps_run.get();
    rig::report(&format!(
        "rig state machine: {kind:?}, {form:?}, seed {seed}: {cases} cases, {steps_run} steps, answers {}",
        format!("{:?}", answers.borrow()).replace('"', "")
    ));
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, (rules, durability, steps))) => {
            let steps: Vec<_> = steps.iter().map(|step| format!("  {step:?}")).collect();
            panic!(
                "{kind:?}, seed {seed}, {durability:?}: {reason}\nunder {rules:?}, smallest case:\n{}",
                steps.join("\n")
            );
        }
        Err(TestError::Abort(reason)) => panic!("{kind:?}, seed {seed}: {reason}"),
    }
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
