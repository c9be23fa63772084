//! The system call filters: the profiles of this folder, read and compiled to BPF.
//!
//! The engine's `build.rs` reads and compiles them, so a call neither parses nor compiles anything and a profile that
//! cannot be loaded does not build. The engine itself uses [`bpf`] and [`runtime`] alone.
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
