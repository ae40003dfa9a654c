//! A state machine: random operations, one after the other, on an engine and on the model.
//! After each step the answers of both must be equal.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use proptest::{
    prelude::*,
    test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestError, TestRng, TestRunner},
};
use sessiond::{
    session::store::Store,
    store::{
        memory::MemoryStore,
        sled::{Durability, SledDatabase},
    },
};

use crate::{
    buggy::{Bug, Buggy},
    machine::{Answers, Machine, Outcome, World},
    model::Rules,
    rig::{self, Form, Random},
    steps::{Step, durability, rules, step},
    stores::{Engine, Kind, Opened, open},
};

const MAX_STEPS: usize = 60;

/// A store without a seeded bug, in a directory of its own.
struct Real {
    kind: Kind,
    engine: Rc<Engine>,
    durability: Durability,
    database: Option<SledDatabase>,
    // After the database, because fields are dropped in order.
    directory: tempfile::TempDir,
}

impl Real {
    fn new(kind: Kind, engine: &Rc<Engine>, durability: Durability) -> Self {
        let directory = tempfile::tempdir().expect("a scratch folder");
        Self { kind, engine: Rc::clone(engine), durability, directory, database: None }
    }
}

impl World for Real {
    fn open(&mut self) -> Arc<dyn Store> {
        let Opened { database, store } =
            open(self.kind, &self.engine, self.directory.path(), self.durability);
        self.database = database;
        store
    }

    fn lasts(&self) -> bool {
        self.kind != Kind::Memory
    }

    fn sweeps(&self) -> bool {
        !self.kind.is_redis()
    }

    fn close(&mut self) {
        self.database = None;
    }
}

/// One case: a new engine, some steps, and a check of the complete state.
async fn run(
    world: impl World,
    rules: Rules,
    steps: Vec<Step>,
    answers: &RefCell<Answers>,
) -> Outcome {
    let mut machine = Machine::new(world, rules, steps.len() as u64);
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

fn test_rng(random: &mut Random) -> TestRng {
    let bytes: Vec<u8> = (0..4).flat_map(|_| random.next().to_be_bytes()).collect();
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

fn hunt(kind: Kind) {
    let Some(engine) = Engine::start(kind).map(Rc::new) else { return };
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
    let rng = test_rng(&mut random);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let steps_run = Cell::new(0);
    let answers = RefCell::default();
    let strategy = (rules(), durability(), prop::collection::vec(step(), 1..=MAX_STEPS));
    let outcome =
        TestRunner::new_with_rng(config, rng).run(&strategy, |(rules, durability, steps)| {
            steps_run.set(steps_run.get() + steps.len());
            let world = Real::new(kind, &engine, durability);
            runtime.block_on(run(world, rules, steps, &answers))
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

#[test]
fn redis() {
    hunt(Kind::Redis);
}

#[test]
fn redis_cluster() {
    hunt(Kind::RedisCluster);
}

/// A memory store with a seeded bug.
struct Spoiled(Bug);

impl World for Spoiled {
    fn open(&mut self) -> Arc<dyn Store> {
        Arc::new(Buggy::new(Arc::new(MemoryStore::default()), Some(self.0), 0))
    }

    fn lasts(&self) -> bool {
        false
    }
}

/// The bugs that can be seen with one client.
const SEQUENTIAL: [Bug; 12] = [
    Bug::TouchRevives,
    Bug::WriteRecreates,
    Bug::VersionCheckSkipped,
    Bug::RefusedAndYetWritten,
    Bug::VersionNotIncremented,
    Bug::OldIdStaysValid,
    Bug::DestroyAnswersEarly,
    Bug::DestroyWithAnyId,
    Bug::DestroyMissesTheRolled,
    Bug::CleanupTakesTheLiving,
    Bug::RevokeTakesAnybodys,
    Bug::ListForgetsLogins,
];

/// Each bug must be found within this many cases.
const PATIENCE: u32 = 400;

#[test]
fn every_sequential_bug_is_caught() {
    let seed = Form::of_environment().seed();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let mut caught = Vec::new();
    for bug in SEQUENTIAL {
        let config = Config {
            cases: PATIENCE,
            failure_persistence: None,
            max_shrink_iters: 0,
            ..Config::default()
        };
        let mut random = Random::stream(seed, bug as u64);
        let runs = Cell::new(0);
        let strategy = (rules(), prop::collection::vec(step(), 1..=MAX_STEPS));
        let outcome = TestRunner::new_with_rng(config, test_rng(&mut random)).run(
            &strategy,
            |(rules, steps)| {
                runs.set(runs.get() + 1);
                runtime.block_on(run(Spoiled(bug), rules, steps, &RefCell::default()))
            },
        );
        let caught_by_a_difference = matches!(outcome, Err(TestError::Fail(..)));
        assert!(
            caught_by_a_difference,
            "{bug:?}: expected to find the bug within {PATIENCE} cases of seed {seed}: {outcome:?}"
        );
        caught.push(format!("{bug:?} {}", runs.get()));
    }
    rig::report(&format!(
        "rig state machine: seed {seed}: found all {} seeded bugs; cases needed: {}",
        caught.len(),
        caught.join(", ")
    ));
}
