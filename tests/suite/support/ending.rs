//! Waits for the end of another process.

use std::{
    process::{Child, ExitStatus},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

/// Waits until the child has ended. Returns `None` if it has not within `limit`.
pub(crate) fn of(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())
        .expect("the child is not reaped yet");
    let since = Instant::now();
    loop {
        let left = limit.saturating_sub(since.elapsed());
        let left = Timespec::try_from(left).expect("the limit fits into a Timespec");
        match poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            polled => {
                polled.expect("the child can be polled");
                return child.try_wait().expect("the child can be waited for");
            }
        }
    }
}
