//! What the process does with signals.

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

use crate::support::{
    ending,
    program::{PATIENCE, Program, run, stderr},
};

#[test]
fn quit_is_a_clean_stop() {
    let mut program = Program::dev();
    program.signal(Signal::QUIT);
    assert_eq!(program.wait().code(), Some(0));
    let log = program.log();
    assert!(log.contains("stopping") && log.contains("stopped"), "{log}");
}

#[test]
fn signals_without_a_meaning_are_ignored() {
    let program = Program::dev();
    for signal in [Signal::USR1, Signal::USR2, Signal::ALARM] {
        program.signal(signal);
    }
    // This one is handled after those.
    program.signal(Signal::HUP);
    program.wait_for_log("reloaded: nothing has changed trigger=\"SIGHUP\"", 1);
    let health = run(["health", "--address", program.address("grpc")]);
    assert_eq!(health.status.code(), Some(0), "{}", stderr(&health));
    assert_eq!(program.stop().0, Some(0));
}

/// Nobody would be left to stop it.
#[test]
fn a_daemon_whose_terminal_is_closed_stops() {
    let terminal =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("it is ours");
    let path = ptsname(&terminal, Vec::new()).expect("it has a name");
    let path = path.to_str().expect("a path");
    let end = || OwnedFd::from(File::options().read(true).write(true).open(path).expect("its end"));
    let other = end();
    let mut child = Command::new(env!("CARGO_BIN_EXE_sessiond"))
        .args(["serve", "--dev", "--set=listen.grpc=127.0.0.1:0", "--set=listen.admin="])
        .arg("--set=listen.metrics=")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(end()))
        .spawn()
        .expect("the program can be run");
    let mut ready = [0; 8];
    let mut stdout = child.stdout.take().expect("stdout is piped");
    stdout.read_exact(&mut ready).expect("the ready line begins");
    assert_eq!(&ready, b"sessiond");
    drop(terminal);
    // A process that another test starts has our end of the terminal until it runs its program.
    let mut closed = [PollFd::new(&other, PollFlags::empty())];
    let patience = PATIENCE.try_into().expect("a time");
    let events = poll(&mut closed, Some(&patience)).expect("it can be waited for");
    assert_eq!(events, 1, "expected the terminal to be closed");
    // The shell, or the kernel, tells the processes of a terminal that it is gone.
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::HUP).expect("the daemon is running");
    let ended = ending::of(&mut child, PATIENCE);
    let code = ended.and_then(|status| status.code());
    let _ = child.kill();
    assert_eq!(code, Some(0), "expected a clean stop");
}
