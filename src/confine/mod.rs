//! Confinement.
pub mod filter;
