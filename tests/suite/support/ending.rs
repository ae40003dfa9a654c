//! The end of another process.

use std::{
    process::{Child, ExitStatus},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

/// Waits until it has ended. `None`: it has not, within `limit`.
pub(crate) fn of(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("it is not reaped");
    let since = Instant::now();
    loop {
        let left = limit.saturating_sub(since.elapsed());
        let left = Timespec::try_from(left).expect("not for ever");
        match poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            polled => {
                polled.expect("it can be waited for");
                return child.try_wait().expect("it can be waited for");
            }
        }
    }
}
