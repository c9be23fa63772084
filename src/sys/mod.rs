//! Thin wrappers of system calls that no crate offers: the only place with `unsafe`.
//!
//! [`poll::poll`] is safe: it is the one way to wait for descriptors.
//!
//! Nothing here decides anything. Each function is one system call, or the few that only make sense together.

pub mod clone;
pub mod memory;
pub mod mount;
pub mod net;
pub mod poll;
pub mod process;
pub mod seccomp;
pub mod syscalls;

use std::io;

/// The result of a raw system call as `io::Result`, reading `errno` when it is −1.
pub(crate) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
