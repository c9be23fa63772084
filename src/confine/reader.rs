//! The confinement of the process that reads what a caller sent ([`crate::supervise::reader`]).

use super::step::{Step, StepError};
use super::{capabilities, filter, landlock, session};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::os::fd::BorrowedFd;

/// What it may use.
#[derive(Debug, Clone, Copy)]
pub struct ReaderLimits {
    /// Bytes of its data, those that it began with included.
    pub memory: u64,
    /// Seconds of processor time.
    pub cpu_s: u64,
}

/// For good: the one descriptor `answer`, which must be a pipe's end; no capability, no new privilege, no file that can be
/// opened (landlock, and no system call for it), no other process that can be made or signalled, bounded memory and processor
/// time, death with `engine`.
///
/// # Errors
/// If any restriction cannot be fully applied.
pub fn confine(bounds: ReaderLimits, answer: i32, engine: BorrowedFd<'_>) -> Result<(), StepError> {
    let fail = |step, error: std::io::Error| StepError::new(step, "reader", error);
    session::default_signals_and_mask()?;
    session::die_with(engine, Step::Session)?;
    crate::sys::process::close_all_but(vec![answer]).map_err(|error| fail(Step::Session, error))?;
    crate::sys::process::set_dumpable(false).map_err(|error| fail(Step::Session, error))?;
    for (resource, name, soft, hard) in [
        (Resource::RLIMIT_CORE, "core", 1, 1),
        (Resource::RLIMIT_CPU, "cpu_time", bounds.cpu_s, bounds.cpu_s + 1),
        (Resource::RLIMIT_DATA, "memory", bounds.memory, bounds.memory),
        (Resource::RLIMIT_FSIZE, "file_size", 0, 0),
        (Resource::RLIMIT_MEMLOCK, "locked memory", 0, 0),
    ] {
        let (_, current) = getrlimit(resource).map_err(|errno| StepError::new(Step::Limits, name, errno))?;
        setrlimit(resource, soft.min(current), hard.min(current))
            .map_err(|errno| StepError::new(Step::Limits, name, errno))?;
    }
    // Before the descriptors of rules are at their limit: landlock's ruleset is one.
    let rules = landlock::ruleset(crate::sys::process::landlock_abi())?;
    capabilities::clear()?;
    nix::sys::prctl::set_no_new_privs().map_err(|errno| fail(Step::NoNewPrivs, errno.into()))?;
    drop(landlock::restrict(rules)?);
    setrlimit(Resource::RLIMIT_NOFILE, 0, 0).map_err(|errno| StepError::new(Step::Limits, "open_files", errno))?;
    crate::sys::seccomp::install(&filter::reader().program).map_err(|error| fail(Step::Seccomp, error))
}
