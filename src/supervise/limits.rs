//! How close a call was to the limits that the kernel enforces without a report: looked at every 100 ms and when the plugin
//! answers.

use super::denials::{self, Denials};
use crate::decide::plan::{IN_MEMORY, Mount, Plan, Source};
use crate::decide::verdict::no_exec;
use crate::keys::Key;
use crate::types::{Code, Denied, Details, Exception, Failure};
use nix::errno::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The largest value that was seen of each.
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
    /// Adds what was seen of one process.
    pub fn one(&mut self, data: u64, open_files: u64) {
        self.data = self.data.max(data);
        self.open_files = self.open_files.max(open_files);
    }
}

/// The call's directories in memory ([`IN_MEMORY`]), which exist as long as they have a descriptor.
#[derive(Debug, Default)]
pub struct InMemory {
    directories: Vec<OwnedFd>,
    full: [bool; IN_MEMORY.len()],
}

impl InMemory {
    /// From the descriptors that the child sends.
    #[must_use]
    pub fn new(directories: Vec<OwnedFd>) -> Self {
        InMemory { directories, ..InMemory::default() }
    }

    /// Checks which are full, whichever process filled them. Once full, one counts as full.
    pub fn look(&mut self) {
        for (full, directory) in self.full.iter_mut().zip(&self.directories).filter(|(full, _)| !**full) {
            *full = rustix::fs::fstatvfs(directory).is_ok_and(|stat| stat.f_bfree == 0 || stat.f_ffree == 0);
        }
    }
}

/// Adds the limits that the call reached, and a program that could not run. What the kernel denied without a report is inferred
/// from the error that the method failed with, or from a call that was seen at its limit: its next act would have been denied.
pub(super) fn met(plan: &Plan, peaks: &Peaks, in_memory: &InMemory, failure: Option<&Failure>, denials: &mut Denials) {
    let limits = &plan.limits;
    // The exception and its cause.
    let raised: Vec<Exception<'_>> = match failure {
        Some(Failure { code: Code::PluginRaised, details: Details::Plugin(said), .. }) => {
            std::iter::once(said.exception()).chain(said.cause()).collect()
        }
        _ => Vec::new(),
    };
    for exception in raised.iter().filter(|exception| exception.errno == Some(Errno::EACCES)) {
        if let Some(path) = exception.filename.filter(|path| no_exec(plan, path).is_some()) {
            denials.add(Denied::NoExec { path: path.to_owned() }, 1);
        }
    }
    let errno = |errno| raised.iter().any(|exception| exception.errno == Some(errno));
    let mut add = |key, value, used| denials.add(denials::met(key, value, Some(used)), 1);
    if errno(Errno::EMFILE) || peaks.open_files >= limits.open_files {
        add(Key::OpenFiles, limits.open_files, peaks.open_files.max(limits.open_files));
    }
    // RLIMIT_NPROC also has room for pid 1.
    if peaks.processes >= limits.processes {
        add(Key::Processes, limits.processes, peaks.processes);
    }
    let xfsz = failure.and_then(|failure| failure.signal) == Some(nix::sys::signal::Signal::SIGXFSZ as i32);
    if errno(Errno::EFBIG) || xfsz {
        add(Key::FileSize, limits.file_size, limits.file_size);
    }
    // Python's allocator and mmap(2) fail so at RLIMIT_DATA.
    if raised.iter().any(|exception| exception.out_of_memory) || errno(Errno::ENOMEM) {
        add(Key::Memory, limits.memory, peaks.data.max(peaks.resident));
    }
    for ((key, path), full) in IN_MEMORY.into_iter().zip(in_memory.full) {
        let below =
            |exception: &Exception<'_>| exception.filename.is_some_and(|name| Path::new(name).starts_with(path));
        if full || errno(Errno::ENOSPC) && raised.iter().any(below) {
            let size = plan.mounts.iter().find_map(|mount| size(mount, path)).unwrap_or_default();
            add(key, size, size);
        }
    }
}

fn size(mount: &Mount, path: &str) -> Option<u64> {
    match mount.source {
        Source::Tmpfs { bytes, .. } if mount.path == Path::new(path) => Some(bytes),
        _ => None,
    }
}
