//! What the commands print, and their exit statuses.

use super::terminal::Progress;
use crate::call::Answer;
use crate::report::complain;
use crate::supervise::Watcher;
use crate::text::{escape, escape_json};
use crate::types::Failure;
use std::time::Duration;

/// What a person at a terminal sees meanwhile.
pub(super) struct Screen {
    pub progress: Progress,
    verbose: bool,
}

impl Screen {
    pub fn new(verbose: bool) -> Self {
        Screen { progress: Progress::new(true), verbose }
    }
}

impl Watcher for Screen {
    fn tick(&mut self, elapsed: Duration) {
        self.progress.tick(elapsed);
    }

    fn wants_ticks(&self) -> bool {
        self.progress.enabled()
    }

    fn progress(&mut self, message: &str, fraction: Option<f64>) {
        self.progress.progress(message, fraction);
    }

    fn stderr(&mut self, bytes: &[u8]) {
        if self.verbose {
            self.progress.plugin_stderr(bytes);
        }
    }
}

/// Prints a call's answer.
pub(super) fn answer(answer: &Answer) -> i32 {
    crate::report::render::print(&answer.envelope);
    answer.exit
}

/// Prints a command's text; its exit status is 0 yes, 1 no, or the failure's own.
pub(super) fn show(text: Result<(String, bool), Failure>) -> i32 {
    show_with(text.map(|(text, good)| (text, i32::from(!good))))
}

/// The same of a command that has its own exit status. Text has its controls written out already; JSON leaves those above ASCII as
/// they are, some of which a terminal acts on.
pub(super) fn show_with(text: Result<(String, i32), Failure>) -> i32 {
    match text.map(|(text, exit)| (escape_json(&text), exit)) {
        Ok((text, exit)) => match crate::report::render::write_all(std::io::stdout(), text.as_bytes()) {
            Ok(()) => exit,
            Err(error) => {
                complain(format_args!("standard output: {error}"));
                125
            }
        },
        Err(failure) => failed(&failure),
    }
}

/// Prints why a command failed, and returns its exit status.
pub(super) fn failed(failure: &Failure) -> i32 {
    complain(format_args!("{}", escape(&failure.message, false)));
    crate::report::code::exit_code(failure)
}
