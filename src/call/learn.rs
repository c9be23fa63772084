//! How `upm learn` is called for a call that was made.
#![forbid(unsafe_code)]

use super::CallArgs;
use crate::text::{shell, single_quoted};

/// The command line that observes this call, for a shell.
pub(super) fn command(args: &CallArgs, arguments: &[u8]) -> String {
    /// Longer arguments are left to the reader.
    const SHOWN: usize = 512;
    let mut line = "upm learn".to_owned();
    for (option, value) in [("--config", &args.config), ("--project", &args.project)] {
        if let Some(value) = value {
            line.push_str(&format!(" {option} {}", shell(value)));
        }
    }
    line.push_str(&format!(" {} {}", args.plugin, shell(&args.method)));
    match std::str::from_utf8(arguments) {
        Ok("{}") => {}
        // Exactly as given: it is JSON, which may hold what a message would not show.
        Ok(text) if text.len() <= SHOWN => line.push_str(&format!(" {}", single_quoted(text.trim()))),
        _ => line.push_str(" -  # the arguments on standard input"),
    }
    line
}
