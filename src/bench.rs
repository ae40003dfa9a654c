//! `sessiond bench`: a load generator, similar to redis-benchmark.
//!
//! It creates sessions, runs operations on them for a limited time, prints the number
//! of operations and their latencies, and destroys the sessions that it created. If
//! you give the daemon's process id, it also prints the CPU time per operation.
//!
//! It speaks the Pipeline by itself, not through `clients/rust`. That client reads the data of each
//! answer, and each operation has a deadline and a task to wake. When it was tried here, it took
//! more CPU for an operation than the daemon did. So a core of it would not keep a core of the
//! daemon busy.

use std::{
    collections::HashMap,
    fs,
    io::{IsTerminal, Write as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde::Serialize;
use sessiond::{
    grpc::pb::{
        Credential, DestroyRequest, PipelineRequest, ResolveRequest, TouchRequest, WriteRequest,
        credential::Kind, pipeline_request, pipeline_response,
        session_service_client::SessionServiceClient,
    },
    server::system::cpu_time,
};
use tokio::{
    sync::{Mutex, Notify, Semaphore, mpsc},
    task::JoinSet,
};
use tonic::{Status, transport::Channel};

use crate::{
    cli::BenchArgs,
    client::{Caller, Problem},
    mix::{Mix, OPERATIONS, Operation},
};

/// The duration of sessions that the create operation makes, because nothing destroys them.
const CREATED_LIFE: Duration = Duration::from_secs(60);
/// Latencies are recorded from 1 µs to 60 s, with three significant digits.
const LONGEST_MICROS: u64 = 60_000_000;
/// The number of parallel calls while sessions are created and destroyed.
const SETTING_UP: usize = 64;

/// What is said of an operation without an answer.
const UNANSWERED: &str = "not answered within --timeout";

/// The results of one operation.
#[derive(Serialize)]
struct Line {
    operation: &'static str,
    count: u64,
    errors: u64,
    per_second: f64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
}

/// The measurements of one worker.
#[derive(Default)]
struct Tally {
    latencies: HashMap<Operation, Histogram<u64>>,
    errors: HashMap<Operation, u64>,
    first_error: Option<String>,
}

impl Tally {
    fn add(&mut self, operation: Operation, started: Instant, failure: Option<String>) {
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let histogram = self.latencies.entry(operation).or_insert_with(histogram);
        histogram.saturating_record(micros.max(1));
        if let Some(failure) = failure {
            *self.errors.entry(operation).or_default() += 1;
            self.first_error.get_or_insert(failure);
        }
    }

    fn merge(&mut self, other: Self) {
        for (operation, latencies) in other.latencies {
            let all = self.latencies.entry(operation).or_insert_with(histogram);
            // All have the same bounds.
            let _ = all.add(latencies);
        }
        for (operation, errors) in other.errors {
            *self.errors.entry(operation).or_default() += errors;
        }
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn lines(&self, seconds: f64) -> Vec<Line> {
        let line = |(name, operation): &(&'static str, Operation)| {
            let latencies = self.latencies.get(operation)?;
            Some(Line {
                operation: name,
                count: latencies.len(),
                errors: self.errors.get(operation).copied().unwrap_or(0),
                per_second: latencies.len() as f64 / seconds,
                p50_us: latencies.value_at_quantile(0.5),
                p99_us: latencies.value_at_quantile(0.99),
                p999_us: latencies.value_at_quantile(0.999),
                max_us: latencies.max(),
            })
        };
        OPERATIONS.iter().filter_map(line).collect()
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_MICROS, 3).expect("the bounds are in order")
}

/// The state that all workers share.
struct Load {
    engine: bytes::Bytes,
    mix: Mix,
    cookies: Vec<bytes::Bytes>,
    data: bytes::Bytes,
    /// Set at the end: workers send no more operations.
    over: AtomicBool,
    /// Tells streams that it is over.
    ended: Notify,
    /// Set after the warm-up: operations count from then on.
    measuring: AtomicBool,
    done: AtomicU64,
}

/// Runs the load and prints the results.
pub(crate) async fn run(caller: &Caller, args: &BenchArgs) -> Result<(), Problem> {
    let mut clients = Vec::new();
    for _ in 0..args.connections {
        clients.push(SessionServiceClient::new(caller.connect().await?));
    }
    let data = format!(r#"{{"a":"{}"}}"#, "x".repeat(args.data_bytes as usize - 8));
    let engine = bytes::Bytes::from(args.engine.clone());
    let cookies = match &args.cookies {
        Some(file) => read_cookies(file)?,
        None => create_sessions(caller, &clients, args, &engine, &data).await?,
    };
    let load = Arc::new(Load {
        engine,
        mix: args.mix.clone(),
        cookies,
        data: data.into(),
        over: AtomicBool::new(false),
        ended: Notify::new(),
        measuring: AtomicBool::new(false),
        done: AtomicU64::new(0),
    });
    let per_connection = args.in_flight.div_ceil(args.connections) as usize;
    let mut workers = JoinSet::new();
    for (number, client) in clients.iter().enumerate() {
        if args.pipeline {
            let request = caller.stream_request(());
            workers.spawn(pipeline(
                client.clone(),
                request,
                Arc::clone(&load),
                per_connection,
                caller.timeout(),
                number as u64,
            ));
        } else {
            for worker in 0..per_connection {
                let seed = (number * per_connection + worker) as u64;
                let caller = caller.clone();
                workers.spawn(unary(caller, client.clone(), Arc::clone(&load), seed));
            }
        }
    }
    let window = time(&load, args).await;
    let mut tally = Tally::default();
    while let Some(worker) = workers.join_next().await {
        tally.merge(worker.map_err(|error| format!("a worker failed: {error}"))?);
    }
    if args.cookies.is_none() {
        destroy_sessions(caller, &clients, &load).await;
    }
    print(args, load.cookies.len(), &tally, &window?)
}

/// The results of all operations together.
struct Window {
    seconds: f64,
    cost: Option<Cost>,
}

/// The CPU time that a process used between two instants, and the operations done in
/// that time.
#[derive(Serialize)]
struct Cost {
    operations: u64,
    cpu_seconds: f64,
    cpu_us_per_operation: f64,
}

impl Cost {
    fn new(operations: u64, cpu: Duration) -> Self {
        let cpu_us_per_operation = cpu.as_secs_f64() * 1e6 / operations.max(1) as f64;
        Self { operations, cpu_seconds: cpu.as_secs_f64(), cpu_us_per_operation }
    }
}

/// The CPU time so far of the process given with `--cpu-of`.
fn spent(args: &BenchArgs) -> Result<Option<Duration>, Problem> {
    let Some(pid) = args.cpu_of else { return Ok(None) };
    let spent = cpu_time(pid);
    spent.map(Some).map_err(|error| format!("cannot read the CPU time of process {pid}: {error}"))
}

/// Warms up, measures, and stops the workers.
async fn time(load: &Load, args: &BenchArgs) -> Result<Window, Problem> {
    tokio::time::sleep(args.warm_up.0).await;
    load.measuring.store(true, Ordering::SeqCst);
    let started = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let mut before = load.done.load(Ordering::Relaxed);
    let (at_first, spent_before) = (before, spent(args));
    while started.elapsed() < args.duration.0 {
        let left = args.duration.0.saturating_sub(started.elapsed());
        tokio::time::sleep(left.min(Duration::from_secs(1))).await;
        let done = load.done.load(Ordering::Relaxed);
        if terminal {
            let second = started.elapsed().as_secs();
            eprint!("\r{second} s: {} operations in the last second   ", done - before);
            let _ = std::io::stderr().flush();
        }
        before = done;
    }
    let (done, spent_after) = (load.done.load(Ordering::Relaxed) - at_first, spent(args));
    let seconds = started.elapsed().as_secs_f64();
    if terminal {
        eprintln!();
    }
    load.over.store(true, Ordering::SeqCst);
    load.ended.notify_waiters();
    let cost = spent_before?.zip(spent_after?);
    let cost = cost.map(|(before, after)| Cost::new(done, after.saturating_sub(before)));
    Ok(Window { seconds, cost })
}

fn print(args: &BenchArgs, sessions: usize, tally: &Tally, window: &Window) -> Result<(), Problem> {
    let Window { seconds, cost } = window;
    let lines = tally.lines(*seconds);
    let mut text = String::new();
    if args.json {
        let report = serde_json::json!({
            "seconds": seconds,
            "connections": args.connections,
            "in_flight": args.in_flight,
            "pipeline": args.pipeline,
            "sessions": sessions,
            "data_bytes": args.data_bytes,
            "operations": lines,
            "cost": cost,
            "first_error": tally.first_error,
        });
        text = format!("{report:#}\n");
    } else {
        use std::fmt::Write;
        text += "operation        count   errors   per second    p50 us    p99 us  p99.9 us    max us\n";
        for line in &lines {
            let Line { operation, count, errors, per_second, p50_us, p99_us, p999_us, max_us } =
                line;
            let _ = writeln!(
                text,
                "{operation:<10}{count:>12}{errors:>9}{per_second:>13.0}\
                 {p50_us:>10}{p99_us:>10}{p999_us:>10}{max_us:>10}"
            );
        }
        if let Some(Cost { operations, cpu_seconds, cpu_us_per_operation }) = cost {
            let _ = writeln!(
                text,
                "CPU of the process: {cpu_us_per_operation:.2} us per operation, \
                 {cpu_seconds:.2} s in total for {operations} operations"
            );
        }
        if let Some(error) = &tally.first_error {
            let _ = writeln!(text, "first error: {error}");
        }
    }
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| format!("cannot write to standard output: {error}"))
}

fn credential(cookie: &bytes::Bytes) -> Option<Credential> {
    Some(Credential { kind: Some(Kind::CookieHeader(cookie.clone())) })
}

impl Load {
    fn request(&self, operation: Operation, random: &mut SmallRng) -> pipeline_request::Operation {
        use pipeline_request::Operation as Request;
        let engine = self.engine.clone();
        let cookie = &self.cookies[random.random_range(0..self.cookies.len())];
        let credential = credential(cookie);
        match operation {
            Operation::Resolve => {
                Request::Resolve(ResolveRequest { engine, credential, ..Default::default() })
            }
            Operation::Touch => Request::Touch(TouchRequest { engine, credential, duration: None }),
            Operation::Write => {
                let set = self.data.clone();
                Request::Write(WriteRequest { engine, credential, set, ..Default::default() })
            }
            Operation::Create => Request::Write(WriteRequest {
                engine,
                set: self.data.clone(),
                duration: prost_types::Duration::try_from(CREATED_LIFE).ok(),
                ..Default::default()
            }),
        }
    }

    fn finished(
        &self,
        tally: &mut Tally,
        operation: Operation,
        started: Instant,
        failure: Option<String>,
    ) {
        self.done.fetch_add(1, Ordering::Relaxed);
        if self.measuring.load(Ordering::Relaxed) {
            tally.add(operation, started, failure);
        }
    }
}

fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

async fn unary(
    caller: Caller,
    client: SessionServiceClient<Channel>,
    load: Arc<Load>,
    seed: u64,
) -> Tally {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    while !load.over.load(Ordering::Relaxed) {
        let operation = load.mix.pick(&mut random);
        let request = load.request(operation, &mut random);
        let started = Instant::now();
        let failure = call(&caller, client.clone(), request).await.err();
        load.finished(&mut tally, operation, started, failure);
    }
    tally
}

async fn call(
    caller: &Caller,
    mut client: SessionServiceClient<Channel>,
    request: pipeline_request::Operation,
) -> Result<(), Problem> {
    use pipeline_request::Operation as Request;
    let called = async {
        match request {
            Request::Resolve(request) => client.resolve(caller.request(request)).await.map(drop),
            Request::Touch(request) => client.touch(caller.request(request)).await.map(drop),
            Request::Write(request) => client.write(caller.request(request)).await.map(drop),
            Request::Destroy(request) => client.destroy(caller.request(request)).await.map(drop),
        }
    };
    // The timeout of the request itself begins when the connection takes the request.
    let status = tokio::time::timeout(caller.timeout(), called).await;
    let status = status.unwrap_or_else(|_| Err(Status::deadline_exceeded(UNANSWERED)));
    status.map_err(|status| describe(&status))
}

/// Runs one Pipeline stream with `in_flight` operations in flight.
async fn pipeline(
    mut client: SessionServiceClient<Channel>,
    request: tonic::Request<()>,
    load: Arc<Load>,
    in_flight: usize,
    patience: Duration,
    seed: u64,
) -> Tally {
    let (sender, receiver) = mpsc::channel(in_flight);
    let request = request.map(|()| tokio_stream::wrappers::ReceiverStream::new(receiver));
    let places = Arc::new(Semaphore::new(in_flight));
    let sent: Arc<Mutex<HashMap<u64, (Operation, Instant)>>> = Arc::default();
    let sending = {
        let (places, sent, load) = (Arc::clone(&places), Arc::clone(&sent), Arc::clone(&load));
        async move {
            let mut random = SmallRng::seed_from_u64(seed);
            for sequence in 0.. {
                let Ok(place) = places.acquire().await else { return };
                place.forget();
                if load.over.load(Ordering::Relaxed) {
                    return;
                }
                let operation = load.mix.pick(&mut random);
                let request = load.request(operation, &mut random);
                sent.lock().await.insert(sequence, (operation, Instant::now()));
                let request = PipelineRequest { sequence, operation: Some(request), timeout: None };
                if sender.send(request).await.is_err() {
                    return;
                }
            }
        }
    };
    let mut tally = Tally::default();
    let answered = async {
        match client.pipeline(request).await {
            Err(status) => Some(status),
            Ok(answers) => {
                let mut answers = answers.into_inner();
                loop {
                    match answers.message().await {
                        Err(status) => break Some(status),
                        Ok(None) => break None,
                        Ok(Some(answer)) => {
                            let failure = match answer.result {
                                Some(pipeline_response::Result::Error(error)) => {
                                    Some(describe(&Status::new(error.code.into(), error.message)))
                                }
                                _ => None,
                            };
                            if let Some((operation, started)) =
                                sent.lock().await.remove(&answer.sequence)
                            {
                                load.finished(&mut tally, operation, started, failure);
                            }
                            places.add_permits(1);
                        }
                    }
                }
            }
        }
    };
    let receiving = async {
        let late = async {
            let mut ended = std::pin::pin!(load.ended.notified());
            ended.as_mut().enable();
            // It may be over before this task has run at all.
            if !load.over.load(Ordering::SeqCst) {
                ended.await;
            }
            tokio::time::sleep(patience).await;
        };
        let ended = tokio::select! {
            biased;
            ended = answered => ended,
            () = late => Some(Status::deadline_exceeded(UNANSWERED)),
        };
        // Ends the sender if it waits for a place.
        places.close();
        ended
    };
    let ((), ended) = tokio::join!(sending, receiving);
    let why = ended.as_ref().map_or_else(|| "the stream has ended".to_owned(), describe);
    for (_, (operation, started)) in sent.lock().await.drain() {
        load.finished(&mut tally, operation, started, Some(why.clone()));
    }
    // Too early, and all that was sent is answered.
    if !load.over.load(Ordering::Relaxed) {
        tally.first_error.get_or_insert(why);
    }
    tally
}

/// Reads Cookie headers from a file, one per line.
fn read_cookies(file: &Path) -> Result<Vec<bytes::Bytes>, Problem> {
    let text = fs::read_to_string(file)
        .map_err(|error| format!("cannot read the file {}: {error}", file.display()))?;
    let cookies: Vec<_> = text.lines().map(|line| line.to_owned().into()).collect();
    if cookies.is_empty() {
        return Err(format!("{} holds no cookie; expected one per line", file.display()));
    }
    Ok(cookies)
}

async fn create_sessions(
    caller: &Caller,
    clients: &[SessionServiceClient<Channel>],
    args: &BenchArgs,
    engine: &bytes::Bytes,
    data: &str,
) -> Result<Vec<bytes::Bytes>, Problem> {
    let mut cookies = Vec::with_capacity(args.sessions as usize);
    let wanted = args.sessions as usize;
    while cookies.len() < wanted {
        let batch = SETTING_UP.min(wanted - cookies.len());
        let creates = (0..batch).map(|number| {
            let mut client = clients[number % clients.len()].clone();
            let write = WriteRequest {
                engine: engine.clone(),
                set: data.to_owned().into(),
                ..Default::default()
            };
            let request = caller.request(write);
            async move {
                let written =
                    client.write(request).await.map_err(|status| caller.refused(&status))?;
                let lines = written.into_inner().set_cookie;
                let pair = lines.first().and_then(|line| line.split(';').next());
                Ok::<_, Problem>(bytes::Bytes::from(pair.unwrap_or_default().to_owned()))
            }
        });
        for cookie in join_all(creates).await {
            cookies.push(cookie?);
        }
    }
    Ok(cookies)
}

/// Destroys the sessions that this run created. If a call fails, the session expires; if a whole
/// batch fails, the daemon has gone, and all of them do.
async fn destroy_sessions(caller: &Caller, clients: &[SessionServiceClient<Channel>], load: &Load) {
    for (number, batch) in load.cookies.chunks(SETTING_UP).enumerate() {
        let destroys = batch.iter().map(|cookie| {
            let destroy = DestroyRequest {
                engine: load.engine.clone(),
                credential: credential(cookie),
                ..Default::default()
            };
            let client = clients[number % clients.len()].clone();
            call(caller, client, pipeline_request::Operation::Destroy(destroy))
        });
        if join_all(destroys).await.iter().all(Result::is_err) {
            return;
        }
    }
}
