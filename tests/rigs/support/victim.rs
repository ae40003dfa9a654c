//! Runs the built program under the recorder. Nothing here panics because of what the program
//! does: the rigs judge that.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::ending;

pub(crate) const SECRET: &str = "a-signing-secret-for-tests-long-enough";

/// The longest time that a start or a stop may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How to start the program.
pub(crate) struct Setup<'a> {
    /// The program keeps its data in `data` in this directory.
    pub root: &'a Path,
    pub settings: &'a [&'a str],
    /// The file that the recorder writes. Without it the program runs without the recorder.
    pub log: Option<&'a Path>,
    /// `RECORDER_FAULT`.
    pub fault: Option<&'a str>,
}

pub(crate) struct Victim {
    child: Child,
    pub address: String,
    stderr: Option<JoinHandle<String>>,
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None`: it did not end in time, so it was killed.
    pub status: Option<ExitStatus>,
    pub log: String,
}

impl Victim {
    /// Starts it and waits until it is ready or has ended.
    pub(crate) fn start(setup: &Setup) -> Result<Self, Ended> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sessiond"));
        command.env_clear().stdout(Stdio::piped()).stderr(Stdio::piped());
        command.args(["serve", "--set=listen.grpc=127.0.0.1:0"]);
        command.args(["--set=listen.admin=", "--set=listen.metrics="]);
        command.arg(format!("--set=store.sled.path={}", setup.root.join("data").display()));
        command.arg(format!("--set=engine.default.cookie.secrets={SECRET}"));
        command.args(setup.settings);
        if let Some(log) = setup.log {
            command.env("LD_PRELOAD", recorder());
            command.env("RECORDER_ROOT", setup.root).env("RECORDER_LOG", log);
        }
        if let Some(fault) = setup.fault {
            command.env("RECORDER_FAULT", fault);
        }
        let mut child = command.spawn().expect("the program can be run");
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, line) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(line);
        });
        let mut victim = Self { child, address: String::new(), stderr: Some(stderr) };
        let line = line.recv_timeout(PATIENCE).unwrap_or_default();
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("grpc="));
        match address {
            Some(address) => {
                victim.address = format!("http://{address}");
                Ok(victim)
            }
            // Neither a ready line nor an end within the time means that the start hangs.
            None => Err(victim.wait(Duration::from_secs(1))),
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Asks for a clean stop.
    pub(crate) fn stop(self) -> Ended {
        self.end(Signal::TERM)
    }

    /// Kills it between two operations on files, with the recorder's signal.
    pub(crate) fn die(self) -> Ended {
        self.end(Signal::USR2)
    }

    fn end(mut self, signal: Signal) -> Ended {
        if self.is_running() {
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
        self.wait(PATIENCE)
    }

    fn wait(&mut self, patience: Duration) -> Ended {
        let ended = self.child.try_wait().expect("the child can be waited for");
        let status = ended.or_else(|| ending::of(&mut self.child, patience));
        if status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let log = self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        Ended { status, log }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The recorder, in the directory where cargo puts examples, next to that of this binary.
fn recorder() -> PathBuf {
    let here = std::env::current_exe().expect("a path");
    let folder = here.ancestors().nth(2).expect("a folder");
    let path = folder.join("examples/librecorder.so");
    assert!(
        path.exists(),
        "{} is missing; build it with `cargo build --example recorder`",
        path.display()
    );
    path
}
