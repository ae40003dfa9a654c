//! The machine: its description, and processes with cores of their own.

use std::{
    fs,
    path::Path,
    process::{Child, Command},
    time::{Duration, UNIX_EPOCH},
};

use rustix::{
    param::clock_ticks_per_second,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use sessiond::{
    server::{clock::SystemClock, system::cpu_time},
    session::clock::Clock,
};

use super::Problem;

/// A process that is killed when its owner is dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Starts it on these cores, or on all cores of this process if there are none.
    pub(crate) fn spawn(mut command: Command, cores: &[usize]) -> Result<Self, Problem> {
        let program = command.get_program().to_string_lossy().into_owned();
        let spawned = on_cores(cores, || command.spawn())?;
        spawned.map(Self).map_err(|error| format!("{program} cannot be started: {error}"))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// The CPU time that it has used.
    pub(crate) fn cpu_time(&self) -> Result<Duration, Problem> {
        let spent = cpu_time(self.id());
        spent.map_err(|error| format!("no CPU time of process {} can be read: {error}", self.id()))
    }

    /// Its resident memory.
    pub(crate) fn resident_bytes(&self) -> Result<u64, Problem> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map(|kib| kib << 10).ok_or_else(|| format!("process {} has no VmRSS", self.id()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `work` on these cores. Processes that it starts inherit them.
pub(crate) fn on_cores<T>(cores: &[usize], work: impl FnOnce() -> T) -> Result<T, Problem> {
    if cores.is_empty() {
        return Ok(work());
    }
    let unfit = |error| format!("the cores {cores:?} cannot be taken: {error}");
    let own = sched_getaffinity(None).map_err(unfit)?;
    let mut wanted = CpuSet::new();
    cores.iter().for_each(|core| wanted.set(*core));
    sched_setaffinity(None, &wanted).map_err(unfit)?;
    let done = work();
    sched_setaffinity(None, &own).map_err(unfit)?;
    Ok(done)
}

/// The cores that this process may use.
pub(crate) fn cores() -> Vec<usize> {
    let Ok(own) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|core| own.is_set(*core)).collect()
}

/// The time since the start of the machine in which these cores were idle.
pub(crate) fn idle_time(cores: &[usize]) -> Result<Duration, Problem> {
    let stat = fs::read_to_string("/proc/stat").map_err(|error| format!("/proc/stat: {error}"))?;
    let ticks = cores.iter().map(|core| {
        // proc_stat(5): user, nice, system, idle, iowait.
        let line = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{core} ")));
        let fields = line.unwrap_or_default().split(' ').skip(3).take(2);
        fields.flat_map(str::parse::<u64>).sum::<u64>()
    });
    Ok(Duration::from_secs(ticks.sum()) / clock_ticks_per_second() as u32)
}

/// A description of the machine, and the date.
pub(crate) fn in_words() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let cpu = field(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown CPU".to_owned());
    let memory = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|text| text.trim_end_matches(" kB").parse::<f64>().ok())
        .map_or("?".to_owned(), |kib| format!("{:.0}", kib / 1024.0 / 1024.0));
    let virtual_machine = if field(&read("/proc/cpuinfo"), "flags")
        .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"))
    {
        ", a virtual machine"
    } else {
        ""
    };
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = kernel.trim().split('-').next().unwrap_or_default().to_owned();
    format!(
        "{}, {} cores of {cpu}{virtual_machine}, {memory} GiB, Linux {kernel}",
        today(),
        cores().len()
    )
}

fn today() -> String {
    let now = Duration::from_millis(SystemClock::start().now().unix_millis());
    let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + now).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

/// Whether a program of this name is on the PATH.
pub(crate) fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|path| Path::new(&path).join(program).is_file())
}
