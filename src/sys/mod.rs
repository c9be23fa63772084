//! Thin wrappers of system calls.
pub mod seccomp;
