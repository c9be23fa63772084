//! gateway
#![forbid(unsafe_code)]
pub mod addresses;
pub mod hello;
pub mod names;
pub mod stub;
