//! What a call may do. Pure: what it needs of files was read by `config`.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod grant;
