//! The only place with `unsafe`: thin wrappers of system calls that no crate offers.

pub mod gateway;
