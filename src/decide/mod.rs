//! Whether a call is allowed, its arguments, and its plan. Pure: no I/O here.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod cost;
pub mod grant;
pub mod learn;
pub mod names;
pub mod places;
pub mod plan;
mod remedies;
pub mod verdict;
