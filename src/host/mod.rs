//! What this kernel and machine offer.

pub mod facts;
