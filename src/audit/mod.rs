//! The audit: what is put on record of a call, the sinks that hold it, and reading it back.

pub mod file;
pub mod journald;
pub(crate) mod log;
pub mod record;
pub mod refusals;
pub mod sinks;
pub mod trail;
