//! Step `capabilities`: every set empty, and no way to fill one.

use super::step::{Step, StepError};
use rustix::thread::{CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities};

/// Locks the securebits, then clears ambient, inheritable, bounding, permitted and effective.
///
/// # Errors
/// Names the set.
pub fn step() -> Result<(), StepError> {
    // First: it needs CAP_SETPCAP, as dropping from the bounding set does.
    crate::sys::process::lock_securebits().map_err(|error| StepError::new(Step::Capabilities, "securebits", error))?;
    super::privileges::shrink_bounding_set(CapabilitySet::empty())
        .map_err(|error| StepError::new(Step::Capabilities, "bounding", error))?;
    clear()
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
