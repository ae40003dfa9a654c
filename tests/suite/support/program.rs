//! The built program, as a user runs it.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Condvar, Mutex, mpsc},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::ending;

/// The longest time that a test waits for anything. It is not a limit on speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A command line of sessiond, with an empty environment.
pub(crate) fn sessiond<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sessiond"));
    command.args(arguments).env_clear();
    command
}

/// Runs a command line of sessiond to its end.
pub(crate) fn run<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Output {
    sessiond(arguments).output().expect("the program can be run")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A daemon that has started and is ready. It is killed when dropped.
pub(crate) struct Program {
    child: Child,
    addresses: HashMap<String, String>,
    stderr: Option<std::thread::JoinHandle<()>>,
    log: Arc<Log>,
}

/// What it has written to standard error until now.
#[derive(Default)]
struct Log {
    text: Mutex<String>,
    grows: Condvar,
}

impl Program {
    /// `serve --dev` on free ports.
    pub(crate) fn dev() -> Self {
        Self::serve(&["--dev"])
    }

    /// `serve` with these arguments, on free ports.
    pub(crate) fn serve(arguments: &[&str]) -> Self {
        let ports = [
            "serve",
            "--set=listen.grpc=127.0.0.1:0",
            "--set=listen.admin=127.0.0.1:0",
            "--set=listen.metrics=127.0.0.1:0",
        ];
        Self::start(&mut sessiond(ports.into_iter().chain(arguments.iter().copied())))
    }

    /// `serve` that keeps its sessions in `directory`, on free ports.
    pub(crate) fn serve_in(directory: &Path, arguments: &[&str]) -> Self {
        let path = format!("--set=store.sled.path={}", directory.join("data").display());
        let secret = "--set=engine.default.cookie.secrets=a-signing-secret-for-tests-long-enough";
        let all: Vec<_> =
            [path.as_str(), secret].into_iter().chain(arguments.iter().copied()).collect();
        Self::serve(&all)
    }

    /// Starts a daemon and waits for its ready line.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be run");
        let mut stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let log = Arc::new(Log::default());
        let written = Arc::clone(&log);
        let stderr = std::thread::spawn(move || {
            let mut line = Vec::new();
            while stderr.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line);
                written.text.lock().expect("the log is whole").push_str(&text);
                written.grows.notify_all();
                line.clear();
            }
        });
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, line) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(line);
        });
        let mut program = Self { child, addresses: HashMap::new(), stderr: Some(stderr), log };
        let line = line.recv_timeout(PATIENCE).expect("the program prints a line");
        if !line.contains(" ready:") {
            let status = program.wait();
            panic!("expected a ready line, found {line:?}; {status}; {}", program.log());
        }
        let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
        program.addresses = pairs.map(|(name, list)| (name.to_owned(), list.to_owned())).collect();
        program
    }

    /// The first address of a kind of listener: grpc, admin or metrics.
    pub(crate) fn address(&self, kind: &str) -> &str {
        let list = self.addresses.get(kind).unwrap_or_else(|| panic!("no {kind} listener"));
        list.split(',').next().expect("a list has a first item")
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the daemon is running");
    }

    /// Waits until it ends.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        // It may have been waited for before.
        let ended = self.child.try_wait().expect("the child can be waited for");
        let ended = ended.or_else(|| ending::of(&mut self.child, PATIENCE));
        ended.expect("expected the daemon to end")
    }

    /// Stops it cleanly. Returns the exit code and the log.
    pub(crate) fn stop(mut self) -> (Option<i32>, String) {
        self.signal(Signal::TERM);
        let code = self.wait().code();
        (code, self.log())
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// What it wrote to standard error. Waits until it ends.
    pub(crate) fn log(&mut self) -> String {
        let reader = self.stderr.take().expect("the log is read once");
        reader.join().expect("the log can be read");
        self.log.text.lock().expect("the log is whole").clone()
    }

    /// Waits until its log has `text` so many times. Returns the log until then.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str, times: usize) -> String {
        let log = self.log.text.lock().expect("the log is whole");
        let missing = |log: &mut String| log.matches(text).count() < times;
        let waited = self.log.grows.wait_timeout_while(log, PATIENCE, missing);
        let (log, timeout) = waited.expect("the log is whole");
        assert!(!timeout.timed_out(), "expected {text:?} {times} times in the log: {log}");
        log.clone()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
