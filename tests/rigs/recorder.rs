//! A library to load before libc with `LD_PRELOAD`. It records what a process does to the files
//! below one directory, and makes selected operations fail.
//!
//! | variable | meaning |
//! |---|---|
//! | `RECORDER_ROOT` | the directory; without it nothing is recorded |
//! | `RECORDER_LOG` | where the operations are appended, as [`Head`] and what follows it |
//! | `RECORDER_FAULT` | `class:n:errno:once` or `class:n:errno:always`; the class is `write`,
//! `sync`, `datasync` (the syncs that are `fdatasync`) or `rename`, n counts from 1. The log
//! then holds no data. |
//!
//! Each operation and its log entry happen under one lock, so the log is an order in which the
//! operations could have happened one by one. On `SIGUSR2` the process is killed between two
//! operations: everything in the log has happened, and nothing else has. Only absolute paths
//! are recorded, and descriptors are not followed through `dup`. Raw system calls are not seen.
//!
//! The code runs inside calls of libc, on any thread, possibly before `main`. So nothing here
//! allocates or panics.

use std::{
    cell::UnsafeCell,
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst},
};

use libc::{iovec, mode_t, off64_t, size_t, ssize_t};

/// The header of each entry, in the byte order of this machine. After it come the path (below
/// the root, without a leading slash) and the data.
#[repr(C)]
struct Head {
    /// One of [`kind`].
    kind: u32,
    fd: i32,
    /// The offset of a write; the length of a truncation; for an open, 1 if it created the
    /// file, plus 2 if it truncated it.
    at: u64,
    path_len: u32,
    data_len: u32,
    /// Nanoseconds of the monotonic clock.
    time: u64,
}

mod kind {
    pub(crate) const START: u32 = 0;
    pub(crate) const OPEN: u32 = 1;
    pub(crate) const CLOSE: u32 = 2;
    pub(crate) const WRITE: u32 = 3;
    pub(crate) const SYNC_RANGE: u32 = 4;
    pub(crate) const SYNC_DATA: u32 = 5;
    pub(crate) const SYNC: u32 = 6;
    pub(crate) const TRUNCATE: u32 = 7;
    pub(crate) const RENAME: u32 = 8;
    pub(crate) const UNLINK: u32 = 9;
    pub(crate) const MKDIR: u32 = 10;
    /// The operation was made to fail.
    pub(crate) const FAULT: u32 = 11;
}

#[derive(Clone, Copy, PartialEq)]
enum Class {
    Write = 1,
    Sync = 2,
    Rename = 3,
    DataSync = 4,
}

const MAX_FDS: usize = 1 << 16;
const UNSET: i32 = -1;

/// Whether each descriptor is of a file below the root.
static FOLLOWED: [AtomicBool; MAX_FDS] = [const { AtomicBool::new(false) }; MAX_FDS];
static LOG: AtomicI32 = AtomicI32::new(UNSET);
/// The address of the root, a string in libc's environment, which lives as long as the process.
static ROOT: AtomicUsize = AtomicUsize::new(0);
static FAULT_CLASS: AtomicU8 = AtomicU8::new(0);
static FAULT_NUMBER: AtomicU64 = AtomicU64::new(0);
static FAULT_ERRNO: AtomicI32 = AtomicI32::new(0);
static FAULT_ALWAYS: AtomicBool = AtomicBool::new(false);
static SEEN: AtomicU64 = AtomicU64::new(0);
static DYING: AtomicBool = AtomicBool::new(false);

struct Lock(UnsafeCell<libc::pthread_mutex_t>);
// SAFETY: a mutex may be shared between threads; only its address is used here.
unsafe impl Sync for Lock {}
static LOCK: Lock = Lock(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));

struct Held;

impl Held {
    fn take() -> Self {
        // SAFETY: the mutex is static and initialized.
        unsafe { libc::pthread_mutex_lock(LOCK.0.get()) };
        Self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if DYING.load(SeqCst) {
            die();
        }
        // SAFETY: this thread took it.
        unsafe { libc::pthread_mutex_unlock(LOCK.0.get()) };
        // The signal may have come between the lock and the check.
        if DYING.load(SeqCst) {
            die();
        }
    }
}

fn die() {
    // SAFETY: raw system calls without memory.
    unsafe { libc::syscall(libc::SYS_kill, libc::syscall(libc::SYS_getpid), libc::SIGKILL) };
}

extern "C" fn on_die(_: c_int) {
    DYING.store(true, SeqCst);
    // The lock may be held, even by the thread that was interrupted. Its holder kills the
    // process when it releases the lock. SAFETY: the mutex is static; nothing follows but the
    // end of the process.
    if unsafe { libc::pthread_mutex_trylock(LOCK.0.get()) } == 0 {
        die();
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    // SAFETY: the environment is not changed while constructors run; the
    // strings end with NUL.
    unsafe {
        let root = libc::getenv(c"RECORDER_ROOT".as_ptr());
        let log = libc::getenv(c"RECORDER_LOG".as_ptr());
        if root.is_null() || log.is_null() {
            return;
        }
        let flags = libc::O_CREAT | libc::O_APPEND | libc::O_WRONLY | libc::O_CLOEXEC;
        let fd = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, log, flags, 0o600);
        if fd < 0 {
            libc::_exit(97);
        }
        let fault = libc::getenv(c"RECORDER_FAULT".as_ptr());
        if !fault.is_null() && read_fault(CStr::from_ptr(fault).to_bytes()).is_none() {
            libc::_exit(98);
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_die as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGUSR2, &action, std::ptr::null_mut());
        LOG.store(fd as i32, SeqCst);
        ROOT.store(root as usize, SeqCst);
    }
    let _held = Held::take();
    append(kind::START, UNSET, 0, b"", b"");
}

fn read_fault(text: &[u8]) -> Option<()> {
    let mut parts = text.split(|octet| *octet == b':');
    let class = match parts.next()? {
        b"write" => Class::Write,
        b"sync" => Class::Sync,
        b"rename" => Class::Rename,
        b"datasync" => Class::DataSync,
        _ => return None,
    };
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u32>().ok();
    FAULT_NUMBER.store(number()?.into(), SeqCst);
    FAULT_ERRNO.store(number()?.try_into().ok()?, SeqCst);
    FAULT_ALWAYS.store(parts.next()? == b"always", SeqCst);
    FAULT_CLASS.store(class as u8, SeqCst);
    Some(())
}

fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is written to a place that lives until the call returns.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Appends an entry. The caller must hold the lock. errno is unchanged.
fn append(kind: u32, fd: c_int, at: u64, path: &[u8], data: &[u8]) {
    let data = if FAULT_CLASS.load(SeqCst) == 0 { data } else { b"" };
    let (path_len, data_len) = (path.len() as u32, data.len() as u32);
    let head = Head { kind, fd, at, path_len, data_len, time: now() };
    let parts = [
        iovec { iov_base: (&raw const head).cast_mut().cast(), iov_len: size_of::<Head>() },
        iovec { iov_base: path.as_ptr().cast_mut().cast(), iov_len: path.len() },
        iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() },
    ];
    let expected = (size_of::<Head>() + path.len() + data.len()) as i64;
    // SAFETY: the parts live until the call returns; errno is this thread's.
    unsafe {
        let errno = *libc::__errno_location();
        let log = LOG.load(SeqCst);
        if libc::syscall(libc::SYS_writev, log, parts.as_ptr(), parts.len()) != expected {
            // A log with a missing entry would prove nothing.
            libc::_exit(99);
        }
        *libc::__errno_location() = errno;
    }
}

/// Whether this operation of `class` is to fail. If so, sets errno and records the fault. The
/// caller must hold the lock.
fn fails(class: Class, fd: c_int, path: &[u8]) -> bool {
    if FAULT_CLASS.load(SeqCst) != class as u8 {
        return false;
    }
    let seen = SEEN.fetch_add(1, SeqCst) + 1;
    let number = FAULT_NUMBER.load(SeqCst);
    if seen != number && (seen < number || !FAULT_ALWAYS.load(SeqCst)) {
        return false;
    }
    append(kind::FAULT, fd, seen, path, b"");
    // SAFETY: errno is this thread's.
    unsafe { *libc::__errno_location() = FAULT_ERRNO.load(SeqCst) };
    true
}

fn is_followed(fd: c_int) -> bool {
    usize::try_from(fd).ok().and_then(|fd| FOLLOWED.get(fd)).is_some_and(|fd| fd.load(SeqCst))
}

fn follow(fd: c_int, follow: bool) {
    if let Some(slot) = usize::try_from(fd).ok().and_then(|fd| FOLLOWED.get(fd)) {
        slot.store(follow, SeqCst);
    } else if fd >= 0 {
        // SAFETY: ends the process.
        unsafe { libc::_exit(96) };
    }
}

/// The part of a path below the root.
///
/// # Safety
///
/// `path` is null or ends with NUL.
unsafe fn below<'a>(path: *const c_char) -> Option<&'a [u8]> {
    let root = ROOT.load(SeqCst) as *const c_char;
    if root.is_null() || path.is_null() {
        return None;
    }
    // SAFETY: both end with NUL.
    let (root, path) =
        unsafe { (CStr::from_ptr(root).to_bytes(), CStr::from_ptr(path).to_bytes()) };
    let rest = path.strip_prefix(root)?;
    rest.strip_prefix(b"/").or(rest.is_empty().then_some(rest))
}

/// The function of libc that this library replaces.
macro_rules! next {
    ($name:literal, fn($($argument:ty),*) -> $result:ty) => {{
        static FOUND: AtomicUsize = AtomicUsize::new(0);
        let mut found = FOUND.load(SeqCst);
        if found == 0 {
            // SAFETY: the name ends with NUL.
            found = unsafe { libc::dlsym(libc::RTLD_NEXT, $name.as_ptr()) } as usize;
            if found == 0 {
                // SAFETY: ends the process.
                unsafe { libc::_exit(95) };
            }
            FOUND.store(found, SeqCst);
        }
        // SAFETY: libc's function of that name has this type.
        unsafe { std::mem::transmute::<usize, unsafe extern "C" fn($($argument),*) -> $result>(found) }
    }};
}

/// Opens a file with `call`, and records it if it is below the root.
///
/// # Safety
///
/// `path` is null or ends with NUL.
unsafe fn opened(path: *const c_char, flags: c_int, call: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: as the caller's.
    let Some(name) = (unsafe { below(path) }) else {
        return call();
    };
    let _held = Held::take();
    // SAFETY: as the caller's.
    let absent = flags & libc::O_CREAT != 0
        && unsafe { libc::syscall(libc::SYS_faccessat, libc::AT_FDCWD, path, libc::F_OK) } != 0;
    let fd = call();
    if fd >= 0 {
        follow(fd, true);
        let emptied = flags & libc::O_TRUNC != 0;
        append(kind::OPEN, fd, u64::from(absent) + 2 * u64::from(emptied), name, b"");
    }
    fd
}

macro_rules! opens {
    ($($name:ident $text:literal),+) => {
        $(/// # Safety
        ///
        /// As libc's. The mode is read only when the flags ask for it; where
        /// it is missing a register holds something else.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
            let next = next!($text, fn(*const c_char, c_int, mode_t) -> c_int);
            // SAFETY: as the caller's.
            unsafe { opened(path, flags, || next(path, flags, mode)) }
        })+
    };
}
opens!(open c"open", open64 c"open64");

macro_rules! opens_at {
    ($($name:ident $text:literal),+) => {
        $(/// # Safety
        ///
        /// As libc's, and see `open`.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            at: c_int,
            path: *const c_char,
            flags: c_int,
            mode: mode_t,
        ) -> c_int {
            let next = next!($text, fn(c_int, *const c_char, c_int, mode_t) -> c_int);
            // SAFETY: as the caller's.
            unsafe { opened(path, flags, || next(at, path, flags, mode)) }
        })+
    };
}
opens_at!(openat c"openat", openat64 c"openat64");

/// # Safety
///
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    let next = next!(c"close", fn(c_int) -> c_int);
    if !is_followed(fd) {
        // SAFETY: as the caller's.
        return unsafe { next(fd) };
    }
    let _held = Held::take();
    follow(fd, false);
    append(kind::CLOSE, fd, 0, b"", b"");
    // SAFETY: as the caller's.
    unsafe { next(fd) }
}

/// Writes with `call`, which returns the number of bytes written, and records the offset.
fn written(
    fd: c_int,
    at: Option<off64_t>,
    data: *const c_void,
    call: impl FnOnce() -> ssize_t,
) -> ssize_t {
    if !is_followed(fd) {
        return call();
    }
    let _held = Held::take();
    if fails(Class::Write, fd, b"") {
        return -1;
    }
    let len = call();
    if len > 0 {
        // The offset at which a write without an explicit one began, also in append mode.
        // SAFETY: no memory is involved.
        let at = at.unwrap_or_else(|| unsafe {
            libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) - len as i64
        });
        // SAFETY: the call has just read so many bytes from there.
        let data = unsafe { std::slice::from_raw_parts(data.cast(), len as usize) };
        append(kind::WRITE, fd, at as u64, b"", data);
    }
    len
}

/// # Safety
///
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, data: *const c_void, len: size_t) -> ssize_t {
    let next = next!(c"write", fn(c_int, *const c_void, size_t) -> ssize_t);
    // SAFETY: as the caller's.
    written(fd, None, data, || unsafe { next(fd, data, len) })
}

/// Writes one part per call, which `writev` is allowed to do.
///
/// # Safety
///
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    let next = next!(c"writev", fn(c_int, *const iovec, c_int) -> ssize_t);
    if !is_followed(fd) {
        // SAFETY: as the caller's.
        return unsafe { next(fd, parts, count) };
    }
    // SAFETY: the caller gives `count` parts.
    let parts = unsafe { std::slice::from_raw_parts(parts, count.max(0) as usize) };
    match parts.iter().find(|part| part.iov_len > 0) {
        None => 0,
        Some(part) => {
            let call = next!(c"write", fn(c_int, *const c_void, size_t) -> ssize_t);
            // SAFETY: as the caller's.
            written(fd, None, part.iov_base, || unsafe { call(fd, part.iov_base, part.iov_len) })
        }
    }
}

macro_rules! writes_at {
    ($($name:ident $text:literal),+) => {
        $(/// # Safety
        ///
        /// As libc's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            fd: c_int,
            data: *const c_void,
            len: size_t,
            at: off64_t,
        ) -> ssize_t {
            let next = next!($text, fn(c_int, *const c_void, size_t, off64_t) -> ssize_t);
            // SAFETY: as the caller's.
            written(fd, Some(at), data, || unsafe { next(fd, data, len, at) })
        })+
    };
}
writes_at!(pwrite c"pwrite", pwrite64 c"pwrite64");

/// Runs an operation that returns 0 on success, on a descriptor that may be recorded. It may be
/// made to fail if it has a class.
fn done(
    fd: c_int,
    class: Option<Class>,
    kind: u32,
    at: u64,
    call: impl FnOnce() -> c_int,
) -> c_int {
    if !is_followed(fd) {
        return call();
    }
    let _held = Held::take();
    if class.is_some_and(|class| fails(class, fd, b"")) {
        return -1;
    }
    let result = call();
    if result == 0 {
        append(kind, fd, at, b"", b"");
    }
    result
}

/// # Safety
///
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sync_file_range(
    fd: c_int,
    at: off64_t,
    len: off64_t,
    flags: c_uint,
) -> c_int {
    let next = next!(c"sync_file_range", fn(c_int, off64_t, off64_t, c_uint) -> c_int);
    // SAFETY: as the caller's.
    done(fd, Some(Class::Sync), kind::SYNC_RANGE, at as u64, || unsafe { next(fd, at, len, flags) })
}

/// # Safety
///
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    let next = next!(c"fsync", fn(c_int) -> c_int);
    // SAFETY: as the caller's.
    done(fd, Some(Class::Sync), kind::SYNC, 0, || unsafe { next(fd) })
}

/// # Safety
///
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    let next = next!(c"fdatasync", fn(c_int) -> c_int);
    let only = FAULT_CLASS.load(SeqCst) == Class::DataSync as u8;
    let class = if only { Class::DataSync } else { Class::Sync };
    // SAFETY: as the caller's.
    done(fd, Some(class), kind::SYNC_DATA, 0, || unsafe { next(fd) })
}

macro_rules! truncates {
    ($($name:ident $text:literal),+) => {
        $(/// # Safety
        ///
        /// As libc's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(fd: c_int, len: off64_t) -> c_int {
            let next = next!($text, fn(c_int, off64_t) -> c_int);
            // SAFETY: as the caller's.
            done(fd, None, kind::TRUNCATE, len as u64, || unsafe { next(fd, len) })
        })+
    };
}
truncates!(ftruncate c"ftruncate", ftruncate64 c"ftruncate64");

/// An operation on a path that may be below the root.
///
/// # Safety
///
/// `path` is null or ends with NUL, and so is `to`.
unsafe fn named(
    path: *const c_char,
    to: *const c_char,
    kind: u32,
    call: impl FnOnce() -> c_int,
) -> c_int {
    // SAFETY: as the caller's.
    let (Some(name), to) = (unsafe { (below(path), below(to).unwrap_or_default()) }) else {
        return call();
    };
    let _held = Held::take();
    if kind == kind::RENAME && fails(Class::Rename, UNSET, name) {
        return -1;
    }
    let result = call();
    if result == 0 {
        // The new name takes the place of the data, and is recorded with and without faults.
        let at = name.len() as u64;
        let mut both = [0; 2 * libc::PATH_MAX as usize];
        let (first, rest) = both.split_at_mut(name.len());
        first.copy_from_slice(name);
        rest[..to.len()].copy_from_slice(to);
        append(kind, UNSET, at, &both[..name.len() + to.len()], b"");
    }
    result
}

/// # Safety
///
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let next = next!(c"rename", fn(*const c_char, *const c_char) -> c_int);
    // SAFETY: as the caller's.
    unsafe { named(from, to, kind::RENAME, || next(from, to)) }
}

/// # Safety
///
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn renameat(
    from_at: c_int,
    from: *const c_char,
    to_at: c_int,
    to: *const c_char,
) -> c_int {
    let next = next!(c"renameat", fn(c_int, *const c_char, c_int, *const c_char) -> c_int);
    // SAFETY: as the caller's.
    unsafe { named(from, to, kind::RENAME, || next(from_at, from, to_at, to)) }
}

/// # Safety
///
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    let next = next!(c"unlink", fn(*const c_char) -> c_int);
    // SAFETY: as the caller's.
    unsafe { named(path, std::ptr::null(), kind::UNLINK, || next(path)) }
}

/// # Safety
///
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlinkat(at: c_int, path: *const c_char, flags: c_int) -> c_int {
    let next = next!(c"unlinkat", fn(c_int, *const c_char, c_int) -> c_int);
    // SAFETY: as the caller's.
    unsafe { named(path, std::ptr::null(), kind::UNLINK, || next(at, path, flags)) }
}

/// # Safety
///
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    let next = next!(c"mkdir", fn(*const c_char, mode_t) -> c_int);
    // SAFETY: as the caller's.
    unsafe { named(path, std::ptr::null(), kind::MKDIR, || next(path, mode)) }
}
