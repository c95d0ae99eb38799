//! What processes cost, from `/proc`: CPU time and resident memory, with all descendants.

use std::collections::BTreeMap;
use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a process and its descendants have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time in user mode and in the kernel, in microseconds; of children that have ended, too.
    pub cpu_us: u64,
    /// Resident memory in bytes.
    pub resident: u64,
}

/// CPU and memory of `pid` and all its descendants.
pub fn usage_of(pid: u32) -> Usage {
    family(pid).into_iter().fold(Usage::default(), |sum, pid| Usage {
        cpu_us: sum.cpu_us + cpu_us(pid),
        resident: sum.resident + resident_bytes(pid),
    })
}

/// Resident memory of `pid` and all its descendants, in bytes.
pub fn resident_of(pid: u32) -> u64 {
    usage_of(pid).resident
}

/// Resident memory of one process in bytes; 0 when it is gone.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kb| kb.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// How many files and sockets a process has open.
pub fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .map(Iterator::count)
        .unwrap_or(0)
}

/// Raises this process's limit of open files, and so that of all it starts, as far as the system lets it; gives the limit.
pub fn raise_open_files() -> u64 {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of open files");
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

fn family(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in pids.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()) {
        if let Some(parent) = stat_fields(pid).get(1).and_then(|f| f.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        all.extend(children.get(&pid).into_iter().flatten());
        next += 1;
    }
    all
}

/// The fields of `/proc/PID/stat` behind the program's name: state, parent, ...
fn stat_fields(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// User and system time, with that of children that have ended and were waited for (servers of clients that came and went).
///
/// Ticks are 10 ms on Linux wherever PostgreSQL runs; `schedstat` is exact, so prefer it for what lives.
fn cpu_us(pid: u32) -> u64 {
    let fields = stat_fields(pid);
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    let ended = (ticks(13) + ticks(14)) * 10_000;
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        total += text
            .split_whitespace()
            .next()
            .and_then(|ns| ns.parse::<u64>().ok())
            .unwrap_or(0)
            / 1000;
    }
    if total == 0 {
        total = (ticks(11) + ticks(12)) * 10_000;
    }
    total + ended
}
