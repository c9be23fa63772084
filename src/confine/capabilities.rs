//! Step `capabilities`: every set empty, and no way to fill one.

use super::step::{Step, StepError};
use caps::CapSet;
use std::io;

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
