//! Step `capabilities`: every set empty, and no way to fill one.

use super::step::{Step, StepError};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// Locks the securebits, then clears ambient, inheritable, bounding, permitted and effective.
///
/// # Errors
/// Names the set.
pub fn step() -> Result<(), StepError> {
    // First: it needs CAP_SETPCAP, as dropping from the bounding set does.
    crate::sys::process::lock_securebits().map_err(|error| StepError::new(Step::Capabilities, "securebits", error))?;
    empty_bounding_set().map_err(|error| StepError::new(Step::Capabilities, "bounding", error))?;
    clear()
}

/// By number and not by name: a newer kernel has capabilities that no library knows.
fn empty_bounding_set() -> rustix::io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
            // The first number that is no capability (prctl(2), PR_CAPBSET_READ). CAP_CHOWN, the number 0, always is one.
            Err(Errno::INVAL) if number > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Clears the sets that a process without `CAP_SETPCAP` can clear too: all but the bounding one.
///
/// # Errors
/// Names the set.
pub fn clear() -> Result<(), StepError> {
    clear_ambient_capability_set().map_err(|error| StepError::new(Step::Capabilities, "ambient", error))?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(|error| StepError::new(Step::Capabilities, "effective, permitted, inheritable", error))
}
