//! What the engine itself keeps of root. Not a step: it is done in the engine's first lines, before there is a call.

use super::step::{Step, StepError};
use crate::types::{Cause, Code, Details, Failure, Layer};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// The capabilities that the steps need when root calls: name, the capability, what for. All else is given up, and a
/// service's unit needs no larger bounding set.
pub const OF_ROOT: [(&str, CapabilitySet, &str); 5] = [
    ("CAP_CHOWN", CapabilitySet::CHOWN, "output pipes and made directories become the plugin's"),
    (
        "CAP_DAC_READ_SEARCH",
        CapabilitySet::DAC_READ_SEARCH,
        "granted paths below directories that only their owner may enter",
    ),
    ("CAP_SETGID", CapabilitySet::SETGID, "no supplementary group; the group map of a namespace with another's group"),
    ("CAP_SETUID", CapabilitySet::SETUID, "the user map of a namespace with another user"),
    ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN, "host paths as detached and id-mapped mounts"),
];

fn needed() -> CapabilitySet {
    OF_ROOT.into_iter().fold(CapabilitySet::empty(), |all, (_, one, _)| all | one)
}

/// As root: gives up every capability but those of [`OF_ROOT`], in all five sets, for good. Nothing for other users, who
/// have none.
///
/// # Errors
/// `sandbox_unavailable` where a larger bounding set cannot be made smaller; `sandbox_failed` naming the set.
pub fn keep() -> Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let failed = |what: &str, errno: Errno| Failure::from(StepError::new(Step::Capabilities, what, errno));
    // While there is CAP_SETPCAP; a bounding set that is small already needs none.
    let had = capabilities(None).map_err(|errno| failed("permitted", errno))?;
    shrink_bounding_set(needed()).map_err(|errno| match errno {
        Errno::PERM if !had.effective.contains(CapabilitySet::SETPCAP) => missing("CAP_SETPCAP"),
        errno => failed("bounding", errno),
    })?;
    clear_ambient_capability_set().map_err(|errno| failed("ambient", errno))?;
    let kept = had.permitted & needed();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })
        .map_err(|errno| failed("effective, permitted, inheritable", errno))
}

/// Runs `act` with no capability in effect; those that are permitted come back afterwards. This keeps what a mistake of `act`
/// could do small. It holds nothing against code that runs in its place.
///
/// # Errors
/// `sandbox_failed` where they cannot be changed: then `act` has not run, or nothing more can be done.
pub fn without<T>(act: impl FnOnce() -> T) -> Result<T, Failure> {
    let failed = |errno: Errno| Failure::from(StepError::new(Step::Capabilities, "effective", errno));
    let had = capabilities(None).map_err(failed)?;
    set_capabilities(None, CapabilitySets { effective: CapabilitySet::empty(), ..had }).map_err(failed)?;
    let done = act();
    set_capabilities(None, had).map_err(failed)?;
    Ok(done)
}

/// Leaves `kept` alone in the bounding set. By number and not by name: a newer kernel has capabilities that no library knows.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`, where the set has more.
pub fn shrink_bounding_set(kept: CapabilitySet) -> rustix::io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
            // The first number that is not a capability (prctl(2), PR_CAPBSET_READ).
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// As root: whether all of [`OF_ROOT`] is there. With less, a step would fail in words that do not say why.
///
/// # Errors
/// `sandbox_unavailable`, naming what is missing.
pub fn require() -> Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let had =
        capabilities(None).map_err(|errno| Failure::from(StepError::new(Step::Capabilities, "effective", errno)))?;
    let lacking: Vec<&str> =
        OF_ROOT.into_iter().filter(|(_, one, _)| !had.effective.contains(*one)).map(|(name, ..)| name).collect();
    if lacking.is_empty() { Ok(()) } else { Err(missing(&lacking.join(", "))) }
}

fn missing(names: &str) -> Failure {
    let all = OF_ROOT.map(|(name, ..)| name).join(" ");
    let remedy = format!(
        "as root upm needs {all}, and CAP_SETPCAP where the bounding set has more: give it these (systemd: \
         `CapabilityBoundingSet=`), or call it as an ordinary user"
    );
    Failure::new(Code::SandboxUnavailable, format!("{names}: not among upm's capabilities; {remedy}")).with(
        Details::Layer {
            layer: Layer::Capabilities,
            cause: Some(Cause::Object(names.to_owned())),
            remedy: Some(remedy),
        },
    )
}
