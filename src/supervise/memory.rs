//! The memory of a call without a cgroup: the sum over its processes, looked at every 100 ms. And what else `/proc` shows of
//! them.

use super::limits::Peaks;
use crate::sys::process::Spent;
use crate::types::{Code, Details, Failure, Layer};
use serde::Serialize;
use std::fs;
use std::path::Path;

/// Processes that are looked at; `processes` limits those of a call anyway.
const MAX_PROCESSES: usize = 4096;

/// Calls `visit` with the process id of `root` and of each descendant. Orphans become children of pid 1, so the tree is
/// complete.
fn walk(root: i32, mut visit: impl FnMut(i32)) {
    let mut queue = vec![root];
    let mut seen = 0;
    while let Some(pid) = queue.pop() {
        seen += 1;
        if seen > MAX_PROCESSES {
            break;
        }
        visit(pid);
        for task in tasks(pid) {
            let children = shown(task.join("children")).unwrap_or_default();
            queue.extend(children.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
    }
}

/// A file of `/proc`, if it can be read. `status` and `stat` contain the name of the process, which can be any bytes
/// (`PR_SET_NAME` of prctl(2)): a name that is not UTF-8 must not hide the rest.
pub(super) fn shown(path: impl AsRef<Path>) -> Option<String> {
    fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Directories of the threads of a process; none if it has ended.
fn tasks(pid: i32) -> Vec<std::path::PathBuf> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .map_or_else(|_| Vec::new(), |tasks| tasks.flatten().map(|task| task.path()).collect())
}

/// Bytes of anonymous and shared memory that `root` and its descendants have now, resident or swapped out, with the pages
/// that map it and their huge pages (proc_pid_status(5)); `None` if `root` has ended.
/// Memory that processes share after a fork is counted in each, so the sum is rather too large. `peaks` gets
/// what else was seen of them.
#[must_use]
pub fn resident(root: i32, peaks: &mut Peaks) -> Option<u64> {
    let status = shown(format!("/proc/{root}/status"))?;
    let mut total = 0u64;
    let mut processes = 0;
    // If the first thread has ended, only the others show the memory of the process.
    // A kernel without swap or huge pages may omit their lines.
    let used = |status: &str| {
        let more = ["VmSwap:", "VmPTE:", "HugetlbPages:"].map(|name| field(status, name).unwrap_or(0));
        Some(field(status, "RssAnon:")? + field(status, "RssShmem:")? + more.iter().sum::<u64>())
    };
    walk(root, |pid| {
        let leader = if pid == root { Some(status.clone()) } else { shown(format!("/proc/{pid}/status")) };
        let bytes = leader
            .as_deref()
            .and_then(used)
            .or_else(|| tasks(pid).iter().find_map(|task| used(&shown(task.join("status"))?)));
        total = total.saturating_add(bytes.unwrap_or(0));
        if pid != root {
            let value = |name| leader.as_deref().and_then(|status| number(status, name)).unwrap_or(0);
            // A zombie counts as well.
            processes += value("Threads:").max(1);
            peaks.one(value("VmData:").saturating_mul(1024), descriptors(pid));
        }
    });
    peaks.processes = peaks.processes.max(processes);
    peaks.resident = peaks.resident.max(total);
    Some(total)
}

/// How many descriptors a process has: the size of its directory of them (Linux 6.2; 0 before).
fn descriptors(pid: i32) -> u64 {
    rustix::fs::stat(format!("/proc/{pid}/fd")).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0))
}

/// Processor time of the current processes and of the children that they have waited for (`proc_pid_stat(5)`, 14–17).
#[must_use]
pub fn spent(root: i32) -> Spent {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|ticks| u64::try_from(ticks).ok())
        .unwrap_or(100);
    let mut total = Spent::default();
    walk(root, |pid| {
        let stat = shown(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((_, rest)) = stat.rsplit_once(')') else { return };
        let fields: Vec<u64> = rest.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
        total.user_us += (field(14) + field(16)) * 1_000_000 / ticks;
        total.system_us += (field(15) + field(17)) * 1_000_000 / ticks;
        let status = shown(format!("/proc/{pid}/status")).unwrap_or_default();
        total.max_rss_bytes = total.max_rss_bytes.max(self::field(&status, "VmHWM:").unwrap_or(0));
    });
    total
}

/// What the supervisor reads of the plugin's process right after exec.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Seen {
    /// `Seccomp` of its status: 2 is a filter.
    pub seccomp: Option<u64>,
    /// `Seccomp_filters` (Linux 5.9).
    pub seccomp_filters: Option<u64>,
}

/// Looks at pid 1 and the plugin once, before the supervisor confines itself: is there anything to watch?
///
/// # Errors
/// `sandbox_unavailable` if `/proc` hides the processes of the call or their children.
pub fn watchable(root: i32) -> Result<Seen, Failure> {
    let unavailable = |what: &str, remedy: &str| {
        Failure::new(
            Code::SandboxUnavailable,
            format!("limits: {what}, so nothing would limit the call's memory; {remedy}"),
        )
        .with(Details::Layer { layer: Layer::Limits, cause: None, remedy: Some(remedy.to_owned()) })
    };
    if shown(format!("/proc/{root}/status")).is_none() {
        // It may have ended; then there is nothing to watch.
        return match rustix::process::test_kill_process(
            rustix::process::Pid::from_raw(root).unwrap_or(rustix::process::Pid::INIT),
        ) {
            Ok(()) => Err(unavailable(
                "/proc does not show the call's processes",
                "mount /proc without hidepid where upm runs",
            )),
            Err(_) => Ok(Seen::default()),
        };
    }
    let Some(children) = shown(format!("/proc/{root}/task/{root}/children")) else {
        return Err(unavailable("this kernel does not list children", "use one with CONFIG_PROC_CHILDREN"));
    };
    let plugin = children.split_ascii_whitespace().next().unwrap_or_default();
    let status = shown(format!("/proc/{plugin}/status")).unwrap_or_default();
    Ok(Seen { seccomp: number(&status, "Seccomp:"), seccomp_filters: number(&status, "Seccomp_filters:") })
}

/// A `… kB` line of `/proc/PID/status`, in bytes.
fn field(status: &str, name: &str) -> Option<u64> {
    number(status, name).map(|kib| kib.saturating_mul(1024))
}

/// The first number of a line of `/proc/PID/status`.
fn number(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Peaks;

    #[test]
    fn this_process_uses_memory_and_more_after_taking_some() {
        let own = std::process::id() as i32;
        let before = super::resident(own, &mut Peaks::default()).unwrap();
        // More than malloc(3) reuses of freed memory (M_MMAP_THRESHOLD is at most 32 MiB).
        let block = vec![1u8; 64 << 20];
        let after = super::resident(own, &mut Peaks::default()).unwrap();
        assert!(before > 0 && after >= before + (60 << 20), "{before} {after} {}", block.len());
    }

    #[test]
    fn a_process_that_has_ended_uses_nothing() {
        assert_eq!(super::resident(i32::MAX, &mut Peaks::default()), None);
    }

    #[test]
    fn this_process_has_spent_time() {
        let own = std::process::id() as i32;
        let begun = std::time::Instant::now();
        while begun.elapsed().as_millis() < 60 {
            std::hint::spin_loop();
        }
        assert!(super::spent(own).user_us >= 20_000);
    }
}
