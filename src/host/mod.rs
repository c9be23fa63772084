//! What this kernel and machine offer.

pub mod callers;
pub mod directories;
pub mod facts;
pub mod grantable;
pub mod owners;
pub mod state;
pub mod writable;
