//! How near a call came to the limits that the kernel enforces without telling anyone: looked at every 100 ms, when the plugin
//! answers, and at its end.

use super::denials::{self, Denials};
use crate::decide::plan::{Mount, Plan, Source};
use crate::types::{Code, Failure};
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The most that was seen of each.
#[derive(Debug, Default)]
pub struct Peaks {
    /// Processes and threads at once, without pid 1.
    pub processes: u64,
    /// Bytes of data of one process (`VmData` of proc_pid_status(5)), which `RLIMIT_DATA` bounds.
    pub data: u64,
    /// Descriptors of one process (the size of `/proc/PID/fd`, Linux 6.2).
    pub open_files: u64,
    /// Bytes of all processes together.
    pub resident: u64,
}

impl Peaks {
    /// Takes in what was seen of one process.
    pub fn one(&mut self, data: u64, open_files: u64) {
        self.data = self.data.max(data);
        self.open_files = self.open_files.max(open_files);
    }
}

/// The call's `/tmp`, which ends with the last descriptor of it.
#[derive(Debug, Default)]
pub struct Tmp {
    directory: Option<OwnedFd>,
    full: bool,
}

impl Tmp {
    /// From its directory, as the child sends it.
    #[must_use]
    pub fn new(directory: OwnedFd) -> Self {
        Tmp { directory: Some(directory), full: false }
    }

    /// Looks whether there is room; once full is full.
    pub fn look(&mut self) {
        if self.full {
            return;
        }
        self.full = self
            .directory
            .as_ref()
            .and_then(|directory| rustix::fs::fstatvfs(directory).ok())
            .is_some_and(|stat| stat.f_bfree == 0 || stat.f_ffree == 0);
    }
}

/// Adds the limits that the call came up against. What ended it is sure; the kernel's silent refusals are told by the
/// error that the method failed with, or by a call that was seen at its limit, where the next act would have been refused.
pub fn met(plan: &Plan, peaks: &Peaks, tmp: &Tmp, failure: Option<&Failure>, denials: &mut Denials) {
    let limits = &plan.limits;
    let raised = failure.filter(|failure| failure.code == Code::PluginRaised).map(|failure| &failure.details);
    let cause = raised.and_then(|details| details.get("cause")).and_then(Value::as_object);
    // The exception, and the one that it came of.
    let any = |name: &str, is: &dyn Fn(&str) -> bool| {
        let mut values = [raised, cause].into_iter().flatten().filter_map(|details| details.get(name)?.as_str());
        values.any(is)
    };
    let errno = |name: &str| any("errno_name", &|found| found == name);
    let mut add = |key, value, used, unit| denials.add(denials::limit(key, value, Some(used), unit));
    if errno("EMFILE") || peaks.open_files >= limits.open_files {
        add("open_files", limits.open_files, peaks.open_files.max(limits.open_files), "descriptors");
    }
    // RLIMIT_NPROC has room for pid 1 besides.
    if peaks.processes >= limits.processes {
        add("processes", limits.processes, peaks.processes, "processes");
    }
    let xfsz = failure.and_then(|failure| failure.signal) == Some(nix::sys::signal::Signal::SIGXFSZ as i32);
    if errno("EFBIG") || xfsz {
        add("file_size", limits.file_size, limits.file_size, "B");
    }
    // Python's allocator and mmap(2) alike end so where RLIMIT_DATA is reached.
    if any("type", &|found| found == "MemoryError") || errno("ENOMEM") {
        add("memory", limits.memory, peaks.data.max(peaks.resident), "B");
    }
    let in_tmp = errno("ENOSPC") && any("filename", &|name| name.starts_with("/tmp/"));
    if tmp.full || in_tmp {
        let size = plan.mounts.iter().find_map(size_of_tmp).unwrap_or_default();
        add("tmp", size, size, "B");
    }
}

fn size_of_tmp(mount: &Mount) -> Option<u64> {
    match mount.source {
        Source::Tmpfs { bytes, .. } if mount.path == Path::new("/tmp") => Some(bytes),
        _ => None,
    }
}
