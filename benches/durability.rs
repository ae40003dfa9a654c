//! The cost of durability: `cargo bench --bench durability`
//!
//! Interleaved rounds in one run measure writes to the embedded store, 64 in flight, at each
//! level of durability, and single fdatasync calls on a plain file on the same disk. The output
//! has ratios of the median rates. The number of operations is fixed.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use sessiond::{
    session::{
        clock::Moment,
        data::Data,
        id::{PublicId, VerifierHash},
        lifetime::{Granularity, Lifetime},
        record::{Edit, Record, Update},
        store::Store,
    },
    store::sled::{Durability, OnDamage, SledDatabase, SledOptions, SledStore},
};

const ROUNDS: usize = 9;
const IN_FLIGHT: u32 = 64;
const SESSIONS: u32 = 10_000;
const DATA_BYTES: usize = 400;
/// The writes of each task in one round.
const WRITES: u32 = 50;
const SYNCS: u32 = 50;

const NOW: Moment = Moment::from_unix_millis(1_000_000);
const VERIFIER: VerifierHash = VerifierHash::from_bytes([1; 32]);
const LIFETIME: Lifetime = Lifetime {
    duration: Duration::from_secs(3600),
    granularity: Granularity::Auto,
    absolute: None,
};

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let directory = tempfile::tempdir_in(".").expect("a scratch folder on this disk");
    let levels = [
        ("buffered", Durability::Buffered),
        ("flushed", Durability::Flushed),
        ("synced", Durability::Synced),
    ];
    let stores = levels.map(|(name, level)| {
        let path = directory.path().join(name);
        runtime.block_on(async { Arc::new(open(&path, level).await) })
    });
    let mut rates: [Vec<f64>; 4] = Default::default();
    for round in 0..ROUNDS {
        for (level, store) in stores.iter().enumerate() {
            rates[level].push(runtime.block_on(writes(store, round as u32)));
        }
        rates[3].push(syncs(&directory.path().join("plain")));
    }
    let [buffered, flushed, synced, one] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    println!("writes of {DATA_BYTES} bytes, {IN_FLIGHT} in flight, medians of {ROUNDS} rounds");
    println!("flushed / buffered:                 {:.2} (at least 0.5)", flushed / buffered);
    println!("synced / one fdatasync at a time:   {:.1} (at least 20)", synced / one);
    println!(
        "buffered / one fdatasync at a time: {:.1} (the upper bound, without any sync)",
        buffered / one
    );
    println!("synced / buffered:                  {:.2}", synced / buffered);
}

async fn open(path: &Path, write: Durability) -> SledStore {
    let database = SledDatabase::open(SledOptions {
        path: path.to_owned(),
        cache_bytes: 64 << 20,
        flush_interval: Duration::from_millis(100),
        threads: 2,
        max_pending: 4096,
        min_free_bytes: 0,
        on_damage: OnDamage::Refuse,
        write,
        destroy: Durability::Synced,
        roll: Durability::Synced,
    })
    .expect("a fresh database opens");
    let store = database.store("default").expect("a store");
    for start in (0..SESSIONS).step_by(IN_FLIGHT as usize) {
        let batch = start..SESSIONS.min(start + IN_FLIGHT);
        let creates = batch.map(|number| store.create(id(number), record()));
        for created in futures_util::future::join_all(creates).await {
            created.expect("the store works").expect("the id is free");
        }
    }
    store
}

fn id(number: u32) -> PublicId {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
    PublicId::from_bytes(bytes)
}

fn data(fill: u8) -> Data {
    let text = format!(r#"{{"a":"{}"}}"#, char::from(fill).to_string().repeat(DATA_BYTES - 8));
    Data::parse(Bytes::from(text)).expect("JSON")
}

fn record() -> Record {
    Record {
        verifier: VERIFIER,
        version: 1,
        create_time: NOW,
        deadline: NOW + Duration::from_secs(7200),
        duration: None,
        principal: Default::default(),
        data: data(b'x'),
        extension: Default::default(),
    }
}

/// Returns writes per second.
async fn writes(store: &Arc<SledStore>, round: u32) -> f64 {
    let started = Instant::now();
    let tasks = (0..IN_FLIGHT).map(|task| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            for write in 0..WRITES {
                let number = (round * 7919 + task * WRITES + write) % SESSIONS;
                let update = Update {
                    verifier: VERIFIER,
                    lifetime: LIFETIME,
                    now: NOW,
                    if_version: None,
                    edit: Edit {
                        replace: false,
                        unset: Vec::new(),
                        set: data(b'y'),
                        limit_bytes: 1 << 16,
                    },
                    next_verifier: VERIFIER,
                    roll_grace: Duration::from_secs(60),
                    roll: false,
                    principal: None,
                    duration: None,
                    persistent: None,
                    label: None,
                };
                let written = store.write(id(number), Arc::new(update)).await;
                written.expect("the store works").expect("it is there").expect("it is taken");
            }
        })
    });
    for task in futures_util::future::join_all(tasks).await {
        task.expect("a writer does not panic");
    }
    f64::from(IN_FLIGHT * WRITES) / started.elapsed().as_secs_f64()
}

/// Returns writes per second to a plain file, with one fdatasync for each write.
fn syncs(path: &Path) -> f64 {
    let mut file = File::create(path).expect("a file");
    let started = Instant::now();
    for _ in 0..SYNCS {
        file.write_all(&[b'z'; DATA_BYTES]).expect("written");
        file.sync_data().expect("synced");
    }
    f64::from(SYNCS) / started.elapsed().as_secs_f64()
}
