//! The signals of the process.
//!
//! | signal | does |
//! |---|---|
//! | SIGTERM, SIGINT, SIGQUIT | a clean stop; the second one ends the process immediately |
//! | SIGHUP | a reload; a clean stop if it says that the terminal of the daemon is gone |
//! | SIGUSR1, SIGUSR2, SIGALRM | nothing, where they would end the process by default |

use std::io::{self, IsTerminal, stderr};

use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};

use crate::FAULT;

/// What the signals ask for.
pub(crate) struct Signals {
    /// Completes at the first signal that asks for a clean stop.
    pub stop: oneshot::Receiver<()>,
    /// Has a message if a reload is asked for. Several that come at once are one.
    pub reload: mpsc::Receiver<()>,
}

/// What a signal asks for.
enum Asked {
    Stop,
    Reload,
    Nothing,
}

/// Handles signals from now on.
///
/// They have their own thread and runtime, because the server's runtime may be waiting for
/// the disk while it starts or stops.
pub(crate) fn listen() -> io::Result<Signals> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut user1 = signal(SignalKind::user_defined1())?;
    let mut user2 = signal(SignalKind::user_defined2())?;
    let mut alarm = signal(SignalKind::alarm())?;
    drop(entered);
    let had_terminal = stderr().is_terminal();
    let (stopping, stop) = oneshot::channel();
    let (reloading, reload) = mpsc::channel(1);
    std::thread::Builder::new().name("sessiond-signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            let mut stopping = Some(stopping);
            loop {
                let asked = tokio::select! {
                    _ = terminate.recv() => Asked::Stop,
                    _ = interrupt.recv() => Asked::Stop,
                    _ = quit.recv() => Asked::Stop,
                    // A terminal that is closed sends the same signal, and there nobody is left
                    // who could stop the daemon.
                    _ = hangup.recv() => match had_terminal && !stderr().is_terminal() {
                        true => Asked::Stop,
                        false => Asked::Reload,
                    },
                    _ = user1.recv() => Asked::Nothing,
                    _ = user2.recv() => Asked::Nothing,
                    _ = alarm.recv() => Asked::Nothing,
                };
                match asked {
                    Asked::Nothing => {}
                    Asked::Reload => {
                        // Full: the reload that is waiting will see all that this one would.
                        let _ = reloading.try_send(());
                    }
                    Asked::Stop => match stopping.take() {
                        Some(stopping) => drop(stopping.send(())),
                        None => break,
                    },
                }
            }
        });
        tracing::warn!("stopped immediately by a second signal");
        std::process::exit(FAULT.into());
    })?;
    Ok(Signals { stop, reload })
}
