//! What the operating system gives: clocks and randomness, which the `session` module takes
//! as arguments, process limits and CPU time.

use std::{ffi::CString, fs, io, mem::MaybeUninit, ptr, sync::OnceLock, time::Duration};

use rand::{TryRng, rngs::SysRng};
use rustix::{
    param::clock_ticks_per_second,
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

use super::clock::Machine;
use crate::session::{clock::WallTime, id::Entropy};

/// File descriptors besides the connections of `listen.grpc`: listeners, files, connections
/// that wait or have spare places, and those to admin and metrics.
const OTHER_DESCRIPTORS: u64 = 384;

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

/// Keeps what is in memory, which is secrets and sessions, out of core dumps. Returns an
/// error if a handler of core dumps might still see it.
///
/// The process stays "dumpable" (`PR_SET_DUMPABLE`). Otherwise its files in `/proc` would
/// belong to root, and the user of the daemon could not look at its descriptors, measure it
/// or trace it.
pub fn keep_memory_out_of_core_dumps() -> Result<(), String> {
    // No core file. systemd-coredump and its like keep none then either, but the kernel
    // gives them the dump before they decide (core(5)).
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // So the dump has no mapping at all, for whoever takes it.
    fs::write("/proc/self/coredump_filter", "0")
        .map_err(|error| format!("cannot write /proc/self/coredump_filter: {error}"))
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

/// The number of a group of this machine, by its name. `None`: there is no such group.
pub(super) fn group_id(name: &str) -> io::Result<Option<u32>> {
    /// A group may have thousands of members, whose names are a part of what is found.
    const MOST_BYTES: usize = 1 << 20;
    let name = CString::new(name)?;
    let mut texts = vec![0; 1 << 10];
    loop {
        let (mut group, mut found) = (MaybeUninit::uninit(), ptr::null_mut());
        // SAFETY: the name ends with NUL, and the other pointers lead to memory of this
        // function, with the length of the buffer that is passed.
        let code = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                group.as_mut_ptr(),
                texts.as_mut_ptr(),
                texts.len(),
                &mut found,
            )
        };
        match code {
            0 if found.is_null() => return Ok(None),
            // SAFETY: it was found, so the struct is filled.
            0 => return Ok(Some(unsafe { group.assume_init() }.gr_gid)),
            libc::ERANGE if texts.len() < MOST_BYTES => texts.resize(texts.len() * 4, 0),
            // getgrnam(3): systems differ in how they say that there is none.
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// The clocks of this machine.
pub struct LinuxMachine;

impl Machine for LinuxMachine {
    #[expect(clippy::disallowed_methods, reason = "the module that reads the clock")]
    fn wall(&self) -> WallTime {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        WallTime::from_unix_millis(wall.unwrap_or_default().as_millis() as u64)
    }

    fn since_boot(&self) -> Duration {
        Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
    }

    /// `proc_sys_kernel(5)`: a random UUID, made at boot. Containers see that of their host.
    fn boot(&self) -> Option<[u8; 16]> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
    }

    fn is_synchronized(&self) -> bool {
        // SAFETY: all fields of the struct are numbers, for which zeros are valid. With no
        // mode set, the call only fills the struct, and needs no privilege.
        let (state, status) = unsafe {
            let mut kernel: libc::timex = std::mem::zeroed();
            (libc::adjtimex(&raw mut kernel), kernel.status)
        };
        // adjtimex(2). A container may refuse the call; then nothing is known.
        state >= 0 && state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0
    }
}

/// The wall clock.
pub fn wall_time() -> WallTime {
    LinuxMachine.wall()
}

/// The wall clock, in seconds of Unix time, as certificates are judged by it.
pub(super) fn unix_seconds() -> i64 {
    (LinuxMachine.wall().unix_millis() / 1000).try_into().unwrap_or(i64::MAX)
}

/// The wall clock, as exact as the system has it, in Unix time: for spans, which other machines
/// compare with theirs.
#[expect(clippy::disallowed_methods, reason = "the module that reads the clock")]
pub(super) fn unix_time() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
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

/// What the kernel keeps of this process.
#[derive(Debug)]
pub(super) struct ProcessState {
    /// User and system mode together.
    pub cpu: Duration,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub open_descriptors: u64,
    /// `None`: there is no limit.
    pub most_descriptors: Option<u64>,
    /// Since the Unix epoch.
    pub start: Duration,
}

impl ProcessState {
    pub(super) fn read() -> io::Result<Self> {
        // It does not change, and the file has lines for each core and each interrupt.
        static BOOT: OnceLock<Option<u64>> = OnceLock::new();
        let boot = || {
            let stat = fs::read_to_string("/proc/stat").ok()?;
            stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
        };
        let stat = fs::read_to_string("/proc/self/stat")?;
        let unknown =
            || io::Error::new(io::ErrorKind::InvalidData, "/proc/self/stat has an unknown format");
        // proc_pid_stat(5): see `cpu_time`. utime, stime, starttime, vsize and rss are the
        // fields 14, 15, 22, 23 and 24; the first one here is the third.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |number: usize| -> io::Result<u64> {
            fields.get(number - 3).and_then(|field| field.parse().ok()).ok_or_else(unknown)
        };
        let ticks = |ticks: u64| {
            Duration::from_millis(ticks.saturating_mul(1000) / clock_ticks_per_second())
        };
        let boot = BOOT.get_or_init(boot).ok_or_else(unknown)?;
        // The directory is open itself while it is read.
        let open_descriptors = fs::read_dir("/proc/self/fd")?.count().saturating_sub(1);
        Ok(Self {
            cpu: ticks(field(14)? + field(15)?),
            resident_bytes: field(24)? * rustix::param::page_size() as u64,
            virtual_bytes: field(23)?,
            open_descriptors: open_descriptors as u64,
            most_descriptors: getrlimit(Resource::Nofile).current,
            start: Duration::from_secs(boot) + ticks(field(22)?),
        })
    }
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

    #[test]
    fn groups_are_found_by_their_names() {
        assert_eq!(group_id("root").expect("looked up"), Some(0));
        assert_eq!(group_id("no-such-group-here").expect("looked up"), None);
        group_id("a\0b").expect_err("no name");
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

    /// Runs a test of this module in a process of its own: beside others, memory comes and goes.
    fn alone(name: &str, test: impl FnOnce()) {
        const ALONE: &str = "SESSIOND_TEST_ALONE";
        if std::env::var_os(ALONE).is_some() {
            return test();
        }
        let (_, module) = module_path!().split_once("::").expect("a module of this crate");
        let program = std::env::current_exe().expect("a path");
        let mut command = std::process::Command::new(program);
        let command = command.args(["--exact", &format!("{module}::{name}")]).env(ALONE, "1");
        let output = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains(" 1 passed"), "{name}: {said}");
    }

    #[test]
    fn the_kernel_tells_of_the_process() {
        alone("the_kernel_tells_of_the_process", || {
            let state = ProcessState::read().expect("our own is there");
            let resident = resident_bytes().expect("our own is there") as u64;
            assert!(state.resident_bytes > resident / 2, "{state:?}, {resident}");
            assert!(state.virtual_bytes >= state.resident_bytes, "{state:?}");
            assert!(state.open_descriptors >= 3 && state.most_descriptors.is_some(), "{state:?}");
            let age = unix_time().checked_sub(state.start);
            let most = Duration::from_secs(24 * 3600);
            assert!(age.is_some_and(|age| age < most), "started a moment ago: {state:?}");
        });
    }

    /// Small pieces with one in use at the end, as after many connections.
    #[test]
    #[cfg(target_env = "gnu")]
    fn freed_memory_is_given_back() {
        alone("freed_memory_is_given_back", || {
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
        });
    }
}
