//! What can be wrong with a configuration, and with who may write it.

use crate::types::{Code, Details, Failure};
use std::fmt;
use std::path::{Path, PathBuf};

/// What kind of trouble a [`ConfigError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigErrorKind {
    /// A file or directory is not there.
    NotFound,
    /// Someone other than root and the calling user could change it.
    Untrusted,
    /// The operating system refused to open or read it.
    Io,
    /// Its content cannot be used.
    Invalid,
}

/// Why there is no configuration to go by: `file:line:column: what, and what was expected`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The kind of trouble.
    pub kind: ConfigErrorKind,
    /// The file or directory that it is about.
    pub path: PathBuf,
    /// 1-based line and column (in characters), where there is a place in a file.
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
        write!(f, "{}", crate::quote::shorten(&self.path.to_string_lossy(), 4096))?;
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
