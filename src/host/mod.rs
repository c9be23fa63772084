//! This host: its kernel's features, its users, files and directories.

pub mod callers;
pub mod directories;
pub mod facts;
pub mod grantable;
pub mod owners;
pub mod state;
pub mod writable;
