//! What a caller hands down to the engine through exec(2), and the engine does not take. Not a step: it is done in the engine's
//! first lines, before anything is opened or made.

use super::step::{Step, StepError};
use crate::sys::process::{Disposition, set_disposition};
use crate::types::{Cause, Code, Details, Failure, Layer};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{getegid, geteuid, getgid, getuid, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, capability_is_in_ambient_set, set_capabilities};

/// Makes this process independent of how its caller left umask and signals.
///
/// - umask: what upm makes is its user's. A caller whose umask takes that away (0777, which sudo hands on) would leave
///   directories and an audit file that no later call could use.
/// - `SIGCHLD`: who ignores it hands that on, and then no child can be waited for.
/// - `SIGXFSZ`: at a caller's `RLIMIT_FSIZE` it would end upm without an answer. Ignored, the write fails.
/// - The name: it is the program's file's, which may be any bytes, and `/proc/self/status` begins with it.
///
/// # Errors
/// `sandbox_failed`, naming what could not be had.
pub fn settle() -> Result<(), Failure> {
    let failed = |what: &str, error: std::io::Error| Failure::from(StepError::new(Step::Prepare, what, error));
    let handed = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    umask(handed & (Mode::S_IRWXG | Mode::S_IRWXO));
    set_disposition(Signal::SIGCHLD, Disposition::Default).map_err(|error| failed("SIGCHLD", error))?;
    set_disposition(Signal::SIGXFSZ, Disposition::Ignored).map_err(|error| failed("SIGXFSZ", error))?;
    nix::sys::prctl::set_name(c"upm").map_err(|errno| failed("PR_SET_NAME", errno.into()))
}

/// Rights that the program's file lends its callers, by a set-id bit or by file capabilities. They are given up at once, so
/// that even the refusal is made (and put on record) with the caller's own rights.
///
/// upm needs no such right, and the caller chooses the configuration: it is always a mistake.
///
/// # Errors
/// `sandbox_unavailable` where there were any; `sandbox_failed` where they could not be given up: then nothing at all may be
/// done.
pub fn refuse_lent() -> Result<(), Lent> {
    let set_id = (getuid(), getgid()) != (geteuid(), getegid());
    if set_id {
        // The group first: without the lent user it could not be done any more where both were lent.
        setresgid(getgid(), getgid(), getgid())
            .and_then(|()| setresuid(getuid(), getuid(), getuid()))
            .map_err(|errno| Lent::Stuck(StepError::new(Step::Capabilities, "set-id", errno).into()))?;
        return Err(Lent::GivenUp(refusal(
            "this program has a set-user-ID or set-group-ID bit, which would lend its owner's rights to every caller",
            "chmod ug-s, as root, on the program's file",
        )));
    }
    let failed =
        |errno: rustix::io::Errno| Lent::Stuck(StepError::new(Step::Capabilities, "file capabilities", errno).into());
    let permitted = capabilities(None).map_err(failed)?.permitted;
    // A user's own capabilities come through exec in the ambient set alone (capabilities(7)).
    if geteuid().is_root() || permitted.is_empty() || all_ambient(permitted).map_err(failed)? {
        return Ok(());
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }).map_err(failed)?;
    Err(Lent::GivenUp(refusal(
        "this program has file capabilities, which would lend them to every caller",
        "setcap -r, as root, on the program's file",
    )))
}

/// What [`refuse_lent`] found.
#[derive(Debug)]
pub enum Lent {
    /// There was something, and it is gone.
    GivenUp(Failure),
    /// It is still there.
    Stuck(Failure),
}

fn all_ambient(permitted: CapabilitySet) -> rustix::io::Result<bool> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if permitted.contains(capability) && !capability_is_in_ambient_set(capability)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn refusal(reason: &str, remedy: &str) -> Failure {
    let cause = Some(Cause::Reason(reason.to_owned()));
    Failure::new(Code::SandboxUnavailable, format!("upm: {reason}: {remedy}")).with(Details::Layer {
        layer: Layer::Capabilities,
        cause,
        remedy: Some(remedy.to_owned()),
    })
}
