//! Which core does what, and what the work on it cost.

use std::{collections::BTreeMap, fs, ops::Sub, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, SysconfVar, sysconf},
};

/// The core of the proxy under test, and of nothing else that works.
pub(super) const PROXY: usize = 0;
/// The core of load and backend.
pub(super) const LOAD: usize = 1;

/// Fails where there are not two cores to tell apart.
pub(super) fn check() -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    ensure!(
        cores >= 2,
        "the bench needs two cores: one for the proxy, one for load and backend"
    );
    Ok(())
}

/// Runs `work` on a thread bound to `core`: what it starts is bound as well.
pub(super) fn on<T: Send>(core: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let bound = scope.spawn(|| {
            let mut set = CpuSet::new();
            set.set(core)?;
            sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("core {core}"))?;
            work()
        });
        bound
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// CPU time since some start: user and system time of a process and its children, and of the
/// kernel thread that does the proxy core's deferred network work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent(Duration);

impl Sub for Spent {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// What the processes `roots` and all below them have spent, with the proxy core's ksoftirqd.
pub(super) fn spent(roots: &[i32]) -> Result<Spent> {
    let processes = processes()?;
    let softirq = format!("ksoftirqd/{PROXY}");
    let deferred = processes.values().filter(|process| process.name == softirq);
    let ticks: u64 = family(&processes, roots)
        .chain(deferred)
        .map(|process| process.ticks)
        .sum();
    let rate = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick rate")?;
    Ok(Spent(Duration::from_secs_f64(ticks as f64 / rate as f64)))
}

/// Resident memory of the processes `roots` and all below them, in bytes.
pub(super) fn resident(roots: &[i32]) -> Result<u64> {
    let mut bytes = 0;
    for process in family(&processes()?, roots) {
        let path = format!("/proc/{}/status", process.pid);
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        bytes += 1024 * number.context("no VmRSS")?.parse::<u64>()?;
    }
    Ok(bytes)
}

#[derive(Debug)]
struct Process {
    pid: i32,
    parent: i32,
    name: String,
    ticks: u64,
}

fn family<'a>(
    processes: &'a BTreeMap<i32, Process>,
    roots: &'a [i32],
) -> impl Iterator<Item = &'a Process> {
    processes.values().filter(move |process| {
        let parents = std::iter::successors(Some(*process), |child| processes.get(&child.parent));
        parents
            .take(64)
            .any(|ancestor| roots.contains(&ancestor.pid))
    })
}

fn processes() -> Result<BTreeMap<i32, Process>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that ends meanwhile is none of those measured.
        if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
            all.extend(Process::parse(pid, &stat).map(|process| (pid, process)));
        }
    }
    Ok(all)
}

impl Process {
    /// Reads `/proc/PID/stat` (proc(5)): the name in brackets may hold anything, brackets too.
    fn parse(pid: i32, stat: &str) -> Option<Self> {
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            name: name.to_owned(),
            ticks: number(14)? + number(15)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Process;

    #[test]
    fn a_stat_line_is_read_whatever_the_name() {
        let line = "7 (a) (b) S 3 7 7 0 -1 0 0 0 0 0 41 1 0 0 20 0 1 0 5 0 0";
        let process = Process::parse(7, line).unwrap();
        assert_eq!(
            (process.parent, process.name.as_str(), process.ticks),
            (3, "a) (b", 42)
        );
        assert!(Process::parse(7, "7 (a) S").is_none());
    }
}
