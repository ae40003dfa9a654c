//! The page of metrics: what it says is true, and all that names a metric names one that is
//! there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use sessiond::{
    grpc::pb::{DestroyRequest, PipelineRequest, ResolveRequest, pipeline_request::Operation},
    server::config::{AddrOrOff, Backend},
    service::observer::{Observer, Outcome, Subject},
};
use tokio_stream::StreamExt;

use crate::support::{
    browser::Browser,
    daemon::{Daemon, in_force, set},
    metrics::{expect_lines, page, scrape},
    papers::Papers,
    program::{PATIENCE, Program, run, stderr},
    redis,
};

/// How much begins on a store and has not ended.
#[derive(Default)]
pub(crate) struct InFlight(pub AtomicI64);

impl Observer for InFlight {
    fn finished(&self, _: Subject<'_>, _: Outcome, _: Duration) {}

    fn begun(&self, _: Subject<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn ended(&self, _: Subject<'_>) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The value of a sample.
#[track_caller]
fn value(page: &str, sample: &str) -> f64 {
    let found = page.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("expected {sample} in:\n{page}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_from_memory_takes_time_as_well() {
    let daemon = Daemon::with(Backend::Sled, |config| {
        config.listen.metrics = AddrOrOff(Some(([127, 0, 0, 1], 0).into()));
    })
    .await;
    let browser = daemon.visitor("{}").await;
    for _ in 0..20 {
        daemon.resolve(&browser).await;
    }
    let request = |sequence| {
        let resolve = ResolveRequest { credential: browser.credential(), ..Default::default() };
        PipelineRequest { sequence, operation: Some(Operation::Resolve(resolve)), timeout: None }
    };
    let requests: Vec<_> = (0..80).map(request).collect();
    let answers = daemon.client.clone().pipeline(tokio_stream::iter(requests)).await;
    let answers: Vec<_> = answers.expect("taken").into_inner().collect().await;
    assert!(answers.len() == 80 && answers.iter().all(Result::is_ok), "{answers:?}");
    let page = scrape(daemon.metrics.clone().expect("a listener")).await;
    let of = |what: &str| {
        let name = format!("sessiond_request_duration_seconds_{what}");
        value(&page, &format!(r#"{name}{{engine="default",rpc="Resolve"}}"#))
    };
    assert_eq!(of("count"), 100.0);
    let mean = of("sum") / of("count");
    assert!(mean > 1e-7, "expected a Resolve to take longer than {mean} s:\n{page}");
    // Otherwise the buckets would not tell a good day from a bad one.
    let of_bound = |bound: &str| {
        let labels = format!(r#"le="{bound}",engine="default",rpc="Resolve""#);
        value(&page, &format!("sessiond_request_duration_seconds_bucket{{{labels}}}"))
    };
    assert_eq!((of_bound("5.0"), of_bound("+Inf")), (100.0, 100.0), "in seconds");
    if in_force(Backend::Sled) == Backend::Sled {
        let recalled = value(&page, r#"sessiond_store_recalled_total{engine="default"}"#);
        assert!(recalled >= 90.0, "expected most of it to be answered from memory: {recalled}");
    }
}

/// Some operations of each kind.
#[track_caller]
fn work(address: &str) {
    let load = ["--connections=1", "--sessions=5", "--duration=50ms", "--warm-up=10ms"];
    let output = run(["bench", "--address", address].into_iter().chain(load));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

/// Names of metrics and their types, from the lines that describe them.
fn described(page: &str) -> BTreeMap<String, String> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let pair = |line: &str| line.split_once(' ').map(|(name, kind)| (name.into(), kind.into()));
    lines.filter_map(pair).collect()
}

/// Daemons that have, together, every metric that there is; `None`: there is no Redis.
fn all_metrics() -> Option<BTreeMap<String, String>> {
    if redis::is_missing() {
        return None;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let server = redis::RedisServer::start();
    let url = format!("--set=store.redis.url=redis://{}:{}", server.host, server.port);
    let secret = "--set=engine.default.cookie.secrets=a-signing-secret-for-tests-long-enough";
    let over_redis = ["--set=store.backend=redis", url.as_str(), secret];
    let papers = Papers::new();
    let tls = [
        papers.setting("listen.tls.cert_file", "server.pem"),
        papers.setting("listen.tls.key_file", "server.key"),
    ];
    let on_sled = Program::serve_in(directory.path(), &[&tls[0], &tls[1]]);
    let daemons = [on_sled, Program::serve(&over_redis)];
    work(daemons[1].address("grpc"));
    let pages = daemons.iter().map(|daemon| page(daemon.address("metrics")));
    Some(pages.flat_map(|page| described(&page)).collect())
}

/// The words of a text that may be names of metrics.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let is_name =
        |word: &&str| ["sessiond_", "process_"].iter().any(|prefix| word.starts_with(prefix));
    words.filter(is_name).map(str::to_owned).collect()
}

/// The metric that a sample is of.
fn metric_of<'n>(sample: &'n str, known: &BTreeMap<String, String>) -> Option<&'n str> {
    let parts = ["", "_bucket", "_sum", "_count"];
    let names = parts.into_iter().filter_map(|part| {
        let name = sample.strip_suffix(part)?;
        let fits = known.get(name).is_some_and(|kind| part.is_empty() || kind == "histogram");
        fits.then_some(name)
    });
    names.into_iter().next()
}

#[test]
fn all_metrics_that_are_named_exist_and_all_that_exist_are_documented() {
    let Some(known) = all_metrics() else {
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| {
        let text = fs::read_to_string(root.join(path));
        text.unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    const METRICS: &str = "docs/metrics.md";
    for path in [
        METRICS,
        "docs/operations.md",
        "docs/stores/sled.md",
        "docs/stores/redis.md",
        "docs/deployment.md",
        "deploy/grafana/sessiond.json",
        "deploy/prometheus/sessiond.rules.yaml",
        "deploy/prometheus/sessiond.rules.test.yaml",
    ] {
        let unknown: Vec<_> = named(&read(path))
            .into_iter()
            .filter(|name| metric_of(name, &known).is_none())
            .collect();
        assert!(unknown.is_empty(), "{path} names metrics that no daemon has: {unknown:?}");
    }
    let documents = read(METRICS);
    for (name, kind) in &known {
        // As a row of a table: the name, and the type.
        let kind = if name.ends_with("_info") { "info" } else { kind };
        let row = format!("| `{name}` | {kind} |");
        assert!(documents.contains(&row), "expected a row in {METRICS}: {row}");
    }
    for name in named(&read("deploy/grafana/sessiond.json")) {
        let metric = metric_of(&name, &known).expect("looked up above");
        assert_ne!((metric, known[metric].as_str()), (name.as_str(), "histogram"), "no sample");
    }
}

#[test]
fn the_page_has_the_format_that_is_asked_for() {
    let program = Program::dev();
    let address = program.address("metrics").to_owned();
    let ask = |accept: &str| {
        let request = ureq::get(format!("http://{address}/metrics")).header("accept", accept);
        let mut answer = request.call().expect("a page");
        let kind = answer.headers()["content-type"].to_str().expect("text").to_owned();
        (kind, answer.body_mut().read_to_string().expect("text"))
    };
    // As Prometheus asks.
    let (kind, page) = ask("application/openmetrics-text;version=1.0.0,text/plain;q=0.5,*/*;q=0.1");
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(page.ends_with("# EOF\n"), "{page}");
    expect_lines(&page, ["# TYPE sessiond_watchers_dropped counter"]);
    let (kind, page) = ask("*/*");
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    expect_lines(&page, ["# TYPE sessiond_watchers_dropped_total counter"]);
    assert!(!page.contains("# EOF"), "{page}");
}

#[test]
fn the_page_tells_of_the_process_and_of_its_limits() {
    let program = Program::serve(&["--dev", "--set=limits.max_connections=77"]);
    let page = page(program.address("metrics"));
    expect_lines(&page, ["sessiond_serving 1", "sessiond_store_takes_changes 1"]);
    let version = format!("sessiond_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    assert!(page.lines().any(|line| line == version), "{page}");
    assert_eq!(value(&page, "sessiond_connections_limit"), 77.0);
    assert_eq!(value(&page, "sessiond_held_limit_bytes"), f64::from(64 << 20));
    assert_eq!(value(&page, "sessiond_held_refusals_total"), 0.0);
    assert!(value(&page, "process_resident_memory_bytes") > 1e6, "{page}");
    assert!(value(&page, "process_open_fds") < value(&page, "process_max_fds"), "{page}");
    let start = value(&page, "process_start_time_seconds");
    let pid = program.pid().as_raw_nonzero();
    let told = fs::metadata(format!("/proc/{pid}")).and_then(|found| found.modified());
    let told = told.expect("it runs").duration_since(std::time::UNIX_EPOCH).expect("later");
    // The kernel counts ticks since a boot whose time it rounds.
    assert!((start - told.as_secs_f64()).abs() < 60.0, "{start}, and {told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sled_tells_of_its_disk_and_of_its_commits() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = Program::serve_in(directory.path(), &[]);
    let address = format!("http://{}", program.address("grpc"));
    let client = sessiond::grpc::pb::session_service_client::SessionServiceClient::connect(address);
    let mut client = client.await.expect("the daemon listens");
    let made = client.write(set("{}")).await.expect("taken").into_inner();
    // This is on the disk when it is answered.
    let credential = Browser::with(&made.set_cookie).credential();
    client.destroy(DestroyRequest { credential, ..Default::default() }).await.expect("taken");
    let page = scrape(program.address("metrics").to_owned()).await;
    let of = |name: &str| value(&page, name);
    assert!(of("sessiond_sled_commit_duration_seconds_count") >= 1.0, "{page}");
    assert!(of("sessiond_sled_commit_duration_seconds_sum") > 0.0, "{page}");
    assert!(of("sessiond_sled_sync_duration_seconds_count") >= 1.0, "{page}");
    let disk = rustix::fs::statvfs(directory.path()).expect("a file system");
    assert_eq!(of("sessiond_sled_disk_size_bytes"), (disk.f_blocks * disk.f_frsize) as f64);
    assert!(of("sessiond_sled_disk_free_bytes") > 0.0, "{page}");
    assert_eq!(of("sessiond_sled_disk_min_free_bytes"), f64::from(64 << 20));
    let log = fs::metadata(directory.path().join("data/db")).expect("the log").len();
    assert_eq!(of("sessiond_sled_log_bytes"), log as f64);
}

#[test]
fn redis_tells_of_its_connections() {
    if redis::is_missing() {
        return;
    }
    let mut server = redis::RedisServer::start();
    let url = format!("--set=store.redis.url=redis://{}:{}", server.host, server.port);
    let secret = "--set=engine.default.cookie.secrets=a-signing-secret-for-tests-long-enough";
    let program = Program::serve(&["--set=store.backend=redis", url.as_str(), secret]);
    let look = || page(program.address("metrics"));
    let wait = |what: &str, is_so: &dyn Fn(&str) -> bool| {
        let started = Instant::now();
        loop {
            let page = look();
            if is_so(&page) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "expected {what}:\n{page}");
        }
    };
    let state = |state| format!(r#"sessiond_redis_connections{{state="{state}"}}"#);
    wait("a connection", &|page| value(page, &state("connected")) >= 1.0);
    let before = look();
    assert_eq!(value(&before, "sessiond_redis_connections_lost_total"), 0.0);
    work(program.address("grpc"));
    assert!(value(&look(), "sessiond_redis_round_trip_seconds_count") >= 5.0, "{}", look());
    assert!(value(&look(), "sessiond_redis_round_trip_seconds_sum") > 0.0, "{}", look());
    server.kill();
    wait("a loss", &|page| value(page, "sessiond_redis_connections_lost_total") >= 1.0);
    wait("nothing connected", &|page| value(page, &state("connected")) == 0.0);
    wait("not serving", &|page| value(page, "sessiond_serving") == 0.0);
}

#[tokio::test]
async fn an_operation_is_in_flight_until_its_store_has_answered_or_its_caller_has_gone() {
    let in_flight = Arc::new(InFlight::default());
    let mut service = crate::faults::service_with(Arc::clone(&in_flight) as _).await;
    let now = || in_flight.0.load(Ordering::SeqCst);
    let settle = async |wanted| {
        let waiting = async {
            while now() != wanted {
                tokio::task::yield_now().await;
            }
        };
        let settled = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(settled.is_ok(), "expected {wanted} in flight, found {}", now());
    };
    let browser = service.visitor().await;
    settle(0).await;
    service.faults.stop(true);
    let mut client = service.client.clone();
    let request = ResolveRequest { credential: browser.credential(), ..Default::default() };
    let call = tokio::spawn(async move { client.resolve(request).await });
    settle(1).await;
    call.abort();
    settle(0).await;
    service.faults.stop(false);
    service.resolve(&browser).await.expect("the store works");
    settle(0).await;
}
