//! A daemon to measure, with sessions.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use futures_util::future::try_join_all;
use rustix::process::{Pid, Signal, kill_process};
use sessiond::grpc::pb::{
    CleanupRequest, ResolveResponse, WriteRequest,
    session_admin_service_client::SessionAdminServiceClient,
    session_service_client::SessionServiceClient,
};
use tonic::transport::{Channel, Endpoint};

use super::{Problem, engine::SECRET, machine::Process};

/// How many calls are in flight while sessions are created.
const IN_FLIGHT: usize = 64;

/// Builds the binary with the profile that is shipped. The profiles `bench` and `release` link
/// faster and produce slower code.
pub(crate) fn shipped() -> Result<PathBuf, Problem> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--profile=dist", "--locked", "--bin=sessiond", "--message-format=json"]);
    build.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit());
    let output = build.output().map_err(|error| format!("cargo cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("the build failed: {}", output.status));
    }
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let named = message["target"]["name"] == "sessiond";
        named.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    };
    let output = String::from_utf8_lossy(&output.stdout);
    output.lines().filter_map(executable).next_back().ok_or("cargo names no binary".to_owned())
}

/// A running daemon on the embedded store.
pub(crate) struct Daemon {
    pub process: Process,
    /// Its listeners, in the form of `sessiond bench --address`.
    pub tcp: String,
    pub unix: String,
    pub admin: String,
}

impl Daemon {
    /// Starts a daemon that keeps its data in this directory, and waits until it serves. All
    /// keys except `settings` have their defaults.
    pub(crate) fn start(
        binary: &Path,
        cores: &[usize],
        directory: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Self, Problem> {
        let mut serve = Command::new(binary);
        serve.arg("serve").stdout(Stdio::piped()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SESSIOND_") {
                serve.env_remove(name);
            }
        }
        let (socket, data) = (directory.join("socket"), directory.join("data"));
        let listen = format!("127.0.0.1:0,unix:{}", socket.display());
        let data = data.display().to_string();
        let own = [
            ("listen.grpc", listen.as_str()),
            ("listen.admin", "127.0.0.1:0"),
            ("listen.metrics", "127.0.0.1:0"),
            ("engine.default.cookie.secrets", SECRET),
            ("store.sled.path", &data),
            ("log.level", "warn"),
        ];
        for (key, value) in own.iter().chain(settings) {
            serve.arg("--set").arg(format!("{key}={value}"));
        }
        let mut process = Process::spawn(serve, cores)?;
        let out = process.child().stdout.take().expect("it is piped");
        let mut line = String::new();
        let read = BufReader::new(out).read_line(&mut line);
        read.map_err(|error| format!("the daemon's standard output: {error}"))?;
        let list = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key));
        let (Some(grpc), Some(admin)) = (list("grpc="), list("admin=")) else {
            return Err(format!("expected the daemon to print its addresses, found {line:?}"));
        };
        let (tcp, unix) = grpc.split_once(',').expect("it listens on both");
        let (tcp, unix, admin) = (tcp.to_owned(), unix.to_owned(), admin.to_owned());
        Ok(Self { process, tcp, unix, admin })
    }

    pub(crate) async fn connect(&self) -> Result<SessionServiceClient<Channel>, Problem> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.tcp));
        let endpoint = endpoint.map_err(|error| error.to_string())?;
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|error| format!("{} does not answer: {error}", self.tcp))?;
        Ok(SessionServiceClient::new(channel))
    }

    /// Creates this many sessions and returns the Cookie header of each.
    pub(crate) async fn create_sessions(
        &self,
        count: usize,
        data: &str,
    ) -> Result<Vec<String>, Problem> {
        let client = self.connect().await?;
        let mut cookies = Vec::with_capacity(count);
        while cookies.len() < count {
            let batch = IN_FLIGHT.min(count - cookies.len());
            let creates = (0..batch).map(|_| {
                let mut client = client.clone();
                let write = WriteRequest { set: data.to_owned().into(), ..Default::default() };
                async move { client.write(write).await }
            });
            let created = try_join_all(creates).await;
            for answer in created.map_err(|status| format!("cannot create a session: {status}"))? {
                let lines = answer.into_inner().set_cookie;
                let pair = lines.first().and_then(|line| line.split(';').next());
                cookies.push(pair.ok_or("expected a cookie with each session")?.to_owned());
            }
        }
        Ok(cookies)
    }

    /// Runs a cleanup and returns the number of sessions removed.
    pub(crate) async fn sweep(&self) -> Result<u64, Problem> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.admin));
        let channel = endpoint.map_err(|error| error.to_string())?.connect().await;
        let channel =
            channel.map_err(|error| format!("{} does not answer: {error}", self.admin))?;
        let mut client = SessionAdminServiceClient::new(channel);
        let swept = client.cleanup(CleanupRequest::default()).await;
        let swept = swept.map_err(|status| format!("the cleanup failed: {status}"))?;
        Ok(swept.into_inner().removed)
    }

    /// Stops it and waits until it has ended. Without this call, it is killed.
    pub(crate) fn stop(mut self) -> Result<(), Problem> {
        let pid = Pid::from_child(self.process.child());
        kill_process(pid, Signal::TERM).map_err(|error| error.to_string())?;
        let ended = self.process.child().wait().map_err(|error| error.to_string())?;
        if ended.success() { Ok(()) } else { Err(format!("the daemon ended with {ended}")) }
    }

    /// The answer to a Resolve of this session that sets no cookie.
    pub(crate) async fn answer(&self, cookie: &str) -> Result<ResolveResponse, Problem> {
        let mut client = self.connect().await?;
        let answer = client.resolve(resolve(cookie)).await;
        answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
    }
}

/// A request for the session in this Cookie header.
pub(crate) fn resolve(cookie: &str) -> sessiond::grpc::pb::ResolveRequest {
    use sessiond::grpc::pb::{Credential, ResolveRequest, credential::Kind};
    let kind = Some(Kind::CookieHeader(cookie.to_owned().into()));
    ResolveRequest { credential: Some(Credential { kind }), ..Default::default() }
}

/// A JSON object of this many bytes.
pub(crate) fn data(bytes: usize) -> String {
    format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes - 8))
}
