//! Step `limits`: resource limits of each process, the call's own cgroup as the root of what it sees, and no user namespaces
//! below this one.

use super::step::{Step, StepError};
use crate::decide::plan::Limits;
use nix::sys::resource::{Resource, setrlimit};
use std::fs::File;
use std::io::Write;

/// What the cgroup does that the process was cloned into; nothing without one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cgroup {
    /// There is one.
    pub own: bool,
    /// It bounds processes.
    pub pids: bool,
}

/// The soft and hard values of every limit that is set, in the order of setting.
#[must_use]
pub fn values(limits: &Limits, cgroup: Cgroup) -> [(Resource, &'static str, u64, u64); 10] {
    let same = |resource, name, value| (resource, name, value, value);
    [
        // A core_pattern that is a pipe ignores a limit of 0, but not of 1 (core(5)).
        same(Resource::RLIMIT_CORE, "core", 1),
        // SIGXCPU first, so that the end has a name of its own; SIGKILL a second later for who ignores it.
        (Resource::RLIMIT_CPU, "cpu_time", limits.cpu_time_s, limits.cpu_time_s.saturating_add(1)),
        // Not RLIMIT_AS: node reserves address space by the terabyte. Beside a cgroup too: one process that asks for all of
        // it is told ENOMEM, and can say so; the cgroup only kills.
        same(Resource::RLIMIT_DATA, "memory", limits.memory),
        same(Resource::RLIMIT_FSIZE, "file_size", limits.file_size),
        same(Resource::RLIMIT_NOFILE, "open_files", limits.open_files),
        // Counted in the call's own user namespace (Linux 5.14); pid 1 is one of them. Where a cgroup counts, it is to be
        // met first: the kernel looks at this one before it, and tells nobody.
        same(Resource::RLIMIT_NPROC, "processes", limits.processes.saturating_add(if cgroup.pids { 2 } else { 1 })),
        // What grows by itself is not in RLIMIT_DATA.
        (Resource::RLIMIT_STACK, "stack", 8 << 20, 64 << 20),
        same(Resource::RLIMIT_MEMLOCK, "locked memory", 64 << 10),
        same(Resource::RLIMIT_MSGQUEUE, "message queues", 800 << 10),
        same(Resource::RLIMIT_RTPRIO, "real-time priority", 0),
    ]
}

/// Sets them.
///
/// # Errors
/// `EPERM` where the caller's own hard limit is lower.
pub fn step(limits: &Limits, cgroup: Cgroup, mut userns_limit: File) -> Result<(), StepError> {
    if cgroup.own {
        // The namespace that clone3 made has the supervisor's cgroup as its root: it takes the caller's, not the child's.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
            .map_err(|errno| StepError::new(Step::Limits, "cgroup namespace", errno))?;
    }
    for (resource, name, soft, hard) in values(limits, cgroup) {
        let (_, current) =
            nix::sys::resource::getrlimit(resource).map_err(|errno| StepError::new(Step::Limits, name, errno))?;
        // A caller with less than the grant gives less: a lower limit is no weaker protection.
        setrlimit(resource, soft.min(current), hard.min(current))
            .map_err(|errno| StepError::new(Step::Limits, name, errno))?;
    }
    userns_limit
        .write_all(b"0")
        .map_err(|error| StepError::new(Step::Limits, "/proc/sys/user/max_user_namespaces", error))
}
