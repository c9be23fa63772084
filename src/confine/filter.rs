//! The filters: `seccomp/*.json`, compiled by `build.rs`, and what the supervisor needs to name a denied call.
#![forbid(unsafe_code)]

mod arguments;

use crate::keys::Key;
pub use crate::sys::syscalls::{fixed_reason, syscall_name, syscall_number};
use crate::types::{Code, Details, Failure, OnViolation, Standing};
pub use arguments::value_args;
use sha2::{Digest, Sha256};
use std::fmt;
use upm_seccomp::bpf::{Action, Instruction};
use upm_seccomp::runtime;
pub use upm_seccomp::runtime::{Handed, LockAct};

include!(concat!(env!("OUT_DIR"), "/filters.rs"));

/// A filter ready to be installed.
#[derive(Clone)]
pub struct Filter {
    /// The profile that it comes from.
    pub name: &'static str,
    /// The program.
    pub program: Vec<Instruction>,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({}, {} instructions)", self.name, self.program.len())
    }
}

/// Why `syscalls` of the configuration cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterError {
    /// This architecture has no system call of that name.
    Unknown(String),
    /// The call can never be added.
    Fixed {
        /// Its name.
        name: String,
        /// Why.
        reason: &'static str,
    },
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FilterError::Unknown(name) => write!(
                f,
                "{name:?}: no system call of {}; `syscalls` takes names as in seccomp/syscalls.tbl",
                std::env::consts::ARCH
            ),
            FilterError::Fixed { name, reason } => {
                write!(f, "{name}: no configuration can add it: {reason}; remove it from `syscalls`")
            }
        }
    }
}

impl std::error::Error for FilterError {}

impl From<FilterError> for Failure {
    fn from(e: FilterError) -> Failure {
        Failure::new(Code::ConfigInvalid, e.to_string()).with(Details::Key(Key::Syscalls))
    }
}

impl Filter {
    fn new(name: &'static str, program: impl Into<Vec<Instruction>>) -> Filter {
        Filter { name, program: program.into() }
    }

    /// Instructions.
    pub fn len(&self) -> usize {
        self.program.len()
    }

    /// Never: a profile has rules.
    pub fn is_empty(&self) -> bool {
        self.program.is_empty()
    }

    /// The same filter without a listener: what would be reported is denied, or kills, silently; what would be
    /// counted is not, and files cannot be locked.
    #[must_use]
    pub fn deaf(&self, on_violation: OnViolation) -> Filter {
        let silent = match on_violation {
            OnViolation::Deny => Action::EPERM,
            OnViolation::Kill => Action::KillProcess,
        };
        Filter::new(self.name, runtime::deaf(&self.program, silent))
    }

    /// Two filters that together decide as this one does, of which the second hands each of the `watched` calls to the
    /// listener: [`runtime::watching`].
    #[must_use]
    pub fn watching(&self, watched: &[u32]) -> (Filter, Filter) {
        let (decides, hands) = runtime::watching(&self.program, watched);
        (Filter::new(self.name, decides), Filter::new(self.name, hands))
    }

    /// SHA-256 of the program as the kernel gets it, in hexadecimal.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for i in &self.program {
            hash.update(i.code.to_le_bytes());
            hash.update([i.jt, i.jf]);
            hash.update(i.k.to_le_bytes());
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The plugin's filter, with the calls that the configuration adds. Needs a listener: what no rule names goes there.
/// `named_unix`, `terminals`: [`runtime::plugin`].
///
/// # Errors
/// A name that this architecture does not have, or that can never be added.
pub fn plugin(extra: &[String], named_unix: bool, terminals: bool) -> Result<Filter, FilterError> {
    let mut added = Vec::with_capacity(extra.len());
    for name in extra {
        let nr = syscall_number(name).ok_or_else(|| FilterError::Unknown(name.clone()))?;
        if let Some(reason) = fixed_reason(name) {
            return Err(FilterError::Fixed { name: name.clone(), reason });
        }
        added.push(nr);
    }
    // The order in which they were written makes no other filter.
    added.sort_unstable();
    added.dedup();
    Ok(Filter::new("default", runtime::plugin(&DEFAULT, syscall_number, &added, named_unix, terminals)))
}

/// Whether, and as what, the plugin's filter hands this call over.
#[must_use]
pub fn handed(nr: i32, args: &[u64; 6]) -> Option<Handed> {
    runtime::handed(syscall_name(nr)?, args)
}

/// Pid 1 of the plugin's name space: what its loop makes, all else kills it and so ends the plugin.
pub fn init() -> Filter {
    Filter::new("init", INIT)
}

/// The gateway: all that is not listed kills it.
pub fn gateway() -> Filter {
    Filter::new("gateway", GATEWAY)
}

/// The supervisor after the plugin was started: all that is not listed fails with `EPERM`.
pub fn supervisor() -> Filter {
    Filter::new("supervisor", SUPERVISOR)
}

/// The reader of `upm learn`: all that is not listed kills it.
pub fn observer() -> Filter {
    Filter::new("observer", OBSERVER)
}

/// The reader of what a caller sent: all that is not listed kills it.
pub fn reader() -> Filter {
    Filter::new("reader", READER)
}

/// How the plugin's filter, without what `syscalls` adds, treats this name; `None` if there is no such call.
pub fn standing(name: &str) -> Option<Standing> {
    syscall_number(name)?;
    Some(if ALLOWED.contains(&name) {
        Standing::Allowed
    } else if PARTLY.contains(&name) {
        Standing::Partly
    } else {
        Standing::Refused
    })
}

/// The same with why no configuration can add it, as `decide::verdict` asks it.
pub fn standing_and_reason(name: &str) -> Option<(Standing, Option<&'static str>)> {
    Some((standing(name)?, fixed_reason(name)))
}

#[cfg(test)]
mod tests;
