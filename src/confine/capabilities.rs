//! Step `capabilities`: every set empty, and no way to fill one.

use super::step::{Step, StepError};
use caps::{CapSet, Capability, CapsHashSet};
use std::io;

/// What the engine's own steps need when root calls, and what for. All else is given up in its first lines, and a service's
/// unit needs no larger bounding set.
pub const OF_ROOT: [(Capability, &str); 5] = [
    (Capability::CAP_CHOWN, "the output pipes become the plugin's, so that /dev/stdout can be opened anew"),
    (Capability::CAP_DAC_READ_SEARCH, "granted paths below directories that only their owner may enter"),
    (Capability::CAP_SETGID, "no supplementary group; the group map of a namespace that holds another's group"),
    (Capability::CAP_SETUID, "the user map of a namespace that holds another user"),
    (Capability::CAP_SYS_ADMIN, "host paths as detached and id-mapped mounts"),
];

fn failed(what: &str, error: caps::errors::CapsError) -> StepError {
    let errno = io::Error::last_os_error();
    let refused = errno.raw_os_error() == Some(nix::Error::EPERM as i32);
    StepError::new(Step::Capabilities, what, if refused { errno } else { io::Error::other(error) })
}

/// As root: gives up every capability but those of [`OF_ROOT`], in all five sets, for good. Nothing for other users, who
/// have none.
///
/// # Errors
/// Names the set, or `CAP_SETPCAP` where a larger bounding set cannot be made smaller.
pub fn keep_of_root() -> Result<(), StepError> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let needed: CapsHashSet = OF_ROOT.into_iter().map(|(capability, _)| capability).collect();
    let read = |set, name| caps::read(None, set).map_err(|error| failed(name, error));
    let permitted = read(CapSet::Permitted, "permitted")?;
    // While there is CAP_SETPCAP; a bounding set that is small already needs none.
    for capability in read(CapSet::Bounding, "bounding")?.difference(&needed) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(|error| failed("CAP_SETPCAP", error))?;
    }
    for (set, name) in [(CapSet::Ambient, "ambient"), (CapSet::Inheritable, "inheritable")] {
        caps::clear(None, set).map_err(|error| failed(name, error))?;
    }
    let kept: CapsHashSet = permitted.intersection(&needed).copied().collect();
    for (set, name) in [(CapSet::Effective, "effective"), (CapSet::Permitted, "permitted")] {
        caps::set(None, set, &kept).map_err(|error| failed(name, error))?;
    }
    Ok(())
}

/// As root: whether all of [`OF_ROOT`] is there. With less, a step would fail in words that do not say why.
///
/// # Errors
/// Names what is missing.
pub fn require_of_root() -> Result<(), StepError> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let had = caps::read(None, CapSet::Effective).map_err(|error| failed("effective", error))?;
    let missing: Vec<String> =
        OF_ROOT.iter().filter(|(one, _)| !had.contains(one)).map(|(one, _)| one.to_string()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(StepError::new(Step::Capabilities, missing.join(", "), nix::Error::EPERM))
}

/// Locks the securebits, then clears ambient, inheritable, bounding, permitted and effective.
///
/// # Errors
/// Names the set.
pub fn step() -> Result<(), StepError> {
    // First: it needs CAP_SETPCAP, as dropping from the bounding set does.
    crate::sys::process::lock_securebits().map_err(|error| StepError::new(Step::Capabilities, "securebits", error))?;
    for (set, name) in [(CapSet::Ambient, "ambient"), (CapSet::Bounding, "bounding")] {
        caps::clear(None, set).map_err(|error| StepError::new(Step::Capabilities, name, io::Error::other(error)))?;
    }
    clear()
}

/// Clears the sets that a process without `CAP_SETPCAP` can clear too: all but the bounding one.
///
/// # Errors
/// Names the set.
pub fn clear() -> Result<(), StepError> {
    for (set, name) in [
        (CapSet::Ambient, "ambient"),
        (CapSet::Inheritable, "inheritable"),
        (CapSet::Effective, "effective"),
        (CapSet::Permitted, "permitted"),
    ] {
        caps::clear(None, set).map_err(|error| StepError::new(Step::Capabilities, name, io::Error::other(error)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Failure;

    #[test]
    fn the_remedy_names_the_whole_list() {
        let failure: Failure = StepError::new(Step::Capabilities, "CAP_CHOWN", nix::Error::EPERM).into();
        for (capability, why) in OF_ROOT {
            assert!(failure.message.contains(&capability.to_string()), "{capability}: {}", failure.message);
            assert!(!why.is_empty());
        }
        assert_eq!(failure.message.matches("CAP_").count(), 1 + OF_ROOT.len() + 1, "{}", failure.message);
    }
}
