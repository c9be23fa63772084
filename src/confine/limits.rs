//! Step `limits`: resource limits of each process, the call's own cgroup as the root of what it sees, and what the kernel
//! counts for each user.

use super::counters::Counters;
use super::step::{Step, StepError};
use crate::decide::plan::Limits;
use nix::sys::resource::{Resource, setrlimit};

/// Of what is counted for the user outside as well, whose own limit counts all of that user's processes, a call gets at most
/// one part in so many of its caller's limit: the host's programs of that user must find some left.
const SHARE: u64 = 8;

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
pub fn values(limits: &Limits, cgroup: Cgroup) -> [(Resource, &'static str, u64, u64); 11] {
    let same = |resource, name, value| (resource, name, value, value);
    [
        // A core_pattern that is a pipe ignores a limit of 0, but not of 1 (core(5)).
        same(Resource::RLIMIT_CORE, "core", 1),
        // SIGXCPU first, so that the end has a name of its own; SIGKILL a second later if it is ignored.
        (Resource::RLIMIT_CPU, "cpu_time", limits.cpu_time_s, limits.cpu_time_s.saturating_add(1)),
        // Not RLIMIT_AS: node reserves address space by the terabyte. Beside a cgroup too: one process that asks for all of
        // it gets ENOMEM, and can report it; the cgroup only kills.
        same(Resource::RLIMIT_DATA, "memory", limits.memory),
        same(Resource::RLIMIT_FSIZE, "file_size", limits.file_size),
        same(Resource::RLIMIT_NOFILE, "open_files", limits.open_files),
        // Counted in the call's own user namespace (Linux 5.14); pid 1 is one of them. Where a cgroup counts, it is to be
        // reached first: the kernel checks this one before it, and reports it to no one.
        same(Resource::RLIMIT_NPROC, "processes", limits.processes.saturating_add(if cgroup.pids { 2 } else { 1 })),
        // What grows by itself is not in RLIMIT_DATA.
        (Resource::RLIMIT_STACK, "stack", 8 << 20, 64 << 20),
        same(Resource::RLIMIT_MEMLOCK, "locked memory", 64 << 10),
        // Room for one queue of the kernel's usual size (mq_overview(7)).
        same(Resource::RLIMIT_MSGQUEUE, "message queues", 100 << 10),
        // Queued signals, and POSIX timers, each of which has one of its own (timer_create(2)).
        same(Resource::RLIMIT_SIGPENDING, "queued signals", 256),
        same(Resource::RLIMIT_RTPRIO, "real-time priority", 0),
    ]
}

/// The most of a limit that the caller, who has `current`, can give.
fn at_most(resource: Resource, current: u64) -> u64 {
    match resource {
        Resource::RLIMIT_SIGPENDING | Resource::RLIMIT_MSGQUEUE if current != nix::libc::RLIM_INFINITY => {
            current / SHARE
        }
        _ => current,
    }
}

/// Sets them.
///
/// # Errors
/// `EPERM` where the caller's own hard limit is lower; the file of a counter that cannot be written.
pub fn step(limits: &Limits, cgroup: Cgroup, counters: &mut Counters) -> Result<(), StepError> {
    if cgroup.own {
        // The namespace that clone3 made has the supervisor's cgroup as its root: it takes the caller's, not the child's.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
            .map_err(|errno| StepError::new(Step::Limits, "cgroup namespace", errno))?;
    }
    for (resource, name, soft, hard) in values(limits, cgroup) {
        let (_, current) =
            nix::sys::resource::getrlimit(resource).map_err(|errno| StepError::new(Step::Limits, name, errno))?;
        // A caller with less than the grant gives less: a lower limit does not weaken the protection.
        let most = at_most(resource, current);
        setrlimit(resource, soft.min(most), hard.min(most))
            .map_err(|errno| StepError::new(Step::Limits, name, errno))?;
    }
    // A caller who may take a better priority than the usual one hands that down neither.
    setrlimit(Resource::RLIMIT_NICE, 0, 0).map_err(|errno| StepError::new(Step::Limits, "nice", errno))?;
    counters.set(limits.file_watches)
}
