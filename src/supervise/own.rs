//! The supervisor's own namespaces before it clones, and its own confinement once the plugin runs.

use crate::confine::step::{Step, StepError, Subject};
use crate::confine::{capabilities, filter, landlock};
use crate::sys;
use ::landlock::{AccessFs, PathBeneath, RulesetCreatedAttr};
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::os::fd::BorrowedFd;

/// As root: drops the supplementary groups (in the call's user namespace that is no longer possible). As a user: enters a user
/// and a mount namespace, with the same user, so that the same system calls work as for root.
///
/// # Errors
/// `sandbox_unavailable` if the kernel or a policy denies user namespaces.
pub fn prepare(as_root: bool) -> Result<(), StepError> {
    if as_root {
        return nix::unistd::setgroups(&[]).map_err(|errno| StepError::new(Step::IdMap, "setgroups", errno));
    }
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let flags = nix::sched::CloneFlags::CLONE_NEWUSER | nix::sched::CloneFlags::CLONE_NEWNS;
    nix::sched::unshare(flags).map_err(|errno| StepError::new(Step::Clone, "unshare", errno))?;
    for (file, text) in
        [("setgroups", "deny".to_owned()), ("gid_map", format!("{gid} {gid} 1")), ("uid_map", format!("{uid} {uid} 1"))]
    {
        let path = format!("/proc/self/{file}");
        fs::write(&path, text).map_err(|error| StepError::new(Step::Clone, path, error).of(Subject::ProcFile))?;
    }
    Ok(())
}

/// From here on the supervisor only reads frames and output, answers the filter, and writes audit and envelope. It keeps no
/// capability, gets no new privilege, and opens no file but those of `/proc`, for the memory use and names of processes; audit,
/// journal and answer are open already. Its filter allows the system calls for that. In `above`, which contains the call's
/// cgroup, it may remove directories.
///
/// # Errors
/// A part of it failed.
pub fn confine(landlock_abi: u32, above: Option<BorrowedFd<'_>>) -> Result<(), StepError> {
    capabilities::clear()?;
    nix::sys::prctl::set_no_new_privs().map_err(|errno| StepError::new(Step::NoNewPrivs, "supervisor", errno))?;
    let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| StepError::new(Step::Landlock, "/proc", error))?;
    let mut rules = landlock::unscoped(landlock_abi)?
        .add_rule(PathBeneath::new(proc, AccessFs::ReadFile | AccessFs::ReadDir))
        .map_err(|error| StepError::new(Step::Landlock, "/proc", std::io::Error::other(error)))?;
    if let Some(above) = above {
        rules = rules
            .add_rule(PathBeneath::new(above, AccessFs::RemoveDir))
            .map_err(|error| StepError::new(Step::Landlock, "the call's cgroup", std::io::Error::other(error)))?;
    }
    landlock::restrict(rules)?;
    let program = filter::supervisor();
    sys::seccomp::install(&program.program).map_err(|error| StepError::new(Step::Seccomp, "supervisor", error))
}
