//! Errors of a configuration, and of who may write it.

use crate::types::{Code, Details, Failure};
use std::fmt;
use std::path::{Path, PathBuf};

/// The kind of a [`ConfigError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigErrorKind {
    /// A file or directory does not exist.
    NotFound,
    /// Someone other than root and the calling user could change it.
    Untrusted,
    /// The operating system refused to open or read it.
    Io,
    /// Its content is invalid.
    Invalid,
}

/// Why a configuration cannot be used: `file:line:column: what, and what was expected`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The kind.
    pub kind: ConfigErrorKind,
    /// The file or directory.
    pub path: PathBuf,
    /// 1-based line and column (in characters), if it is about a place in a file.
    pub place: Option<(usize, usize)>,
    /// What is wrong and what to do.
    pub message: String,
}

impl ConfigError {
    pub(crate) fn new(kind: ConfigErrorKind, path: &Path, message: impl Into<String>) -> Self {
        ConfigError { kind, path: path.to_owned(), place: None, message: message.into() }
    }

    pub(crate) fn at(path: &Path, place: (usize, usize), message: impl Into<String>) -> Self {
        ConfigError {
            kind: ConfigErrorKind::Invalid,
            path: path.to_owned(),
            place: Some(place),
            message: message.into(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", crate::text::shorten(&self.path, 4096))?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let details = Details::File { path: Details::path(&error.path), place: error.place };
        Failure::new(Code::ConfigInvalid, error.to_string()).with(details)
    }
}
