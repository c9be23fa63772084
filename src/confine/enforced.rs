//! What step `verify` finds out by trying and reading where no mode or set of the process shows it. A host's own filter can
//! answer a system call with success in the kernel's place (`SECCOMP_RET_ERRNO` with 0, as programs that play root for a
//! container do): then a step has not happened, and nothing reported it.

use super::limits::{Cgroup, values};
use super::step::{Step, StepError};
use super::verify::{differs, unreadable};
use crate::decide::plan::Limits;
use nix::sys::resource::Resource;
use procfs::process::{LimitValue, Process};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;
use std::io;

/// A name that nothing else has in the call's `/tmp`, which is new.
const TRIED: &str = "/tmp/.upm-verify";

/// The session is this process's own, the limits are those of the plan or lower, and landlock refuses what it alone refuses.
///
/// # Errors
/// The first that is not so.
pub fn check(myself: &Process, limits: &Limits, cgroup: Cgroup) -> Result<(), StepError> {
    let stat = myself.stat().map_err(|error| unreadable("/proc/self/stat", error))?;
    if stat.session != stat.pid {
        return Err(differs("session"));
    }
    let found = myself.limits().map_err(|error| unreadable("/proc/self/limits", error))?;
    for (resource, name, _, hard) in values(limits, cgroup) {
        let limit = match resource {
            Resource::RLIMIT_CORE => found.max_core_file_size,
            Resource::RLIMIT_CPU => found.max_cpu_time,
            Resource::RLIMIT_DATA => found.max_data_size,
            Resource::RLIMIT_FSIZE => found.max_file_size,
            Resource::RLIMIT_NOFILE => found.max_open_files,
            Resource::RLIMIT_NPROC => found.max_processes,
            Resource::RLIMIT_STACK => found.max_stack_size,
            Resource::RLIMIT_MEMLOCK => found.max_locked_memory,
            Resource::RLIMIT_MSGQUEUE => found.max_msgqueue_size,
            Resource::RLIMIT_SIGPENDING => found.max_pending_signals,
            Resource::RLIMIT_NICE => found.max_nice_priority,
            Resource::RLIMIT_RTPRIO => found.max_realtime_priority,
            Resource::RLIMIT_RTTIME => found.max_realtime_timeout,
            Resource::RLIMIT_AS => found.max_address_space,
            Resource::RLIMIT_LOCKS => found.max_file_locks,
            _ => return Err(differs(format!("limit: {name}"))),
        };
        match limit.hard_limit {
            LimitValue::Value(found) if found <= hard => {}
            // As the kernel prints an unlimited value.
            LimitValue::Unlimited if hard == nix::sys::resource::RLIM_INFINITY => {}
            _ => return Err(differs(format!("limit: {name}"))),
        }
    }
    landlock()
}

/// No rule gives the right to make a block device, not even in `/tmp`. Landlock is asked first (`EACCES`), and the capability
/// that it needs after that (`EPERM`), which no process of the call has. A whiteout (a character device 0:0), which needs none,
/// shows nothing: there are kernels to which it is a regular file.
fn landlock() -> Result<(), StepError> {
    match mknodat(CWD, TRIED, FileType::BlockDevice, Mode::empty(), makedev(1, 1)) {
        Err(Errno::ACCESS) => Ok(()),
        Ok(()) | Err(Errno::PERM) => Err(differs("landlock")),
        Err(errno) => Err(StepError::new(Step::Verify, "landlock", errno)),
    }
}

/// Every descriptor above 3 goes with exec.
///
/// # Errors
/// One that would not.
pub fn descriptors() -> Result<(), StepError> {
    const DIRECTORY: &str = "/proc/self/fd";
    let fail = |error: io::Error| StepError::new(Step::Init, DIRECTORY, error);
    for entry in std::fs::read_dir(DIRECTORY).map_err(fail)? {
        let number = entry.map_err(fail)?.file_name().to_string_lossy().parse::<i32>().unwrap_or(i32::MAX);
        if number > 3 && !crate::sys::process::goes_with_exec(number).map_err(fail)? {
            return Err(StepError::new(
                Step::Init,
                format!("descriptor {number}"),
                io::Error::other("would stay open"),
            ));
        }
    }
    Ok(())
}
