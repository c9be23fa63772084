//! Step `init`: pid 1 stays behind to reap and to report; it is worth nothing to whoever reaches it.

use super::channels::Tag;
use super::filter;
use super::step::{Step, StepError};
use crate::sys;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, Pid};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long after the call's deadline pid 1 ends it, where the supervisor has not: somebody has stopped that.
const GRACE: Duration = Duration::from_secs(1);

/// Forks. Returns in the plugin's process with its own end of the status channel; never returns in pid 1. What fails there
/// is written to `failure`, while pid 1 still has it.
///
/// # Errors
/// `EAGAIN` at a process limit.
pub fn step(status: OwnedFd, failure: BorrowedFd<'_>, deadline: Instant) -> Result<OwnedFd, StepError> {
    // Pid 1 would end, and the plugin with it, if it could not wait: but only when the plugin runs already.
    match sys::process::wait_any() {
        Err(nix::Error::ECHILD) => {}
        Err(errno) => return Err(StepError::new(Step::Init, "wait4", errno)),
        Ok(_) => return Err(StepError::new(Step::Init, "wait4", io::Error::other("a child that nobody made"))),
    }
    // Before the fork, so that there is no moment at which the other can look in. Exec makes the plugin dumpable again.
    sys::process::set_dumpable(false).map_err(|error| StepError::new(Step::Init, "PR_SET_DUMPABLE", error))?;
    match sys::clone::fork().map_err(|errno| StepError::new(Step::Init, "fork", errno))? {
        ForkResult::Child => Ok(status),
        ForkResult::Parent { child } => {
            if let Err(error) = timed(deadline).and_then(|()| empty(&status)) {
                let told = rustix::io::write(failure, &StepError::new(Step::Init, "pid 1", error).encode());
                // Not told: the supervisor sees pid 1 end before the plugin ran, which refuses as well.
                sys::process::exit_now(if told.is_ok() { 1 } else { 2 });
            }
            sys::process::exit_now(i32::from(stay(child).is_err()))
        }
    }
}

/// An end that does not depend on the supervisor: a caller may stop that (`SIGTSTP` of a terminal, `SIGSTOP`), and a call that
/// outlived its `timeout` then would go on for as long. Both signals are waited for; `stay` takes them.
fn timed(deadline: Instant) -> io::Result<()> {
    awaited().thread_block()?;
    sys::process::alarm_after(deadline.saturating_duration_since(Instant::now()) + GRACE)
}

fn awaited() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGALRM].into_iter().collect()
}

/// Nothing of the supervisor's stays in pid 1. When this fails nothing was closed yet.
fn empty(status: &OwnedFd) -> io::Result<()> {
    sys::memory::wipe_arguments_and_environment()?;
    // The status channel becomes 0, all else is closed: no tree, ruleset or pipe outlives the fork here.
    rustix::stdio::dup2_stdin(status)?;
    sys::process::close_from(1)
}

/// Pid 1's whole life. When it ends, the kernel kills whatever is left in the pid namespace.
fn stay(plugin: Pid) -> io::Result<()> {
    let program = filter::init();
    nix::sys::prctl::set_name(c"upm-init")?;
    sys::seccomp::install(&program.program)?;
    let awaited = awaited();
    loop {
        match sys::process::try_wait_any() {
            Ok(Some((pid, ended))) if pid == plugin.as_raw() => {
                let mut packet = [0u8; 5];
                packet[0] = Tag::Ended as u8;
                packet[1..].copy_from_slice(&ended.to_ne_bytes());
                // One write on a SEQPACKET socket is one packet.
                return rustix::io::write(rustix::stdio::stdin(), &packet).map(drop).map_err(Into::into);
            }
            Ok(Some(_)) | Err(nix::Error::EINTR) => {}
            // Blocked since before that look: what has ended since is pending.
            Ok(None) if awaited.wait()? == Signal::SIGALRM => return Err(io::ErrorKind::TimedOut.into()),
            Ok(None) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
