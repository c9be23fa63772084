//! What a call leaves behind: the envelope and the exit code. Sees plain data only.

pub mod code;
pub(crate) mod denial;
mod details;
pub mod envelope;
pub mod render;
mod sandbox;
pub mod text;
