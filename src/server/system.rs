//! The time and the randomness of the operating system, which the `session` module takes
//! as arguments. Also process limits and CPU time.

use std::{
    fs, io,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use rand::{TryRng, rngs::SysRng};
use rustix::{
    param::clock_ticks_per_second,
    process::{Resource, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

use crate::session::{
    clock::{Clock, Moment},
    id::Entropy,
};

/// File descriptors besides the connections of `listen.grpc`: listeners, files, connections
/// that wait or have spare places, and those to admin and metrics.
const OTHER_DESCRIPTORS: u64 = 384;

/// From this difference between two clocks on, a warning is logged.
const WORTH_LOGGING: Duration = Duration::from_secs(1);

/// Raises this process's soft limit of file descriptors to the hard limit. Returns an
/// error if that is too few for `connections`, `times` over: to TCP addresses, and to unix
/// sockets.
pub fn raise_descriptor_limit(connections: u32, times: u64) -> Result<(), String> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If this fails, the current limit is checked below.
    let _ = setrlimit(Resource::Nofile, limit);
    let wanted = u64::from(connections) * times + OTHER_DESCRIPTORS;
    match getrlimit(Resource::Nofile).current {
        Some(found) if found < wanted => Err(format!(
            "the process may open {found} descriptors, limits.max_connections = {connections} \
             needs {wanted}: raise the limit (ulimit -n) or lower the key"
        )),
        _ => Ok(()),
    }
}

/// Makes the allocator return freed memory to the system. By default, glibc raises the
/// amount that it keeps to tens of MiB when the first of sled's 8 MiB buffers is freed.
/// (Fewer arenas would keep even less, but they made a Resolve slower.) Call it before
/// any thread is started.
#[cfg(target_env = "gnu")]
pub fn keep_little_freed_memory() {
    const MAX_KEPT_BYTES: libc::c_int = 1 << 20;
    for option in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: it takes two numbers. It ignores values that it does not accept.
        unsafe { libc::mallopt(option, MAX_KEPT_BYTES) };
    }
}

/// Does nothing: other allocators have no such settings.
#[cfg(not(target_env = "gnu"))]
pub fn keep_little_freed_memory() {}

/// Gives freed memory back to the system, also what lies between memory in use: glibc itself
/// gives back only what is free at the end. It takes milliseconds, and threads that allocate
/// wait for some of them.
#[cfg(target_env = "gnu")]
pub fn give_back_freed_memory() {
    // SAFETY: it takes a number, and what is in use stays where it is.
    unsafe { libc::malloc_trim(0) };
}

/// Does nothing: other allocators give it back by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_freed_memory() {}

/// The resident memory of this process, in bytes.
pub fn resident_bytes() -> io::Result<usize> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    // proc_pid_statm(5): size, resident and more, in pages.
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    let unknown =
        || io::Error::new(io::ErrorKind::InvalidData, "/proc/self/statm has an unknown format");
    Ok(pages.ok_or_else(unknown)? * rustix::param::page_size())
}

/// A clock that reads the wall clock once, at start, and then follows a monotonic clock
/// that counts suspended time. If the wall clock steps while the daemon runs, no session
/// expires by it.
///
/// If this clock is aligned with another one (`follow`), the wall clock at start was only
/// a first estimate.
pub struct SystemClock {
    wall_at_start: Moment,
    boot_at_start: Duration,
    since_boot: fn() -> Duration,
    /// How many milliseconds the wall clock was behind at start; negative: ahead.
    behind: AtomicI64,
}

impl SystemClock {
    /// Reads the wall clock. Nothing else in the process does.
    #[expect(clippy::disallowed_methods, reason = "the only place that reads the clock")]
    pub fn start() -> Self {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            wall_at_start: Moment::from_unix_millis(0) + wall.unwrap_or_default(),
            boot_at_start: since_boot(),
            since_boot,
            behind: AtomicI64::new(0),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        let guess = self.wall_at_start + (self.since_boot)().saturating_sub(self.boot_at_start);
        let behind = self.behind.load(Ordering::Relaxed);
        Moment::from_unix_millis(guess.unix_millis().saturating_add_signed(behind))
    }

    fn not_before(&self, moment: Moment) {
        let behind = moment.since(self.now());
        if !behind.is_zero() {
            tracing::warn!(
                ?behind,
                "the system clock is behind the time of the last stop; continuing from that time"
            );
            self.behind.fetch_add(behind.as_millis() as i64, Ordering::Relaxed);
        }
    }

    fn follow(&self, earliest: Moment, latest: Moment) {
        let now = self.now();
        let correction = match now {
            now if now < earliest => earliest.since(now).as_millis() as i64,
            now if now > latest => -(now.since(latest).as_millis() as i64),
            _ => return,
        };
        if correction.unsigned_abs() >= WORTH_LOGGING.as_millis() as u64 {
            tracing::warn!(
                correction_millis = correction,
                "the system clock differs from the store's clock; continuing with the store's clock"
            );
        }
        self.behind.fetch_add(correction, Ordering::Relaxed);
    }
}

fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

/// The CPU time of a process, user and system mode together, including threads that have
/// ended. The sum is exact to a few ticks of 10 ms, because the kernel derives it from
/// the measurements of the scheduler.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc_pid_stat(5): the name is the second field. It is in parentheses and may contain
    // any character. utime and stime are the fields 14 and 15.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: Vec<u64> = fields.split(' ').skip(12).take(2).flat_map(str::parse).collect();
    let [user, system] = ticks[..] else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "/proc/PID/stat has an unknown format",
        ));
    };
    Ok(Duration::from_secs(user + system) / clock_ticks_per_second() as u32)
}

/// The random generator of the operating system.
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    /// Panics if the system has no randomness, because a session id would not be safe
    /// without it.
    fn fill(&self, bytes: &mut [u8]) {
        SysRng.try_fill_bytes(bytes).expect("the operating system gives random bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::atomic::AtomicU64;

    static BOOT_MILLIS: AtomicU64 = AtomicU64::new(5_000);

    /// Only the monotonic clock moves this clock. The wall clock is not read again.
    #[test]
    fn time_follows_the_monotonic_clock() {
        let clock = SystemClock {
            wall_at_start: Moment::from_unix_millis(1_000_000),
            boot_at_start: Duration::from_millis(5_000),
            since_boot: || Duration::from_millis(BOOT_MILLIS.load(Ordering::Relaxed)),
            behind: AtomicI64::new(0),
        };
        assert_eq!(clock.now(), Moment::from_unix_millis(1_000_000));
        BOOT_MILLIS.store(7_500, Ordering::Relaxed);
        assert_eq!(clock.now(), Moment::from_unix_millis(1_002_500));
        BOOT_MILLIS.store(0, Ordering::Relaxed);
        assert_eq!(clock.now(), Moment::from_unix_millis(1_000_000), "never before its start");
        clock.not_before(Moment::from_unix_millis(900_000));
        assert_eq!(clock.now(), Moment::from_unix_millis(1_000_000), "it is not behind that");
        clock.not_before(Moment::from_unix_millis(1_500_000));
        BOOT_MILLIS.store(6_000, Ordering::Relaxed);
        assert_eq!(clock.now(), Moment::from_unix_millis(1_501_000), "it continues from there");
    }

    /// Ended threads count, unlike in /proc/PID/task.
    #[test]
    fn ended_threads_count_as_cpu_time_of_the_process() {
        let own = || cpu_time(std::process::id()).expect("our own is there");
        let before = own();
        let working =
            std::thread::spawn(move || while own() < before + Duration::from_millis(50) {});
        working.join().expect("it ends");
        assert!(own() >= before + Duration::from_millis(50), "{:?} after {before:?}", own());
        assert!(cpu_time(u32::MAX).is_err(), "there is no such process");
    }

    /// Small pieces with one in use at the end, as after many connections.
    #[test]
    #[cfg(target_env = "gnu")]
    fn freed_memory_is_given_back() {
        const PIECES: usize = 64 << 10;
        let before = resident_bytes().expect("our own is there");
        let mut pieces: Vec<_> = (0..PIECES).map(|_| vec![1_u8; 1 << 10]).collect();
        let most = resident_bytes().expect("our own is there");
        assert!(most > before + (PIECES << 10) / 2, "{before} bytes, then {most}");
        let last = pieces.pop();
        drop(pieces);
        give_back_freed_memory();
        let after = resident_bytes().expect("our own is there");
        assert!(after < most - (PIECES << 10) / 2, "{most} bytes, then {after}");
        drop(last);
    }

    #[test]
    fn it_follows_another_clock() {
        let clock = SystemClock {
            wall_at_start: Moment::from_unix_millis(1_000_000),
            boot_at_start: Duration::ZERO,
            since_boot: || Duration::ZERO,
            behind: AtomicI64::new(0),
        };
        let at = Moment::from_unix_millis;
        for (earliest, latest, then) in [
            (999_000, 1_001_000, 1_000_000), // Within the bounds: unchanged.
            (5_000_000, 5_000_010, 5_000_000),
            (5_000_005, 5_000_100, 5_000_005),
            (1_000, 1_020, 1_020),
        ] {
            clock.follow(at(earliest), at(latest));
            assert_eq!(clock.now(), at(then), "{earliest} to {latest}");
        }
    }

    #[test]
    fn it_starts_at_the_wall_clock_and_advances() {
        let clock = SystemClock::start();
        let earlier = clock.now();
        assert!(earlier > Moment::from_unix_millis(1_700_000_000_000), "{earlier:?}");
        while clock.now() == earlier {}
        assert!(clock.now() > earlier);
    }
}
