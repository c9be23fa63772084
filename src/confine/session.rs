//! Step `session`: nothing of the supervisor's session, signals or keyrings is carried along.

use super::step::{Step, StepError};
use crate::sys::poll::poll;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use rustix::event::{PollFd, PollFlags};
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Default signals, empty mask, umask, own session and keyring, the usual priority, and death with the supervisor.
///
/// # Errors
/// Names the call that failed.
pub fn step(supervisor: BorrowedFd<'_>) -> Result<(), StepError> {
    default_signals_and_mask()?;
    let fail = |what: &str, errno: nix::Error| StepError::new(Step::Session, what, errno);
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    nix::unistd::setsid().map_err(|errno| fail("setsid", errno))?;
    crate::sys::process::new_session_keyring()
        .map_err(|error| StepError::new(Step::Session, "session keyring", error))?;
    not_spared()?;
    // A caller with real-time scheduling (a service may have it) would hand a plugin the whole processor.
    crate::sys::process::usual_priority().map_err(|error| StepError::new(Step::Session, "priority", error))?;
    die_with(supervisor, Step::Session)
}

/// What the caller is spared when memory runs out (services may be) is not handed on: of a call that is, its own cgroup
/// could kill nothing, and the host would lose others for it.
fn not_spared() -> Result<(), StepError> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let fail = |error| StepError::new(Step::Session, FILE, error);
    let mut score = [0u8; 16];
    std::fs::File::open(FILE).and_then(|mut file| file.read(&mut score)).map_err(fail)?;
    if score[0] == b'-' { std::fs::write(FILE, "0").map_err(fail) } else { Ok(()) }
}

/// SIGKILL when the supervisor ends. A change of uid clears it, so it is set again later.
///
/// # Errors
/// `ESRCH` when the supervisor is gone already: in a new pid namespace `getppid` is 0 and cannot tell, its pidfd can.
pub fn die_with(supervisor: BorrowedFd<'_>, step: Step) -> Result<(), StepError> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|errno| StepError::new(step, "parent-death signal", errno))?;
    let mut fds = [PollFd::from_borrowed_fd(supervisor, PollFlags::IN)];
    match poll(&mut fds, Some(Duration::ZERO)) {
        Ok(0) => Ok(()),
        Ok(_) => Err(StepError::new(step, "supervisor", nix::Error::ESRCH)),
        Err(errno) => Err(StepError::new(step, "supervisor", errno)),
    }
}

/// Every signal acts as by default, and none is blocked.
///
/// # Errors
/// None that the kernel documents for these signals.
pub fn default_signals_and_mask() -> Result<(), StepError> {
    let fail = |what: &str, errno: nix::Error| StepError::new(Step::Session, what, errno);
    crate::sys::process::default_signals().map_err(|error| StepError::new(Step::Session, "sigaction", error))?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(|errno| fail("sigprocmask", errno))
}
