//! What this kernel and machine offer.

pub mod doctor;
pub mod facts;
