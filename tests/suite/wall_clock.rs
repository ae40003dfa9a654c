//! A library to be put before libc with `LD_PRELOAD`: the wall clock of the process is ahead
//! by the seconds in the file that `WALL_CLOCK_AHEAD` names. The monotonic clocks are left
//! alone, as where somebody sets the wall clock of a machine.
//!
//! It runs inside calls of libc, on any thread: nothing here allocates or panics.

use libc::{CLOCK_REALTIME, O_RDONLY, c_int, clockid_t, timespec};

/// # Safety
///
/// As `clock_gettime(2)` asks: `time` points to a place for a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    // SAFETY: the arguments are the caller's.
    let done = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    if done == 0 && clock == CLOCK_REALTIME {
        // SAFETY: the call above has written to it.
        unsafe { (*time).tv_sec += seconds_ahead() };
    }
    done as c_int
}

fn seconds_ahead() -> i64 {
    let mut text = [0; 32];
    // SAFETY: the names and the text end with a zero, and the last octet of the text is not
    // written to.
    unsafe {
        let path = libc::getenv(c"WALL_CLOCK_AHEAD".as_ptr());
        if path.is_null() {
            return 0;
        }
        let file = libc::open(path, O_RDONLY);
        if file >= 0 {
            libc::read(file, text.as_mut_ptr().cast(), text.len() - 1);
            libc::close(file);
        }
        libc::atoll(text.as_ptr())
    }
}
