//! A command line that cannot be used.

use crate::text::shorten;
use crate::types::{Code, Details, Failure};
use std::ffi::OsStr;
use std::fmt;
use uuid::Uuid;

/// How every complaint about an incomplete call begins.
pub const USAGE: &str = "Usage: upm <Plugin> <method> [json-args]";

/// The command line cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageError {
    /// The sentence for people.
    pub message: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
    /// The caller's request id, when one could be read.
    pub request_id: Option<Uuid>,
}

impl UsageError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        UsageError { message: message.into(), suggestion: None, request_id: None }
    }

    /// An incomplete or overfull call.
    pub(super) fn call(reason: &str) -> Self {
        UsageError::new(format!("{USAGE}: {reason}"))
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for UsageError {}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Self {
        let details = Details::Usage { usage: USAGE.to_owned(), suggestion: error.suggestion };
        Failure::new(Code::Usage, error.message).with(details)
    }
}

/// A word of the command line, bounded and without what a terminal would act on.
pub(super) fn shown(word: &OsStr) -> String {
    if word.is_empty() { "''".to_owned() } else { shorten(word, 80) }
}
