//! What this kernel and machine offer.

pub mod apart;
pub mod callers;
pub mod doctor;
pub mod facts;
