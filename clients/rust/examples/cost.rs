//! What an operation costs the client: CPU time of this process for each Resolve of a session of
//! 400 bytes, whose data are read.
//!
//! `cargo run --release -p sessiond-client --example cost -- ADDRESS [IN_FLIGHT [SECONDS]]`

use std::{
    env, fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sessiond_client::{Client, Credential, Data, Result};

/// Ticks of a process's CPU time in /proc, which Linux fixes for programs.
const TICKS_PER_SECOND: f64 = 100.0;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:50051".to_owned());
    let in_flight = arguments.next().map_or(64, |text| text.parse().expect("a number"));
    let seconds = arguments.next().map_or(3, |text| text.parse().expect("a number"));
    let client = Client::new(address)?;
    let mut data = Data::new();
    data.insert("user", "ann")?;
    data.insert("cart", vec!["x".repeat(40); 8])?;
    let written = client.write(&Credential::NONE, data.into()).await?;
    let credential = Credential::cookie_header(
        written.set_cookie[0].split(';').next().unwrap_or_default().to_owned(),
    );

    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..in_flight)
        .map(|_| {
            let (client, credential) = (client.clone(), credential.clone());
            let (over, done) = (Arc::clone(&over), Arc::clone(&done));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let found = client.resolve(&credential).await?;
                    let session = found.session.expect("a live session");
                    assert_eq!(session.data.get::<String>("user")?.as_deref(), Some("ann"));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, sessiond_client::Error>(())
            })
        })
        .collect();
    // What is not counted warms up.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (cpu, count, began) = (cpu_seconds(), done.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let elapsed = began.elapsed().as_secs_f64();
    let count = (done.load(Ordering::Relaxed) - count) as f64;
    let cpu = cpu_seconds() - cpu;
    println!(
        "{in_flight} in flight: {:.2} us of CPU for each Resolve, {:.0} per second",
        cpu / count * 1e6,
        count / elapsed
    );
    over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.expect("no panic")?;
    }
    client.destroy(&credential).await?;
    client.close().await;
    Ok(())
}

/// The CPU time of this process.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).map(|text| text.parse::<f64>().expect("ticks")).sum();
    ticks / TICKS_PER_SECOND
}
