//! Reloads: cookie secrets and certificates are replaced again and again while clients work. No
//! call may fail, and nobody may be logged out.
//!
//! Each client is a frontend with connections of its own over TLS and one session: it resolves,
//! writes, and opens a new connection now and then. The secrets take the way of a rotation: a new
//! one is added below, then it signs, then the one before is dropped, always after every client
//! was there. The certificate and its CA change with every reload.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sessiond::grpc::pb::{
    ReloadRequest, ResolveRequest, SessionState, WriteRequest,
    session_admin_service_client::SessionAdminServiceClient,
    session_service_client::SessionServiceClient,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::{
    rig::{Form, report},
    support::{
        browser::Browser,
        papers::Papers,
        program::{PATIENCE, Program},
    },
};

const CLIENTS: usize = 16;
/// Calls on one connection.
const CALLS_PER_CONNECTION: u64 = 20;
/// Every so many calls is a Write.
const CALLS_PER_WRITE: u64 = 5;

/// What the clients have done.
#[derive(Default)]
struct Progress {
    done: AtomicBool,
    /// Calls of each client that were answered.
    calls: [AtomicU64; CLIENTS],
    connections: AtomicU64,
    /// Times that a cookie was signed anew.
    signed_anew: AtomicU64,
}

/// One frontend and the browser of its user.
struct Client {
    number: usize,
    endpoint: Endpoint,
    browser: Browser,
    progress: Arc<Progress>,
}

impl Client {
    /// Works until it is told to stop. Panics at the first call that fails.
    async fn work(mut self) {
        let progress = Arc::clone(&self.progress);
        let calls = &progress.calls[self.number];
        while !progress.done.load(Ordering::Relaxed) {
            let channel = self.endpoint.connect().await;
            let channel = channel.unwrap_or_else(|error| self.failed("a connection", &error));
            let mut service = SessionServiceClient::new(channel);
            progress.connections.fetch_add(1, Ordering::Relaxed);
            for _ in 0..CALLS_PER_CONNECTION {
                let number = calls.load(Ordering::Relaxed);
                match number.is_multiple_of(CALLS_PER_WRITE) {
                    true => self.write(&mut service, number).await,
                    false => self.resolve(&mut service).await,
                }
                calls.fetch_add(1, Ordering::Release);
            }
        }
    }

    async fn write(&mut self, service: &mut SessionServiceClient<Channel>, number: u64) {
        let credential = self.browser.credential();
        let set = format!("{{\"calls\":{number}}}").into();
        let answer = service.write(WriteRequest { credential, set, ..Default::default() }).await;
        let answer = answer.unwrap_or_else(|error| self.failed("a Write", &error)).into_inner();
        self.learn(&answer.set_cookie);
    }

    async fn resolve(&mut self, service: &mut SessionServiceClient<Channel>) {
        let credential = self.browser.credential();
        let answer = service.resolve(ResolveRequest { credential, ..Default::default() }).await;
        let answer = answer.unwrap_or_else(|error| self.failed("a Resolve", &error)).into_inner();
        let number = self.number;
        assert_eq!(answer.state(), SessionState::Active, "client {number} was logged out");
        self.learn(&answer.set_cookie);
    }

    fn learn(&mut self, set_cookie: &[String]) {
        if !set_cookie.is_empty() {
            self.progress.signed_anew.fetch_add(1, Ordering::Relaxed);
        }
        self.browser.learn(set_cookie);
    }

    fn failed(&self, what: &str, error: &dyn fmt::Debug) -> ! {
        panic!("{what} of client {} failed: {error:?}", self.number)
    }
}

impl Progress {
    /// Waits until every client has made so many more calls.
    async fn wait_for_all(&self, calls: u64) {
        let now = || self.calls.each_ref().map(|calls| calls.load(Ordering::Acquire));
        let before = now();
        let waiting = async {
            while now().iter().zip(before).any(|(now, before)| *now < before + calls) {
                assert!(!self.done.load(Ordering::Relaxed), "a client has ended");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.expect("expected every client to go on");
    }
}

/// Ends the other clients if one has panicked.
struct OnEnd(Arc<Progress>);

impl Drop for OnEnd {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
    }
}

fn write(path: &Path, lines: &[String]) {
    let next = path.with_extension("next");
    std::fs::write(&next, lines.join("\n")).expect("the scratch folder can be written");
    std::fs::rename(&next, path).expect("it can be renamed");
}

fn secret(number: u64) -> String {
    format!("the-signing-secret-of-the-reloads-number-{number:06}")
}

/// The secrets after so many reloads, the first one signs: added below, then first, and then
/// alone with the next one below.
fn secrets(reloads: u64) -> [String; 2] {
    let last = reloads.div_ceil(2);
    match reloads.is_multiple_of(2) {
        // The new one signs, the one before verifies.
        true => [secret(last), secret(last.saturating_sub(1))],
        false => [secret(last - 1), secret(last)],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_and_nobody_is_logged_out() {
    let form = Form::of_environment();
    let reloads: u64 = form.pick(20, 100, 4_000);
    let papers = [Papers::new(), Papers::new()];
    let in_force = Papers::new();
    let put = |number: u64| {
        let next = &papers[(number % 2) as usize];
        for name in ["server.pem", "server.key"] {
            in_force.write(name, &next.text(name));
        }
    };
    put(0);
    let file = in_force.path("secrets");
    write(&file, &secrets(0));
    let settings = [
        in_force.setting("listen.tls.cert_file", "server.pem"),
        in_force.setting("listen.tls.key_file", "server.key"),
        in_force.setting("engine.default.cookie.secret_file", "secrets"),
        format!("--set=listen.admin=unix:{}", in_force.path("admin.sock").display()),
    ];
    let settings = settings.iter().map(String::as_str).chain(["--dev"]);
    let program = Program::serve(&settings.collect::<Vec<_>>());

    let both = Certificate::from_pem(papers[0].text("ca.pem") + &papers[1].text("ca.pem"));
    let tls = ClientTlsConfig::new().ca_certificate(both).domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://{}", program.address("grpc")))
        .expect("an address")
        .tls_config(tls)
        .expect("valid");
    let mut service = SessionServiceClient::new(endpoint.connect().await.expect("it listens"));
    let progress = Arc::new(Progress::default());
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let made = service.write(WriteRequest::default()).await.expect("a session").into_inner();
        let browser = Browser::with(&made.set_cookie);
        let (endpoint, progress) = (endpoint.clone(), Arc::clone(&progress));
        let client = Client { number, endpoint, browser, progress: Arc::clone(&progress) };
        clients.spawn(async move {
            let _end = OnEnd(progress);
            client.work().await;
        });
    }

    let mut admin = SessionAdminServiceClient::connect(program.address("admin").to_owned())
        .await
        .expect("it listens");
    let (started, mut slowest) = (Instant::now(), Duration::ZERO);
    for number in 1..=reloads {
        // Who has the cookie of a secret that is dropped now has used it since the other signs.
        progress.wait_for_all(CALLS_PER_WRITE).await;
        write(&file, &secrets(number));
        put(number);
        let asked = Instant::now();
        let done = admin.reload(ReloadRequest {}).await.expect("all of it is right").into_inner();
        slowest = slowest.max(asked.elapsed());
        assert_eq!(done.changed.len(), 2, "expected secrets and a certificate: {done:?}");
    }
    progress.wait_for_all(CALLS_PER_CONNECTION).await;
    let elapsed = started.elapsed();
    progress.done.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.expect("no call of a client fails");
    }
    let calls: u64 = progress.calls.iter().map(|calls| calls.load(Ordering::Relaxed)).sum();
    let (code, log) = program.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("reloaded: engine.default").count() as u64, reloads, "{log}");
    report(&format!(
        "rig reloads: {reloads} reloads under {CLIENTS} clients in {:.1} s, {calls} calls on {} \
         connections, {} cookies signed anew; 0 calls failed, 0 sessions logged out; slowest \
         reload {:.1} ms",
        elapsed.as_secs_f64(),
        progress.connections.load(Ordering::Relaxed),
        progress.signed_anew.load(Ordering::Relaxed),
        slowest.as_secs_f64() * 1000.0,
    ));
}
