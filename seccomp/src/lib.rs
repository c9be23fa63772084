//! The system call filters: the profiles of this folder, read and compiled to BPF.
//!
//! The engine's `build.rs` reads and compiles them, so a call neither parses nor compiles anything, and an invalid profile
//! fails the build. The engine itself uses only [`bpf`] and [`runtime`].
#![forbid(unsafe_code)]

pub mod bpf;
mod compile;
mod format;
#[cfg(test)]
mod oracle;
mod profile;
mod redundant;
pub mod runtime;
mod table;
#[cfg(test)]
mod tests;

pub use profile::{PROFILES, Profile, ProfileError};
pub use table::{Arch, Table};
