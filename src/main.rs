//! The answer as an exit code, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(u8::try_from(upm::cli::main()).unwrap_or(125))
}
