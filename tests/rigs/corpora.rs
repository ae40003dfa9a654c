//! Replays the corpora of the fuzz targets, so every test run checks what a fuzzer once found.

use std::{fs, panic, path::Path};

/// The properties of the fuzz targets. `fuzz/` runs the same code under libFuzzer.
#[path = "../../fuzz/src/lib.rs"]
mod targets;

#[test]
fn every_input_of_the_corpora_is_handled() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, run) in targets::TARGETS {
        let folder = corpora.join(name);
        let mut inputs = 0;
        for entry in fs::read_dir(&folder).expect("expected a corpus for each target") {
            let path = entry.expect("an entry").path();
            let input = fs::read(&path).expect("an input");
            if panic::catch_unwind(|| run(&input)).is_err() {
                panic!("{} fails its property; see the message above", path.display());
            }
            inputs += 1;
        }
        assert!(inputs > 0, "expected inputs in {}", folder.display());
    }
}

/// Random changes of the inputs in the corpora, a simple form of what the fuzzer does.
#[test]
fn inputs_near_the_corpora_are_handled() {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    let form = crate::form::Form::of_environment();
    let seed = form.seed();
    let inputs_each = form.pick(200, 5_000, 1_000_000);
    let mut random = StdRng::seed_from_u64(seed);
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, run) in targets::TARGETS {
        let entries = fs::read_dir(corpora.join(name)).expect("expected a corpus for each target");
        let read = |entry: Result<fs::DirEntry, _>| fs::read(entry.expect("an entry").path());
        let inputs: Vec<_> = entries.map(|entry| read(entry).expect("an input")).collect();
        for _ in 0..inputs_each {
            let mut input = inputs[random.random_range(0..inputs.len())].clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..=input.len());
                match random.random_range(0..3) {
                    0 => input.insert(at, random.random()),
                    1 if at < input.len() => input[at] = random.random(),
                    _ => input.truncate(at),
                }
            }
            if panic::catch_unwind(|| run(&input)).is_err() {
                panic!("{name}, seed {seed}: {input:?} fails; see the message above");
            }
        }
    }
    crate::rig::report(&format!(
        "rig corpora: {inputs_each} inputs derived from each corpus, 0 findings; seed {seed}"
    ));
}
