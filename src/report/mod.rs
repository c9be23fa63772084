//! What a call leaves behind: the envelope and the exit code. Sees plain data only.

pub mod code;
pub(crate) mod denial;
mod details;
pub mod envelope;
pub mod render;
mod sandbox;

/// Tells stderr one line, where anybody still reads it: the answer is what counts, and `eprintln!` panics when the pipe, or
/// the journal's stream, is gone.
pub fn complain(message: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    drop(std::io::stderr().write_all(format!("upm: {message}\n").as_bytes()));
}
