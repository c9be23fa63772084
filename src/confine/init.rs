//! Step `init`: pid 1 stays to reap and to report; it is useless to an attacker.

use super::channels::Tag;
use super::step::{Step, StepError};
use super::{filter, locks};
use crate::sys;
use crate::sys::poll::poll;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, Pid};
use rustix::event::{PollFd, PollFlags};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long after the call's deadline pid 1 ends it, where the supervisor has not: somebody has stopped that.
const GRACE: Duration = Duration::from_secs(1);

/// Forks. Returns in the plugin's process with its own end of the status channel; never returns in pid 1. What fails there
/// is written to `failure`, while pid 1 still has it. In the mounts `lockable` pid 1 takes locks for the plugin ([`locks`]).
///
/// # Errors
/// `EAGAIN` at a process limit.
pub fn step(
    status: OwnedFd,
    failure: BorrowedFd<'_>,
    deadline: Instant,
    lockable: &[u64],
) -> Result<OwnedFd, StepError> {
    // Pid 1 would end, and the plugin with it, if it could not wait: but only when the plugin runs already.
    match sys::process::wait_any() {
        Err(nix::Error::ECHILD) => {}
        Err(errno) => return Err(StepError::new(Step::Init, "wait4", errno)),
        Ok(_) => return Err(StepError::new(Step::Init, "wait4", io::Error::other("an unknown child"))),
    }
    // Before the fork, so that the other process can never look in. Exec makes the plugin dumpable again.
    sys::process::set_dumpable(false).map_err(|error| StepError::new(Step::Init, "PR_SET_DUMPABLE", error))?;
    match sys::clone::fork().map_err(|errno| StepError::new(Step::Init, "fork", errno))? {
        ForkResult::Child => Ok(status),
        ForkResult::Parent { child } => {
            if let Err(error) = timed(deadline).and_then(|signals| empty(&status, &signals)) {
                let told = rustix::io::write(failure, &StepError::new(Step::Init, "pid 1", error).encode());
                // If this fails, the supervisor sees pid 1 end before the plugin ran, which refuses as well.
                sys::process::exit_now(if told.is_ok() { 1 } else { 2 });
            }
            sys::process::exit_now(i32::from(stay(child, lockable).is_err()))
        }
    }
}

/// An end that does not depend on the supervisor: a caller may stop that (`SIGTSTP` of a terminal, `SIGSTOP`), and a call that
/// outlived its `timeout` then would go on for as long. Both signals are waited for; `stay` takes them. Their descriptor is closed
/// by its number, with all others.
fn timed(deadline: Instant) -> io::Result<ManuallyDrop<SignalFd>> {
    let awaited: SigSet = [Signal::SIGCHLD, Signal::SIGALRM].into_iter().collect();
    awaited.thread_block()?;
    let signals = SignalFd::with_flags(&awaited, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    sys::process::alarm_after(deadline.saturating_duration_since(Instant::now()) + GRACE)?;
    Ok(ManuallyDrop::new(signals))
}

/// Nothing of the supervisor's stays in pid 1. When this fails nothing was closed yet.
fn empty(status: &OwnedFd, signals: &SignalFd) -> io::Result<()> {
    sys::memory::wipe_arguments_and_environment()?;
    locks::prepare(status.as_fd());
    // The status channel becomes 0, the signals 1, all else is closed: no tree, ruleset or pipe outlives the fork here.
    rustix::stdio::dup2_stdin(status)?;
    rustix::stdio::dup2_stdout(signals.as_fd())?;
    sys::process::close_from(2)
}

/// Pid 1's whole life. When it ends, the kernel kills whatever is left in the pid namespace.
fn stay(plugin: Pid, lockable: &[u64]) -> io::Result<()> {
    let program = filter::init();
    nix::sys::prctl::set_name(c"upm-init")?;
    sys::seccomp::install(&program.program)?;
    let (status, signals) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    loop {
        match sys::process::try_wait_any() {
            Ok(Some((pid, ended))) if pid == plugin.as_raw() => {
                let mut packet = [0u8; 5];
                packet[0] = Tag::Ended as u8;
                packet[1..].copy_from_slice(&ended.to_ne_bytes());
                // One write on a SEQPACKET socket is one packet.
                return rustix::io::write(status, &packet).map(drop).map_err(Into::into);
            }
            // Where there is always another one to reap, the end of the call's time must not wait for the last.
            Ok(Some(_)) | Err(nix::Error::EINTR) => end_in_time(signals)?,
            Ok(None) => {
                // Blocked since before that look: what has ended since is pending.
                let mut fds = [signals, status].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
                poll(&mut fds, None)?;
                end_in_time(signals)?;
                if !fds[1].revents().is_empty() {
                    locks::answer(status, lockable)?;
                }
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Takes one signal, if there is one (signalfd(2); its number comes first, and of two the lower one).
///
/// # Errors
/// It is the alarm.
fn end_in_time(signals: BorrowedFd<'_>) -> io::Result<()> {
    let mut told = [0u8; 128];
    match rustix::io::read(signals, &mut told) {
        Ok(_) if told.first_chunk().is_some_and(|number| u32::from_ne_bytes(*number) == Signal::SIGALRM as u32) => {
            Err(io::ErrorKind::TimedOut.into())
        }
        Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
