//! What a call leaves behind: the envelope, the exit code and the audit record. Sees plain data only.

pub mod audit;
pub mod code;
mod denial;
mod details;
pub mod envelope;
pub mod file;
pub mod journald;
pub mod render;
pub mod text;
pub mod trail;
