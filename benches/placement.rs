//! Which calls of sled may run on the reactor: `cargo bench --bench placement`
//!
//! Interleaved rounds in one run measure sled's get and insert, called in place and through the
//! blocking pool. The output has the CPU time of the process per operation, as a ratio to a get
//! in place (medians of all rounds), and how long single calls blocked their thread. The number
//! of operations is fixed; a run takes about half a minute.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

const RECORDS: u64 = 100_000;
const VALUE_BYTES: usize = 500;
const ROUNDS: usize = 15;
const OPERATIONS: u64 = 5_000;
/// How many calls are in flight through the pool, as with requests.
const IN_FLIGHT: u64 = 64;

#[derive(Clone, Copy)]
enum Call {
    Get,
    Insert,
}

fn main() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let db = sled::Config::new()
        .path(directory.path())
        .flush_every_ms(Some(100))
        .open()
        .expect("a fresh database opens");
    let tree = Arc::new(db.open_tree("records").expect("a tree"));
    for number in 0..RECORDS {
        tree.insert(key(number), vec![b'x'; VALUE_BYTES]).expect("sled works");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let cases = [
        ("get in place", Call::Get, false),
        ("get on the pool", Call::Get, true),
        ("insert in place", Call::Insert, false),
        ("insert on the pool", Call::Insert, true),
    ];
    let mut cpu: [Vec<f64>; 4] = Default::default();
    let mut held: [Vec<Duration>; 4] = Default::default();
    for round in 0..ROUNDS {
        for (case, (_, call, pooled)) in cases.iter().enumerate() {
            let before = cpu_time();
            let times = runtime.block_on(work(&tree, *call, *pooled, round as u64));
            cpu[case].push((cpu_time() - before).as_secs_f64() / OPERATIONS as f64);
            held[case].extend(times);
        }
    }
    let base = median(&mut cpu[0].clone());
    println!("| call | CPU per operation | held p50 | p99.9 | max |");
    println!("|---|---|---|---|---|");
    for (case, (name, ..)) in cases.iter().enumerate() {
        held[case].sort_unstable();
        let at = |part: f64| held[case][((held[case].len() - 1) as f64 * part) as usize];
        println!(
            "| {name} | {:.2} | {:?} | {:?} | {:?} |",
            median(&mut cpu[case]) / base,
            at(0.5),
            at(0.999),
            at(1.0),
        );
    }
}

async fn work(tree: &Arc<sled::Tree>, call: Call, pooled: bool, round: u64) -> Vec<Duration> {
    let mut times = Vec::with_capacity(OPERATIONS as usize);
    for start in (0..OPERATIONS).step_by(IN_FLIGHT as usize) {
        let batch = (start..OPERATIONS.min(start + IN_FLIGHT)).map(|number| {
            let tree = Arc::clone(tree);
            move || once(&tree, call, scattered(round * OPERATIONS + number))
        });
        if pooled {
            let tasks: Vec<_> = batch.map(tokio::task::spawn_blocking).collect();
            for task in tasks {
                times.push(task.await.expect("no panic"));
            }
        } else {
            times.extend(batch.map(|run| run()));
        }
    }
    times
}

/// Returns how long one call blocked its thread.
fn once(tree: &sled::Tree, call: Call, number: u64) -> Duration {
    let started = Instant::now();
    match call {
        Call::Get => drop(tree.get(key(number)).expect("sled works")),
        Call::Insert => {
            drop(tree.insert(key(number), vec![b'y'; VALUE_BYTES]).expect("sled works"));
        }
    }
    started.elapsed()
}

fn key(number: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key
}

fn scattered(number: u64) -> u64 {
    number.wrapping_mul(7919) % RECORDS
}

fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).expect("a time")
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
