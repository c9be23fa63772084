//! The memory of a whole call where no cgroup counts it: the sum over its processes, looked at every 100 ms.

use std::fs;

/// Processes that are looked at; `processes` bounds a call's anyway.
const MAX_PROCESSES: usize = 4096;

/// Bytes of anonymous and shared memory that the descendants of `root` have resident now. Memory that processes share
/// after a fork is counted in each: the sum errs on the side of ending a call.
#[must_use]
pub fn resident(root: i32) -> u64 {
    let mut total = 0u64;
    let mut queue = vec![root];
    let mut seen = 0;
    while let Some(pid) = queue.pop() {
        seen += 1;
        if seen > MAX_PROCESSES {
            break;
        }
        // A process that ended in between has nothing any more. Orphans become children of pid 1, so that the tree is whole.
        if let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) {
            total = total.saturating_add(field(&status, "RssAnon:")).saturating_add(field(&status, "RssShmem:"));
        }
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            queue.extend(children.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
    }
    total
}

/// A `… kB` line of `/proc/PID/status`, in bytes.
fn field(status: &str, name: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0)
        .saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_uses_memory_and_more_after_taking_some() {
        let own = std::process::id() as i32;
        let before = super::resident(own);
        let block = vec![1u8; 32 << 20];
        let after = super::resident(own);
        assert!(before > 0 && after >= before + (30 << 20), "{before} {after} {}", block.len());
    }
}
