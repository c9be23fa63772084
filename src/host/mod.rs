//! What this kernel and machine offer.

pub mod callers;
pub mod doctor;
pub mod facts;
